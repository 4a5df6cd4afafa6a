"""The tables of a run: who did what in which time, and how many times as fast ours is."""

import collections
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.cells import HEADLINE
from benchmarks.markdown import NOTHING, digits, grid, ratio
from benchmarks.problem import DTYPES, GRADIENT, MEANING, MODES
from benchmarks.rows import BASELINE, Row, case, contestant, job, measured, middle, newest, ours, spread, throughput
from benchmarks.speedups import Standing, cell_order, geometric_mean, rivals, standings


def headline(rows: Iterable[Row]) -> str:
    """All that is known of every contestant on the headline's cells, the fastest first.

    Of each mode there is one case: that which most contestants have done.
    """
    timed = [row for row in newest(rows) if measured(row) and row["cell"] in HEADLINE]
    blocks = []
    for mode in modes(timed):
        count = collections.Counter(_setting(row) for row in timed if row["mode"] == mode)
        # Of equals the middle of the sweeps, then the first in the file, which is what `max` takes.
        best = max(count, key=lambda found: (count[found], found[-1]))
        blocks.append(_headline([row for row in timed if row["mode"] == mode and _setting(row) == best]))
    return "\n\n".join(blocks)


def _setting(row: Row) -> tuple[Any, ...]:
    return row["case"], case(row), row["dtype"], middle(row)


def _headline(rows: list[Row]) -> str:
    unit, scale = _unit(rows)
    lines = []
    for row in sorted(rows, key=lambda row: (*cell_order(row), row["median_s"])):
        seconds, (steps, batch, _, _) = row["median_s"], case(row)
        share, error = row["share_of_limit"], row["max_err"]
        lines.append([
            row["cell"], contestant(row), digits(seconds * scale), digits(1 / seconds), digits(batch / seconds),
            digits(throughput(row)), digits(seconds / steps * 1e6), f"{row['parameters']:,}",
            digits(row["flops"] / seconds / 1e9), f"{row['n']:,}", f"{spread(row):.0%}",
            NOTHING if row["compile_s"] is None else f"{row['compile_s']:.2f}",
            NOTHING if share is None else digits(100 * share, 2), NOTHING if error is None else f"{error:.0e}",
        ])  # fmt: skip
    first = rows[0]
    title = f"**{first['mode']}**, {first['case']}: {case(first)}, {first['dtype']} ({MEANING[first['mode']]})"
    header = (
        "cell", "contestant", unit, "calls/s", "sequences/s", "time steps/s", "µs/step", "parameters",
        "GFLOP/s", "n", "spread", "compile s", "% of limit", "error",
    )  # fmt: skip
    return f"{title}\n\n{grid(header, lines, 2)}"


def overview(rows: Iterable[Row]) -> str:
    """For each mode, dtype and cell how many times as fast ours is, in geometric mean over the cases."""
    found = standings(rows)
    names = rivals(found)
    lines = []
    for (mode, dtype, cell), chosen in _races(found, "mode", "dtype", "cell").items():
        columns = [[standing.over(name) for standing in chosen] for name in names]
        columns += [[standing.over_fastest_peer() for standing in chosen], [standing.memory() for standing in chosen]]
        lines.append([mode, dtype, cell, str(len(chosen)), *(_mean(column) for column in columns)])
    if not lines:
        return ""
    title = (
        "How many times as fast as each of the others our fastest kernel is, in geometric mean over the cases, or over "
        f"so many of them; below 1 it is slower. The last column is its temporary memory over that of {BASELINE}"
    )
    return f"{title}:\n\n{grid(('mode', 'dtype', 'cell', 'cases', *names, 'fastest peer', 'memory'), lines, 3)}"


def _mean(ratios: Sequence[float | None]) -> str:
    """The geometric mean; where it is of some cases only, with their number behind it."""
    known = sum(each is not None for each in ratios)
    return ratio(geometric_mean(ratios)) + (f" of {known}" if 0 < known < len(ratios) else "")


