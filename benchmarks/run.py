"""Runs the jobs of a suite: builds every contestant, checks its answer, times all, writes rows."""

import datetime
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import tqdm

from benchmarks import contestants, limits, machine, rows
from benchmarks.contestants import PEERS, ours
from benchmarks.contestants.base import Contestant, Program, Refused
from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.limits import Limits
from benchmarks.problem import PROBLEMS, Job, compulsory_bytes, draw, error, flops, parameters, tolerance, truth
from benchmarks.suites import Entry
from benchmarks.timing import Failed, Measured, compare
from benchmarks.worker import Remote, RemoteError


class WrongAnswer(Exception):
    """An answer that is too far from the oracle's; it is never timed."""


class Outcome(NamedTuple):
    """What a run came to.

    Attributes:
      written: rows.
      errors: rows without a time.
      failed: kernels of ours that raised or gave a wrong answer.
      left: jobs that were not begun for want of time.
    """

    written: int
    errors: int
    failed: int
    left: int


class Run:
    """One run: its contestants, its limits, and what all of its rows share."""

    def __init__(self, suite: str, entries: list[Entry], seconds: float, minutes: float | None) -> None:
        self.entries, self.seconds = entries, seconds
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.loaded: dict[str, Contestant] = {}
        self.failed = 0
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.shared = {
            "suite": suite, "run": now, "device": machine.device(), "versions": machine.versions(),
            "commit": machine.commit(),
        }  # fmt: skip

    def measure(self, out: pathlib.Path) -> Outcome:
        """Runs every job, appending its rows to `out` as soon as they are known."""
        written = errors = 0
        longest = 0.0
        try:
            found = self._limits()
            with tqdm.tqdm(total=len(self.entries), unit="job", leave=False, disable=None) as bar:
                for number, entry in enumerate(self.entries):
                    begun = time.monotonic()
                    # The next job may take as long as the longest did; the first one is always run.
                    if number and self.deadline is not None and begun + longest > self.deadline:
                        return Outcome(written, errors, self.failed, len(self.entries) - number)
                    bar.set_description(str(entry.job))
                    new = self._job(entry, found, bar.refresh)
                    longest = max(longest, time.monotonic() - begun)
                    for row in new:
                        rows.append(out, row)
                    written += len(new)
                    errors += sum(row["error"] is not None for row in new)
                    tqdm.tqdm.write(_line(entry.job, new))
                    bar.update()
        finally:
            self.close()
        return Outcome(written, errors, self.failed, 0)

    def close(self) -> None:
        """Ends the processes of peers."""
        for contestant in self.loaded.values():
            if isinstance(contestant, Remote):
                contestant.close()

    def _limits(self) -> Limits:
        """The device's limits, with the matmuls of PyTorch too where it takes part."""
        dtypes = list(dict.fromkeys(entry.job.dtype for entry in self.entries))
        others = {name for entry in self.entries for name in entry.peers if PEERS[name].own_process}
        remotes = [self._load(name) for name in sorted(others) if contestants.missing(name) is None]
        found = limits.measure(dtypes, next((other for other in remotes if isinstance(other, Remote)), None))
        rates = ", ".join(f"{dtype} matmul {rate / 1e9:.0f} GFLOP/s" for dtype, rate in found.matmul.items())
        tqdm.tqdm.write(f"{self.shared['device']}: {rates}, memory {found.copy[max(found.copy)] / 1e9:.0f} GB/s")
        return found

    def _load(self, name: str) -> Contestant:
        """A contestant by its name; kept, since a process of its own takes seconds to start."""
        if name in ours.CONTESTANTS:
            return ours.CONTESTANTS[name]
        if name not in self.loaded:
            reason = contestants.missing(name)
            if reason is not None:
                raise Refused(reason)
            apart = PEERS[name].own_process
            self.loaded[name] = Remote(name, jax.default_backend()) if apart else contestants.load(name)
        return self.loaded[name]

    def _job(self, entry: Entry, found: Limits, refresh: Callable[[], Any]) -> list[rows.Row]:
        """The rows of one job."""
        programs: dict[str, Program] = {}
        new: dict[str, rows.Row] = {}
        for name in (*entry.implementations, *entry.peers):
            new[name] = self._row(entry.job, name, found)
            try:
                program, off = self._build(self._load(name), entry.job)
                new[name].update(
                    max_err=off, compile_s=program.compile_s, peak_bytes=program.peak_bytes,
                    temp_bytes=program.temp_bytes, includes=self._load(name).includes,
                )  # fmt: skip
                programs[name] = program
            except Exception as problem:  # whatever a contestant raises is its row
                self._fail(new[name], problem)
        processes = self._processes()
        before = machine.ticks(processes)
        times = self._time(programs, new, refresh)
        others = machine.used_by_others(before, machine.ticks(processes))
        for name, measured in times.items():
            row = new[name]
            row.update(measured._asdict(), used_by_others=others, share_of_limit=row["floor_s"] / measured.median_s)
        return list(new.values())

    def _build(self, contestant: Contestant, job: Job) -> tuple[Program, float]:
        """A program whose answer is right, and how right."""
        problems = draw(job, PROBLEMS)
        program = contestant.build(job, problems)
        off, allowed = error(program.answer(), truth(job)), tolerance(job, jax.default_backend())
        if not off <= allowed:
            raise WrongAnswer(f"wrong answer: off by {off:.2g} of the largest value, allowed {allowed:.0g}")
        return program, off

    def _time(
        self, programs: dict[str, Program], new: dict[str, rows.Row], refresh: Callable[[], Any]
    ) -> dict[str, Measured]:
        """The times of all programs; one that fails at it is taken out, and the others begin again."""
        while True:
            try:
                return compare(programs, self.seconds, refresh)
            except Failed as failure:
                self._fail(new[failure.name], failure.__cause__)
                del programs[failure.name]

    def _fail(self, row: rows.Row, problem: BaseException | None) -> None:
        """Writes into a row why it has no time."""
        row["error"] = _words(problem)
        # Whether XLA's options hold is XLA's.
        kernel = row["peer"] is None and not IMPLEMENTATIONS[row["implementation"]].gpu_options
        self.failed += kernel and not isinstance(problem, Refused)

    def _processes(self) -> list[int]:
        """Those of this run."""
        remotes = [one for one in self.loaded.values() if isinstance(one, Remote)]
        return [os.getpid(), *(remote.process.pid for remote in remotes if remote.connection is not None)]

    def _row(self, job: Job, name: str, found: Limits) -> rows.Row:
        """A row without figures."""
        peer = name in PEERS
        return dict.fromkeys(rows.FIELDS) | {
            "cell": job.cell, "implementation": None if peer else name, "peer": name if peer else None,
            "case": job.case_name, **job.shape._asdict(), "dtype": job.dtype, "mode": job.mode,
            "parameters": parameters(job), "flops": flops(job), "bytes": compulsory_bytes(job),
            "floor_s": found.floor_s(job), "matmul_flops_per_s": found.matmul[job.dtype],
            "bytes_per_s": found.bytes_per_s(job), "includes": "",
            "process": "own" if peer and PEERS[name].own_process else "shared", **self.shared,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }  # fmt: skip


def _words(problem: BaseException | None) -> str:
    """An exception on one line."""
    text = " ".join(str(problem).split())[:300]
    known = isinstance(problem, (Refused, RemoteError, WrongAnswer))
    return text if known else f"{type(problem).__name__}: {text}"


def _line(job: Job, new: list[rows.Row]) -> str:
    """One job in a line: who took how long."""
    times = [(row["median_s"], rows.contestant(row)) for row in new if row["error"] is None]
    said = ", ".join(f"{name} {seconds * 1e3:.3g}" for seconds, name in sorted(times))
    wrong = [rows.contestant(row) for row in new if row["error"] is not None]
    return f"{job}: {said or '-'} ms" + (f"; no time for {', '.join(wrong)}" if wrong else "")
