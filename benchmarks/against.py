"""What moved between two files of rows, and how much of it was the machine."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from benchmarks.markdown import NOTHING, digits, grid, ratio
from benchmarks.rows import Row, contestant, job, key, measured, newest
from benchmarks.words import versions

SLOWER, FASTER, SAME = "slower", "faster", "same"
FIXED, BROKEN, NO_TIME, NEW, GONE = "fixed", "broken", "no time in both", "new", "gone"


class Change(NamedTuple):
    """One measurement, then and now.

    Attributes:
      row: the newer row; the older one where the measurement is gone.
      old_s, new_s: the medians, None where there is no time.
      verdict: slower or faster only if the quartile ranges lie apart.
      machine: by which factor the times of the peers moved, whose code did not change; None for a peer itself,
        and where no peer tells.
      alone: the verdict, had the old times moved by `machine`.
    """

    row: Row
    old_s: float | None
    new_s: float | None
    verdict: str
    machine: float | None = None
    alone: str | None = None

    @property
    def ratio(self) -> float | None:
        """The new time over the old one."""
        return self.new_s / self.old_s if self.old_s is not None and self.new_s is not None else None

    @property
    def corrected(self) -> float | None:
        """The ratio that is left when the machine's part is taken out."""
        return self.ratio / self.machine if self.ratio is not None and self.machine is not None else None

    @property
    def moved(self) -> bool:
        """Whether either verdict says so."""
        return bool({self.verdict, self.alone} & {SLOWER, FASTER})


# Lower bound, middle and upper bound of the factor by which code that did not change became slower.
Factor = tuple[float, float, float]


class Comparison(NamedTuple):
    """Two files of rows beside each other.

    Attributes:
      changes: one for each measurement.
      drift: quartiles of the factors by which the peers moved; None if no peer was timed in both.
      elsewhere: of each device that only one file knows the number of measurements, which are not compared.
      upgraded: packages of other versions than before, each with the old and the new one.
    """

    changes: list[Change]
    drift: Factor | None
    elsewhere: dict[str, int]
    upgraded: dict[str, tuple[str, str]]


def compare(old_rows: Iterable[Row], new_rows: Iterable[Row]) -> Comparison:
    """Compares the newest rows of two files, measurement by measurement."""
    old, new = ({key(row): row for row in newest(rows)} for rows in (old_rows, new_rows))
    shared = {row["device"] for row in old.values()} & {row["device"] for row in new.values()}
    elsewhere = Counter(row["device"] for row in (*old.values(), *new.values()) if row["device"] not in shared)
    old, new = ({k: row for k, row in found.items() if row["device"] in shared} for found in (old, new))

    moves: dict[object, list[Factor]] = {}
    for k, row in new.items():
        if row["peer"] and k in old and measured(row) and measured(old[k]):
            was = old[k]
            factor = (row["q25_s"] / was["q75_s"], row["median_s"] / was["median_s"], row["q75_s"] / was["q25_s"])
            moves.setdefault(job(row), []).append(factor)
    everywhere = [middle for factors in moves.values() for _, middle, _ in factors]
    drift = None
    if everywhere:
        low, middle, high = map(float, np.percentile(everywhere, [25, 50, 75]))
        drift = (low, middle, high)

    def machine(row: Row) -> Factor | None:
        if row["peer"] or drift is None or job(row) not in moves:
            return None if row["peer"] else drift
        low, middle, high = map(float, np.median(moves[job(row)], axis=0))
        return low, middle, high

    changes = [_change(old.get(k), new.get(k), machine(row)) for k, row in {**old, **new}.items()]
    before, after = versions(old.values()), versions(new.values())
    upgraded = {name: (before[name], after[name]) for name in before if after.get(name, before[name]) != before[name]}
    return Comparison(changes, drift, dict(elsewhere), upgraded)


