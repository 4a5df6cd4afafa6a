"""A contestant for tests, NumPy only: it returns the truth in invented seconds, or misbehaves as the case says."""

import os
import signal
import subprocess
import sys
import time
import types
from typing import Any

from benchmarks import contestants, worker
from benchmarks.contestants import Peer
from benchmarks.contestants.base import Refused
from benchmarks.problem import Answer, Job, Problem, expected

NAME = "Stand-in"
COMPILE_S, PEAK_BYTES, TEMP_BYTES = 0.5, 2048, 1024

# `python -m benchmarks.worker`, but that every peer it knows is the stand-in.
SERVE = """
import sys
from multiprocessing.connection import Connection
from benchmarks import contestants, worker
from tests.benchmarks.stand_ins import StandIn
contestants.load = lambda name: StandIn()
worker.serve(Connection(int(sys.argv[1])), sys.argv[2])
"""


class StandIn:
    """A contestant that is always right."""

    name = NAME

    @property
    def includes(self) -> str:
        """What to know about the process it is in."""
        return f"{os.getpid()} {'with' if 'jax' in sys.modules else 'without'} JAX"

    def build(self, job: Job, problems: list[Problem]) -> "StandInProgram":
        if job.case_name == "refuse":
            raise Refused(f"{NAME} has no {job.cell}")
        if job.case_name == "raise":
            raise TypeError(f"{NAME} breaks")
        if job.case_name == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return StandInProgram(job, problems)


class StandInProgram:
    """The truth. The first call takes a millisecond, and each one a millisecond more than the one before."""

    compile_s, peak_bytes, temp_bytes = COMPILE_S, PEAK_BYTES, TEMP_BYTES

    def __init__(self, job: Job, problems: list[Problem]) -> None:
        self.job, self.problems, self.calls = job, problems, 0

    def answer(self) -> Answer:
        return expected(self.job, self.problems[0])

    def time(self, calls: int) -> list[float]:
        if self.job.case_name == "raise when timed":
            raise ValueError(f"{NAME} has no time")
        if self.job.case_name == "long":
            time.sleep(0.5)
        first, self.calls = self.calls, self.calls + calls
        return [0.001 * number for number in range(first + 1, first + calls + 1)]


def install(monkeypatch: Any) -> None:
    """Makes the stand-in a peer with a process of its own, started and served as PyTorch is."""

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        assert command[:3] == [sys.executable, "-m", "benchmarks.worker"]
        return subprocess.Popen([sys.executable, "-c", SERVE, *command[3:]], **options)

    monkeypatch.setattr(worker, "subprocess", types.SimpleNamespace(Popen=start))
    monkeypatch.setitem(contestants.PEERS, NAME, Peer("stand_in", "numpy", own_process=True))
