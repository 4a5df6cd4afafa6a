"""A run in words: what came out, and what to know before one believes it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.markdown import digits, ratio
from benchmarks.rows import Row, contestant, job, measured, newest, spread, uncertainty
from benchmarks.speedups import geometric_mean

# A median so much longer than the same call's alone: the contestants it took turns with got into its way.
SLOWED = 1.5
# Of the processors; more than that taken by other work shows in the times.
DISTURBED = 0.1


def summary(rows: Iterable[Row]) -> str:
    """Where and how it was measured, what the device itself can do, and how far the calls lie apart."""
    found = [row for row in newest(rows) if measured(row)]
    last = max(found, key=lambda row: row["date"])
    packages = ", ".join(map(" ".join, versions(found).items()))
    measurements = f"Commit {last['commit']}, {last['date'][:10]}, {len(found)} measurements."
    lines = [f"{last['device']}; {packages}. {measurements}", limits(found), stability(found), turns(found)]
    return "\n".join(f"- {line}" for line in lines)


def versions(rows: Iterable[Row]) -> dict[str, str]:
    """All packages that rows name, by the alphabet, each with every version it is named with."""
    named: dict[str, set[str]] = {}
    for row in rows:
        for package, version in row["versions"].items():
            named.setdefault(package, set()).add(version)
    return {package: " and ".join(sorted(found)) for package, found in sorted(named.items())}


def limits(rows: Iterable[Row]) -> str:
    """What the device itself can do, as measured: each dtype's newest rate of matmuls, and the traffic of memory."""
    ordered = sorted(rows, key=lambda row: str(row["date"]))
    matmul = {row["dtype"]: row["matmul_flops_per_s"] for row in ordered if row["matmul_flops_per_s"]}
    traffic = [row["bytes_per_s"] for row in ordered if row["bytes_per_s"]]
    known = [f"{digits(rate / 1e9)} GFLOP/s of {dtype} matmuls" for dtype, rate in sorted(matmul.items())]
    if traffic:
        # A small job stays in a cache, so each job has a limit of its own.
        rates = dict.fromkeys(digits(rate / 1e9) for rate in (min(traffic), max(traffic)))
        known.append(f"{' to '.join(rates)} GB/s of memory{', by the size of the job' if len(rates) > 1 else ''}")
    return f"The device's own limits: {', '.join(known) or 'not measured'}."


def stability(rows: Iterable[Row]) -> str:
    """How far the calls of one measurement lie apart, and how well their median is known."""
    found = [row for row in newest(rows) if measured(row)]
    apart, known = (
        [digits(100 * float(share), 2) for share in np.percentile([of(row) for row in found], [50, 90])]
        for of in (spread, uncertainty)
    )
    return (
        f"The middle half of a measurement's calls spreads over {apart[0]} % of the median typically, over "
        f"{apart[1]} % at the 90th percentile of {len(found)} measurements; the median's 95 % interval reaches "
        f"{known[0]} % to either side typically, {known[1]} % at the 90th percentile."
    )


def turns(rows: Iterable[Row]) -> str:
    """By how much taking turns made each contestant's calls longer than they had been alone."""
    known = [row for row in newest(rows) if measured(row) and row["alone_s"]]
    said = [
        f"{who} {ratio(geometric_mean([row['median_s'] / row['alone_s'] for row in group]))}"
        for (who,), group in _grouped(known, lambda row: (contestant(row),)).items()
    ]
    return (
        f"A call took so many times as long in turns as alone, in geometric mean: {', '.join(said) or 'not measured'}."
    )


def left_out(rows: Iterable[Row]) -> str:
    """What the tables leave out, each reason once, and remarks on what they hold."""
    found = newest(rows)
    timed = [row for row in found if measured(row)]
    lines = []
    for (who, why), group in _grouped([row for row in found if not measured(row)], _reason).items():
        lines.append(f"{who} has no time in {_jobs(group)}: {why}")
    for (who, what), _ in _grouped([row for row in timed if row["includes"]], _includes).items():
        lines.append(f"{who}'s time includes: {what}")
    apart = dict.fromkeys(contestant(row) for row in timed if row["process"] == "own")
    lines += [f"timed in a process of its own: {', '.join(apart)}"] if apart else []
    slowed = [row for row in timed if row["alone_s"] and row["median_s"] > SLOWED * row["alone_s"]]
    for (who,), group in _grouped(slowed, lambda row: (contestant(row),)).items():
        worst = max(row["median_s"] / row["alone_s"] for row in group)
        lines.append(f"slowed by its neighbours, up to {digits(worst, 2)} times: {who} in {_jobs(group)}")
    disturbed = [row for row in timed if (row["used_by_others"] or 0) > DISTURBED]
    if disturbed:
        worst = max(row["used_by_others"] for row in disturbed)
        lines.append(
            f"disturbed: other work used up to {worst:.0%} of the processors during {_jobs(disturbed)}; PyTorch's "
            "threads suffer most from that: measure again on a quiet machine before believing these ratios"
        )
    mixed = [group for group in _grouped(timed, job).values() if len({row["run"] for row in group}) > 1]
    if mixed:
        lines.append(
            f"measured in more than one run, so that ratios hold what the machine changed meanwhile: "
            f"{_jobs([group[0] for group in mixed])}"
        )
    return "\n".join(f"- {line}" for line in lines)


def _reason(row: Row) -> tuple[str, str]:
    return contestant(row), " ".join(str(row["error"]).split())


def _includes(row: Row) -> tuple[str, str]:
    return contestant(row), row["includes"]


def _grouped(rows: Sequence[Row], by: Callable[[Row], tuple[Any, ...]]) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(by(row), []).append(row)
    return groups


def _jobs(rows: Sequence[Row]) -> str:
    """Which jobs rows are of: one in full, of several their number and all that occurs in them."""
    found = list(dict.fromkeys(tuple(str(row[part]) for part in ("cell", "mode", "case", "dtype")) for row in rows))
    if len(found) == 1:
        return " ".join(found[0])
    parts = (", ".join(dict.fromkeys(column)) for column in zip(*found, strict=True))
    return f"{len(found)} jobs ({'; '.join(parts)})"
