"""Runs that take no time: one small job, invented limits, contestants that do as they are told."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

from benchmarks import rows
from benchmarks.cases import CASES
from benchmarks.limits import Limits
from benchmarks.problem import FORWARD, Job, Problem
from benchmarks.run import Outcome, Run
from benchmarks.suites import Entry
from tests.benchmarks.stand_ins import StandIn, StandInProgram

FIELDS = {
    # Who and what.
    "cell", "implementation", "peer", "case", "T", "B", "D", "H", "dtype", "mode",
    # Measured.
    "median_s", "q25_s", "q75_s", "n", "alone_s", "used_by_others", "compile_s", "peak_bytes", "temp_bytes",
    "share_of_limit", "max_err",
    # Worked out.
    "parameters", "flops", "bytes", "floor_s", "matmul_flops_per_s", "bytes_per_s",
    # Circumstances.
    "includes", "process", "error", "suite", "run", "date", "device", "versions", "commit",
}  # fmt: skip
MEASURED = ("median_s", "q25_s", "q75_s", "n", "alone_s", "share_of_limit")
LIMITS = Limits({"float32": 2e9, "bfloat16": 1e9}, {2**10: 8e9, 2**20: 4e9})


class Stub(StandIn):
    """A right answer in this process, with something done whenever it builds, answers or is timed."""

    includes = "nothing"

    def __init__(self, **before: Callable[[], Any]) -> None:
        self.before = before
        self.builds = 0

    def build(self, job: Job, problems: list[Problem]) -> Any:
        self.builds += 1
        self.before.get("build", lambda: None)()
        program = StandInProgram(job, problems)
        for name in {"answer", "time"} & set(self.before):
            setattr(program, name, self._behind(self.before[name], getattr(program, name)))
        return program

    @staticmethod
    def _behind(before: Callable[[], Any], method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            before()
            return method(*arguments)

        return run


def raising(error: BaseException, calls: int = 1) -> Callable[[], None]:
    """Raises at one of its calls, and at those behind it."""
    left = [calls]

    def act() -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise error

    return act


def entry(*implementations: str, peers: tuple[str, ...] = (), cell: str = "RNN", mode: str = FORWARD) -> Entry:
    """One small job."""
    return Entry(Job(cell, "tiny", CASES["tiny"], "float32", mode), implementations, peers)


def measure(out: pathlib.Path, *entries: Entry, minutes: float | None = None) -> tuple[Outcome, list[rows.Row]]:
    """The outcome of a run that takes no more rounds than it must, and its rows."""
    outcome = Run("a suite", list(entries), 1e-6, minutes).measure(out)
    return outcome, [json.loads(line) for line in out.read_text().splitlines()]