def against_each(rows: Iterable[Row]) -> str:
    """For each mode, dtype and rival how often ours is ahead of it, and by how much; each over the jobs of both."""
    lines = []
    for (mode, dtype), chosen in _races(standings(rows), "mode", "dtype").items():
        names = rivals(chosen)
        ratios = {name: [standing.over(name) for standing in chosen] for name in names}
        if len(names) - (BASELINE in names) > 1:
            ratios["fastest peer"] = [standing.over_fastest_peer() for standing in chosen]
        for name, found in ratios.items():
            known = [each for each in found if each is not None]
            ahead = sum(each > 1 for each in known)
            numbers = (geometric_mean(known), min(known), max(known))
            lines.append([mode, dtype, name, str(len(known)), str(ahead), *map(ratio, numbers)])
    if not lines:
        return ""
    title = (
        "In how many jobs our fastest kernel meets each of the others, in how many it is ahead, and how many times as "
        "fast it is: in geometric mean, at least and at most"
    )
    return f"{title}:\n\n{grid(('mode', 'dtype', 'against', 'jobs', 'ahead', 'mean', 'least', 'most'), lines, 3)}"


def _races(found: Iterable[Standing], *parts: str) -> dict[tuple[str, ...], list[Standing]]:
    """Standings by mode, dtype and what else is asked for, modes and dtypes in their order."""
    races: dict[tuple[str, ...], list[Standing]] = {}
    for standing in sorted(found, key=lambda s: (MODES.index(s.best["mode"]), DTYPES.index(s.best["dtype"]))):
        races.setdefault(tuple(standing.best[part] for part in parts), []).append(standing)
    return races


def comparison(rows: Iterable[Row], mode: str) -> str:
    """For each cell and case how many times as fast our fastest is as each of the others; "" without such rows."""
    found = [standing for standing in standings(rows) if standing.best["mode"] == mode]
    if not found:
        return ""
    unit, scale = _unit([standing.best for standing in found])
    names = rivals(found)
    lines = [
        [*_place(best), contestant(best), digits(best["median_s"] * scale)]
        + [ratio(standing.over(name)) for name in names]
        for standing in found
        for best in [standing.best]
    ]

    # Dtypes are not mixed: half precision is another race.
    groups: dict[tuple[str, str], list[Standing]] = {}
    for cell in (*dict.fromkeys(standing.best["cell"] for standing in found), "all"):
        for standing in found:
            if cell in ("all", standing.best["cell"]):
                groups.setdefault((cell, standing.best["dtype"]), []).append(standing)
    for (cell, dtype), chosen in groups.items():
        if cell == "all" or len(chosen) > 1:
            means = (geometric_mean([standing.over(name) for standing in chosen]) for name in names)
            lines.append([cell, "geometric mean", "", dtype, "", "", *map(ratio, means)])
    title = f"**{mode}**: how many times as fast as each of the others our fastest kernel is; below 1 it is slower"
    return f"{title}\n\n{grid(('cell', 'case', 'shape', 'dtype', 'kernel', unit, *names), lines, 5)}"


def memory(rows: Iterable[Row]) -> str:
    """Temporary memory of each of our kernels beside that of the baseline; "" without such rows."""
    known = [row for row in newest(rows) if row["mode"] == GRADIENT and measured(row) and row["temp_bytes"] is not None]
    baseline = {job(row): row["temp_bytes"] for row in known if row["implementation"] == BASELINE}
    lines = []
    for row in sorted(filter(ours, known), key=cell_order):
        other = baseline.get(job(row))
        mebibytes = [None if count is None else count / 2**20 for count in (row["temp_bytes"], other)]
        share = row["temp_bytes"] / other if other else None
        lines.append([*_place(row), contestant(row), *map(digits, mebibytes), digits(share, 2)])
    if not lines:
        return ""
    title = (
        f"**memory**, mode {GRADIENT}: what the compiled program needs beyond arguments and results; "
        f"ratio: ours over {BASELINE}"
    )
    header = ("cell", "case", "shape", "dtype", "kernel", "ours MiB", f"{BASELINE} MiB", "ratio")
    return f"{title}\n\n{grid(header, lines, 5)}"


def modes(rows: Iterable[Row]) -> list[str]:
    """The modes that rows are of, in their order."""
    return sorted({row["mode"] for row in rows}, key=MODES.index)


def _place(row: Row) -> list[str]:
    return [row["cell"], row["case"], str(case(row)), row["dtype"]]


def _unit(rows: Iterable[Row]) -> tuple[str, float]:
    """The unit in which most of the times read well, and what a second is in it."""
    return ("ms", 1e3) if np.median([row["median_s"] for row in rows]) >= 1e-3 else ("µs", 1e6)
