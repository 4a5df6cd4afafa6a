"""The report of a file of rows: tables and words to the terminal and to a file, and pictures beside it."""

import pathlib
from collections.abc import Iterable

from benchmarks import against as moves
from benchmarks import pictures
from benchmarks.markdown import fill
from benchmarks.problem import DTYPES, MODES
from benchmarks.rows import FIELDS, Row, measured, read
from benchmarks.tables import against_each, comparison, headline, memory, modes, overview
from benchmarks.words import left_out, summary


def show(
    path: pathlib.Path,
    against: pathlib.Path | None = None,
    pictures_dir: pathlib.Path | None = None,
    into: pathlib.Path | None = None,
) -> None:
    """Prints the report, and writes it beside its pictures.

    Args:
      path: the file of rows.
      against: older rows; the report then begins with what moved.
      pictures_dir: the folder for pictures and `report.md`; by default the file's name without its ending.
      into: a Markdown file whose marked tables are renewed, as by `fill`.

    Raises:
      ValueError: a file is missing or holds nothing to show, or a folder can't be made.
    """
    everything = load(path)
    rows, remark = of_one_device(everything)
    text = "\n\n".join(f"## {name}\n\n{table}" for name, table in tables(rows).items() if table)
    if against is not None:
        moved = moves.render(moves.compare(load(against), everything))
        text = f"## against {against.name}\n\n{moved}\n\n{text}"
    text = f"{remark}\n\n{text}" if remark else text
    filled = None if into is None else _filled(into, tables(rows))

    folder = pictures_dir or (path.with_suffix("") if path.suffix else path.with_name(f"{path.name}-report"))
    report = folder / "report.md"
    if folder.is_dir() and not _replaceable(report, path):
        raise ValueError(f"--pictures: expected a new folder, or that of a report of {path.name}, got {folder}")
    try:
        drawn = pictures.draw(rows, folder)
        links = "".join(f"\n![{file.stem}]({file.name})\n" for file in drawn)
        _write(report, f"# {path.name}\n\n{text}\n{links}")
    except OSError as error:
        raise ValueError(f"can't write the report: {error}") from None
    written = [*drawn, report]
    if into is not None and filled is not None:
        _write(into, filled)
        written.append(into)
    print(text, "\nwritten:", *(f"  {file}" for file in written), sep="\n")


def _replaceable(report: pathlib.Path, path: pathlib.Path) -> bool:
    """Whether a folder is one of an earlier report of these rows, or holds nothing."""
    if not report.exists():
        return not any(report.parent.iterdir())
    return report.read_text().startswith(f"# {path.name}\n")


def _filled(path: pathlib.Path, found: dict[str, str]) -> str:
    """The text of a Markdown file with its tables renewed."""
    try:
        text = path.read_text()
        filled = fill(text, found)
    except OSError:
        raise ValueError(f"--into: expected a Markdown file, found no {path}") from None
    except ValueError as error:
        raise ValueError(f"--into: {path}: {error}") from None
    if "<!-- table " not in text:
        raise ValueError(f"--into: {path}: expected marks such as <!-- table overview -->, found none")
    return filled


def tables(rows: Iterable[Row]) -> dict[str, str]:
    """Every table by the name that `fill` knows it by, in the order in which they are shown; "" where it is empty."""
    rows = list(rows)
    return {
        "summary": summary(rows),
        "overview": overview(rows),
        "against each": against_each(rows),
        "headline": headline(rows),
        **{f"comparison {mode}": comparison(rows, mode) for mode in modes(rows)},
        "memory": memory(rows),
        "left out": left_out(rows),
    }


def load(path: pathlib.Path) -> list[Row]:
    """The rows of a file.

    Raises:
      ValueError: there is no such file, or nothing in it to show.
    """
    if not path.is_file():
        raise ValueError(f"expected a file of rows, found no {path}")
    try:
        rows = read(path)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected a file of rows, got one that is not text") from None
    for row in rows:
        missing = [name for name in FIELDS if not isinstance(row, dict) or name not in row]
        if missing:
            raise ValueError(f"{path}: expected rows as `run` writes them, found one without {missing[0]}")
        for name, known in (("mode", MODES), ("dtype", DTYPES)):
            if row[name] not in known:
                raise ValueError(f"{path}: expected {name} to be one of {', '.join(known)}, got {row[name]!r}")
    if not any(map(measured, rows)):
        why = f"; the last one says: {rows[-1]['error']}" if rows else ""
        raise ValueError(f"{path}: none of its {len(rows)} rows holds a time{why}")
    return rows


def of_one_device(rows: list[Row]) -> tuple[list[Row], str]:
    """The rows of the device that was measured last, and a remark if there are others."""
    device = [row["device"] for row in rows if measured(row)][-1]
    others = sorted({row["device"] for row in rows} - {device})
    remark = f"Of {device} alone; the file holds rows of {', '.join(others)} too." if others else ""
    return [row for row in rows if row["device"] == device], remark


def _write(path: pathlib.Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
