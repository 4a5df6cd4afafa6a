"""How many times as fast the fastest of ours is as each of the others, job by job."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.cells import HEADLINE
from benchmarks.problem import DTYPES
from benchmarks.rows import BASELINE, Row, contestant, job, measured, newest, ours


class Standing(NamedTuple):
    """One job.

    Attributes:
      best: the row of the fastest of ours; of the baseline where no other kernel can do the job.
      others: the rows of the baseline and of the peers, by name.
    """

    best: Row
    others: dict[str, Row]

    def over(self, name: str) -> float | None:
        """How many times as fast ours is; None where the other has no time."""
        return self.others[name]["median_s"] / self.best["median_s"] if name in self.others else None

    def over_fastest_peer(self) -> float | None:
        """The same against whichever peer is fastest at this job."""
        peers = [name for name in self.others if name != BASELINE]
        return self.over(min(peers, key=lambda name: self.others[name]["median_s"])) if peers else None

    def memory(self) -> float | None:
        """The temporary memory of ours over that of the baseline; None where one of them is unknown or nothing."""
        other = self.others.get(BASELINE)
        counts = (self.best["temp_bytes"], other and other["temp_bytes"])
        return counts[0] / counts[1] if all(counts) else None


def standings(rows: Iterable[Row]) -> list[Standing]:
    """One for each job that ours and another have done, cell by cell."""
    jobs: dict[object, list[Row]] = {}
    for row in filter(measured, newest(rows)):
        jobs.setdefault(job(row), []).append(row)
    found = []
    for done in jobs.values():
        mine = [row for row in done if ours(row)] or [row for row in done if row["implementation"] == BASELINE]
        others = {contestant(row): row for row in done if not ours(row) and row not in mine}
        if mine and others:
            found.append(Standing(min(mine, key=lambda row: row["median_s"]), others))
    return sorted(found, key=lambda standing: (cell_order(standing.best), DTYPES.index(standing.best["dtype"])))


def cell_order(row: Row) -> tuple[int, str]:
    """Sorts rows by cell: those of the headline first, the others by name."""
    cell = row["cell"]
    return (HEADLINE.index(cell), "") if cell in HEADLINE else (len(HEADLINE), cell)


def rivals(found: Iterable[Standing]) -> list[str]:
    """The names in `others`: the baseline first, then the peers by the alphabet."""
    return sorted({name for standing in found for name in standing.others}, key=lambda n: (n != BASELINE, n.lower()))


def geometric_mean(ratios: Sequence[float | None]) -> float | None:
    """The mean of the ratios that are there; None if there are none."""
    known = [ratio for ratio in ratios if ratio is not None]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else None
