"""Programs timed against each other: blocks of calls in turn, until the medians are known well enough."""

import gc
import random
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from benchmarks.contestants.base import Program

# A block lasts about so long: enough for the clock, for caches to be a program's own and for threads to be awake.
BLOCK_SECONDS = 0.03
# Before a block the threads of the one before come to rest: OpenMP's go on spinning for some milliseconds after a call,
# on cores that the next program needs.
REST_SECONDS = 0.02
LEAST_ROUNDS = 5
# The median is known well enough when the half-width of its 95 % interval is below this share of it.
PRECISION = 0.01


class Failed(Exception):
    """A program raised while it was timed; `name` is whose, `__cause__` what it raised."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Measured(NamedTuple):
    """What calls of one program took.

    Attributes:
      median_s, q25_s, q75_s: seconds of one call.
      n: calls timed.
      alone_s: the median of the calls before the others started; much less than `median_s` says that the
        contestants disturb each other.
    """

    median_s: float
    q25_s: float
    q75_s: float
    n: int
    alone_s: float


def compare(
    programs: Mapping[str, Program], seconds: float, after_round: Callable[[], None] = lambda: None
) -> dict[str, Measured]:
    """Times programs for at most about `seconds` each.

    Every program first runs alone: one call that doesn't count, then for a block. Then all take turns, a block each
    after a rest, in another order every round, so that nobody always follows the same neighbour. A program so slow
    that the least number of rounds takes all its seconds runs alone for one call.

    Raises:
      Failed: a program raised.
    """

    def block(name: str, count: int) -> list[float]:
        time.sleep(REST_SECONDS)
        try:
            return programs[name].time(count)
        except Exception as error:
            raise Failed(name) from error

    calls, alone, samples = {}, {}, {}
    for name in programs:
        block(name, 1)
        first = block(name, 1)
        calls[name] = 1
        if LEAST_ROUNDS * first[0] < seconds:
            first = [*first, *block(name, 2)]
            calls[name] = max(1, round(BLOCK_SECONDS / float(np.median(first))))
            first = block(name, max(3, calls[name]))
        alone[name] = float(np.median(first))
        samples[name] = list[float]()
    order, shuffle = list(programs), random.Random(0).shuffle
    end = time.perf_counter() + seconds * len(order)
    rounds = 0
    collecting = gc.isenabled()
    gc.disable()
    try:
        while order and (rounds < LEAST_ROUNDS or (time.perf_counter() < end and not _known(samples))):
            shuffle(order)
            for name in order:
                samples[name] += block(name, calls[name])
            rounds += 1
            after_round()
    finally:
        if collecting:
            gc.enable()
    return {name: _measured(taken, alone[name]) for name, taken in samples.items()}


def _known(samples: Mapping[str, list[float]]) -> bool:
    """Whether every median is known to within `PRECISION`, by its 95 % interval."""
    for taken in samples.values():
        low, middle, high = np.percentile(taken, [25, 50, 75])
        if len(taken) < 20 or half_width(low, high, len(taken)) > PRECISION * middle:
            return False
    return True


def half_width(low: float, high: float, count: int) -> float:
    """Half of the 95 % interval of a median, from the quartiles of so many calls.

    For calls that scatter normally and independently, 1.96 standard errors of a median are 1.82 interquartile ranges
    over the root of their number.
    """
    return float(1.82 * (high - low) / count**0.5)


def _measured(taken: list[float], alone: float) -> Measured:
    """Median and quartiles."""
    low, middle, high = np.percentile(taken, [25, 50, 75])
    return Measured(float(middle), float(low), float(high), len(taken), alone)
