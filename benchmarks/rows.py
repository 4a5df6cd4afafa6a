"""Rows: one measurement each, a JSON object on a line of a file that only ever grows."""

import json
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

from benchmarks.cases import MIDDLE, Case
from benchmarks.problem import STEP
from benchmarks.timing import half_width

Row = dict[str, Any]
# What a row holds, in this order; README.md says what it means.
FIELDS = (
    "cell", "implementation", "peer", "case", "T", "B", "D", "H", "dtype", "mode",
    "median_s", "q25_s", "q75_s", "n", "alone_s", "used_by_others", "compile_s", "peak_bytes", "temp_bytes",
    "share_of_limit", "max_err",
    "parameters", "flops", "bytes", "floor_s", "matmul_flops_per_s", "bytes_per_s",
    "includes", "process", "error", "suite", "run", "device", "versions", "commit", "date",
)  # fmt: skip
# What one writes without this library: the contestant that our kernels are held against.
BASELINE = "scan"


def append(path: pathlib.Path, row: Row) -> None:
    """Adds a row at the end of the file, on a line of its own even where a killed run left half a line."""
    with path.open("a+b") as file:
        end = file.seek(0, 2)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")


def read(path: pathlib.Path) -> list[Row]:
    """All rows, the oldest first; a line that a killed run left unfinished is left out, which stderr is told.

    Raises:
      ValueError: another line is no JSON object.
    """
    rows, unfinished = [], []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if line.startswith("{") and not line.endswith("}"):
                unfinished.append(str(number))
                continue
            raise ValueError(f"{path}, line {number}: expected a JSON object, got {line[:40]!r}") from None
    if unfinished:
        print(
            f"note: {path}: rows left out, unfinished since a run was killed: {len(unfinished)}, in line "
            f"{', '.join(unfinished)}",
            file=sys.stderr,
        )
    return rows


def contestant(row: Row) -> str:
    """Who was measured: the name of a kernel of ours or of a peer."""
    return str(row["implementation"] or row["peer"])


def case(row: Row) -> Case:
    """The shape."""
    return Case(*(row[letter] for letter in Case._fields))


def key(row: Row) -> tuple[Any, ...]:
    """What two measurements must share to be the same one, repeated: the shape, whatever the case is called."""
    return (row["mode"], row["cell"], case(row), row["dtype"], row["device"], contestant(row))


def newest(rows: Iterable[Row]) -> list[Row]:
    """Of every measurement the last one, in the order in which they first came."""
    return list({key(row): row for row in rows}.values())


def measured(row: Row) -> bool:
    """Whether the row holds a time; else its `error` says why not."""
    return row["median_s"] is not None


def ours(row: Row) -> bool:
    """Whether this library's own work was measured: neither a peer nor the baseline."""
    return row["implementation"] not in (None, BASELINE)


def job(row: Row) -> tuple[Any, ...]:
    """What contestants must share to be compared: the key without the contestant."""
    return key(row)[:-1]


def is_of(row: Row, shapes: Iterable[Case]) -> bool:
    """Whether this is one of these shapes; of them a single step leaves only T out."""
    return any(case(row) == (shape._replace(T=1) if row["mode"] == STEP else shape) for shape in shapes)


def middle(row: Row) -> bool:
    """Whether this is the shape that all sweeps share."""
    return is_of(row, [MIDDLE])


def throughput(row: Row) -> float:
    """Time steps of all rows of the batch, a second."""
    return case(row).T * case(row).B / float(row["median_s"])


def spread(row: Row) -> float:
    """The distance between the quartiles, over the median."""
    return float((row["q75_s"] - row["q25_s"]) / row["median_s"])


def uncertainty(row: Row) -> float:
    """The half-width of the median's 95 % interval, over the median."""
    return half_width(row["q25_s"], row["q75_s"], row["n"]) / float(row["median_s"])
