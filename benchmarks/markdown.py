"""Markdown that also reads well in a terminal."""

import math
import re
from collections.abc import Mapping, Sequence

NOTHING = "-"
_START, _END = re.compile(r"<!-- table (.+) -->"), "<!-- end of table -->"


def grid(header: Sequence[str], lines: Sequence[Sequence[str]], words: int) -> str:
    """A table whose cells are padded; the first `words` columns are words, the others numbers, set to the right."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (c.ljust(w) if i < words else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 2) if i < words else "-" * (w + 1) + ":" for i, w in enumerate(widths))
    return "\n".join([line(header), f"|{rule}|", *map(line, lines)])


def digits(value: float | None, count: int = 3) -> str:
    """A number with so many digits that count, whole ones in full: `0.0123`, `1.23`, `1,234`; a dash for None."""
    if value is None:
        return NOTHING
    places = 0 if value == 0 else max(0, count - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def ratio(value: float | None) -> str:
    """A ratio near 1 with two decimals, a large one with three digits; a dash for None."""
    return digits(value) if value is None or value >= 1 else f"{value:.2f}"


def fill(text: str, tables: Mapping[str, str]) -> str:
    """The text with each table put between its two marks, `<!-- table NAME -->` and `<!-- end of table -->`.

    Raises:
      ValueError: there is no table of that name, or a mark is missing.
    """
    filled: list[str] = []
    inside: str | None = None
    for number, line in enumerate(text.split("\n"), 1):
        start = _START.fullmatch(line.strip())
        if start and inside is not None:
            raise ValueError(f"line {number}: expected {_END} after table {inside}, got {line.strip()}")
        if start:
            inside = start[1]
            if inside not in tables:
                raise ValueError(f"line {number}: expected a table of {', '.join(tables)}, got {inside}")
            # Markdown wants an empty line on either side of a table.
            filled += [line, "", tables[inside], ""]
        elif line.strip() == _END:
            if inside is None:
                raise ValueError(f"line {number}: found {_END} without a <!-- table NAME --> before it")
            inside = None
            filled.append(line)
        elif inside is None:
            filled.append(line)
    if inside is not None:
        raise ValueError(f"expected {_END} after table {inside}, got the end of the text")
    return "\n".join(filled)
