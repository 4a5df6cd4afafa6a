"""What a contestant is: one implementation of a layer, ours or a peer's, that can be built, checked and timed."""

from collections.abc import Sequence
from typing import Protocol

from benchmarks.problem import Answer, Job, Problem


class Refused(Exception):
    """A contestant can't do this job; the message says why. It becomes a row without a time."""


class Program(Protocol):
    """One function with its data, ready to run."""

    @property
    def compile_s(self) -> float | None:
        """Seconds of ahead-of-time compilation; None where nothing is compiled ahead."""

    @property
    def peak_bytes(self) -> int | None:
        """Memory of arguments, results and temporaries; None where it can't be known."""

    @property
    def temp_bytes(self) -> int | None:
        """Memory of the temporaries alone."""

    def answer(self) -> Answer:
        """The answer to the first problem, in the names and shapes of `problem.expected`."""

    def time(self, calls: int) -> list[float]:
        """Seconds of each of so many calls, each waited for; the problems are taken in turn."""


class Contestant(Protocol):
    """One way to compute a layer."""

    @property
    def name(self) -> str:
        """How rows and tables call it."""

    @property
    def includes(self) -> str:
        """What a timed call does that another contestant's may not, in words; "" if nothing."""

    def build(self, job: Job, problems: Sequence[Problem]) -> Program:
        """Compiles the function of `job`.

        Raises:
          Refused: this contestant can't do it.
        """
