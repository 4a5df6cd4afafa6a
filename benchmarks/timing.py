"""Timing of compiled JAX functions against each other."""

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class WrongAnswer(Exception):
    """Two functions that must agree do not."""


class Measured(NamedTuple):
    """What one function cost.

    Attributes:
      median_s, q25_s, q75_s: seconds of one call.
      n: number of calls timed.
      compile_s: seconds of ahead-of-time compilation.
      temp_bytes: temporary memory of the compiled program: what it needs beyond arguments and results.
    """

    median_s: float
    q25_s: float
    q75_s: float
    n: int
    compile_s: float
    temp_bytes: int


def compare(
    functions: Mapping[str, Callable[..., Any]],
    args: tuple[Any, ...],
    seconds: float,
    tolerance: float,
    after_round: Callable[[], None] = lambda: None,
) -> dict[str, Measured]:
    """Times functions that must give the same answer, one call of each in turn, for `seconds` in all.

    Raises:
      WrongAnswer: an answer differs from the first function's by more than `tolerance`, relative
        to the largest value of that leaf. A wrong answer is never timed.
    """
    compiled, compile_s = {}, {}
    for name, function in functions.items():
        start = time.perf_counter()
        compiled[name] = jax.jit(function).lower(*args).compile()
        compile_s[name] = time.perf_counter() - start
    answers = {name: jax.block_until_ready(run(*args)) for name, run in compiled.items()}
    first, *others = answers.values()
    for other in others:
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
            error = np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(a)).max()
            if not error <= tolerance:
                raise WrongAnswer(f"answers differ by {error:.2g} of the largest value")

    seconds_of: dict[str, list[float]] = {name: [] for name in compiled}
    end = time.perf_counter() + seconds
    rounds = itertools.count()
    while next(rounds) < 7 or time.perf_counter() < end:
        for name, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*args))
            seconds_of[name].append(time.perf_counter() - start)
        after_round()

    def summary(name: str) -> Measured:
        low, middle, high = np.percentile(seconds_of[name], [25, 50, 75])
        analysis = compiled[name].memory_analysis()
        memory = analysis.temp_size_in_bytes if analysis is not None else -1
        return Measured(float(middle), float(low), float(high), len(seconds_of[name]), compile_s[name], memory)

    return {name: summary(name) for name in compiled}
