"""Tables of texts: CSV, TSV and JSON lines, plain or gzipped."""

import csv
import gzip
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, TextIO

from experiments.common.cli import UsageError

KINDS = (".csv", ".tsv", ".jsonl")


def kind(path: pathlib.Path) -> str:
    """The suffix of a file, without that of its compression."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def read_columns(option: str, path: pathlib.Path, columns: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The texts of some columns, row by row, each with the number of the line that it ends on.

    Bytes that are not UTF-8 become U+FFFD. In a TSV file a quotation mark is a sign like others.

    Args:
      option: the option that named the file, for errors.
      path: a `.csv` or `.tsv` file whose first line names the columns, or a `.jsonl` file of objects; also `.gz`.
      columns: their names.

    Raises:
      UsageError: the file can't be read, or has no such column.
    """
    if not path.is_file():
        raise UsageError(f"--{option}: expected a file, found no {path}")
    if kind(path) not in KINDS:
        raise UsageError(f"--{option}: expected a file of the kind {', '.join(KINDS)} (also .gz), got {path.name}")
    empty = True
    try:
        with open_text(path) as file:
            for line, row in _json(file) if kind(path) == ".jsonl" else _separated(file, kind(path)):
                missing = [name for name in columns if row.get(name) is None]
                if missing:
                    # A row that is too short has None in its last columns.
                    there = ", ".join(repr(name) for name, value in row.items() if value is not None) or "none"
                    raise UsageError(
                        f"--{option}: expected the column {missing[0]!r} in line {line} of {path}, which has {there}"
                    )
                empty = False
                yield line, tuple(str(row[name]) for name in columns)
    except (OSError, EOFError, zlib.error, csv.Error, ValueError) as error:
        raise UsageError(f"--{option}: {path} can't be read: {error}") from error
    if empty:
        raise UsageError(f"--{option}: expected rows, {path} has none")


def read_lines(path: pathlib.Path) -> list[str]:
    """The lines of a text; of its signs only a line break ends one."""
    with open_text(path) as file:
        lines = [line.rstrip("\r\n") for line in file.read().split("\n")]
    return lines if lines[-1] else lines[:-1]


def open_text(path: pathlib.Path) -> TextIO:
    """A file of text, gzipped or not."""
    opening: Any = gzip.open if path.suffix == ".gz" else open
    file: TextIO = opening(path, "rt", encoding="utf-8-sig", errors="replace", newline="")
    return file


def _separated(file: TextIO, suffix: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a CSV or TSV file."""
    # The limit is for one field, and a text may be long.
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(file, dialect="excel") if suffix == ".csv" else csv.DictReader(
        file, delimiter="\t", quoting=csv.QUOTE_NONE
    )  # fmt: skip
    for row in reader:
        row.pop(None, None)  # type: ignore[call-overload]
        yield reader.line_num, row


def _json(file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a file of JSON lines."""
    for number, line in enumerate(file, 1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"expected an object in line {number}, found a {type(row).__name__}")
            yield number, row