def _change(old: Row | None, new: Row | None, machine: Factor | None) -> Change:
    row = new or old
    assert row is not None
    old_s, new_s = (each["median_s"] if each else None for each in (old, new))
    if old is None or new is None:
        return Change(row, old_s, new_s, NEW if old is None else GONE)
    if old_s is None or new_s is None:
        verdict = NO_TIME if old_s == new_s else BROKEN if new_s is None else FIXED
        return Change(row, old_s, new_s, verdict)
    if machine is None:
        return Change(row, old_s, new_s, _verdict(old, new))
    return Change(row, old_s, new_s, _verdict(old, new), machine[1], _verdict(old, new, machine))


def _verdict(old: Row, new: Row, machine: Factor = (1.0, 1.0, 1.0)) -> str:
    """A median lies within its quartiles: where these lie apart, also from what the machine may have done, it moved."""
    if new["q25_s"] > old["q75_s"] * machine[2]:
        return SLOWER
    return FASTER if new["q75_s"] < old["q25_s"] * machine[0] else SAME


def render(comparison: Comparison) -> str:
    """The text: the machine's part, what moved by how much, what broke, and counts."""
    parts = _cautions(comparison)
    moved = [change for change in comparison.changes if change.moved]
    if moved:
        parts.append(_table(sorted(moved, key=lambda change: -abs(math.log(change.ratio or 1.0)))))
    for verdict in (BROKEN, FIXED):
        for change in comparison.changes:
            if change.verdict == verdict:
                parts.append(f"{verdict}: {_words(change.row)}: {change.row['error'] or _milliseconds(change.new_s)}")

    def names(verdict: str) -> str:
        who = dict.fromkeys(contestant(change.row) for change in comparison.changes if change.verdict == verdict)
        return f" ({', '.join(who)})" if verdict in (NEW, GONE) else ""

    for title, counts in (
        ("all", Counter(change.verdict for change in comparison.changes)),
        ("ours and scan without the machine's part", Counter(c.alone for c in comparison.changes if c.alone)),
    ):
        said = [
            f"{counts[v]} {v}{names(v)}" for v in (SLOWER, FASTER, SAME, BROKEN, FIXED, NO_TIME, NEW, GONE) if counts[v]
        ]
        parts += [f"{title}: {', '.join(said)}"] if said else []
    return "\n\n".join(parts)


def _cautions(comparison: Comparison) -> list[str]:
    lines = [
        f"not compared, since only one of the files knows the device: {count} measurements of {device}"
        for device, count in comparison.elsewhere.items()
    ]
    if comparison.drift is not None:
        low, middle, high = comparison.drift
        lines.append(
            f"peers moved by a median factor of {middle:.2f} ({low:.2f} to {high:.2f} quartiles): "
            "that much is the machine"
        )
    elif comparison.changes:
        lines.append("no peer was timed in both files: how much the machine itself moved is unknown")
    if comparison.upgraded:
        said = ", ".join(f"{name} {before} to {after}" for name, (before, after) in comparison.upgraded.items())
        lines.append(f"versions moved too, so not all of that is the machine: {said}")
    return lines


def _table(moved: Iterable[Change]) -> str:
    header = (
        "cell", "mode", "case", "dtype", "contestant", "verdict", "without the machine",
        "old ms", "new ms", "new/old", "machine", "left",
    )  # fmt: skip
    lines = [
        [
            *(change.row[part] for part in ("cell", "mode", "case", "dtype")), contestant(change.row), change.verdict,
            change.alone or NOTHING, _number(change.old_s), _number(change.new_s), ratio(change.ratio),
            ratio(change.machine), ratio(change.corrected),
        ]
        for change in moved
    ]  # fmt: skip
    return grid(header, lines, 7)


def _number(seconds: float | None) -> str:
    return digits(None if seconds is None else seconds * 1e3)


def _milliseconds(seconds: float | None) -> str:
    return f"{_number(seconds)} ms"


def _words(row: Row) -> str:
    return " ".join([contestant(row), *(str(row[part]) for part in ("cell", "mode", "case", "dtype"))])
