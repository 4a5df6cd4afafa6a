"""What the device itself can do, measured: the best rate of matmuls, and of moving memory."""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contestants.base import Refused
from benchmarks.problem import Job, compulsory_bytes, flops
from benchmarks.worker import Remote, RemoteError

SIZES = {"cpu": (512, 1024, 2048), "gpu": (8192,), "tpu": (8192,)}
# From within a core's cache to far beyond the last one of any device.
COPY_BYTES = (2**18, 2**20, 2**22, 2**24, 2**26, 2**28, 2**30)
# Each is tried for so long, and at least twice: other work on the machine is not its limit.
SECONDS = 0.7


class Limits(NamedTuple):
    """Rates of one device.

    Attributes:
      matmul: operations per second, for each dtype.
      copy: bytes read and written per second, for each size of an array in bytes.
    """

    matmul: dict[str, float]
    copy: dict[int, float]

    def bytes_per_s(self, job: Job) -> float:
        """The best rate among arrays no smaller than what the job must move: a small job's data stay in a cache."""
        needed = compulsory_bytes(job)
        return max([rate for size, rate in self.copy.items() if size >= needed] or [self.copy[max(self.copy)]])

    def floor_s(self, job: Job) -> float:
        """Seconds below which the device can't do the job: the matmuls at their best rate, or the memory moved."""
        return max(flops(job) / self.matmul[job.dtype], compulsory_bytes(job) / self.bytes_per_s(job))


def measure(dtypes: list[str], other: Remote | None) -> Limits:
    """Measures the first device.

    Args:
      dtypes: those of the matmuls.
      other: a contestant with a `matmul_seconds` of its own: the better of the two libraries is the limit.
    """
    platform = jax.default_backend()
    sizes = SIZES.get(platform, SIZES["gpu"])
    matmul = {}
    for dtype in dtypes:
        matmul[dtype] = _best_rate(sizes, functools.partial(_matmul_seconds, dtype))
        if other is not None:
            theirs = functools.partial(other.ask, "module", "matmul_seconds", SECONDS, dtype)
            # One that can't will say why in its rows.
            with contextlib.suppress(Refused, RemoteError):
                matmul[dtype] = max(matmul[dtype], _best_rate(sizes, theirs))
    return Limits(matmul, {size: 2 * size / _copy_seconds(size) for size in COPY_BYTES})


def _best_rate(sizes: Sequence[int], seconds: Callable[[int], float]) -> float:
    """The best rate of operations among products of ascending sizes.

    A size is left out where the one before it says that a call would take longer than `SECONDS`: half precision that
    a processor doesn't know is a hundred times slower than float32, and then a large product takes minutes.
    """
    best = 0.0
    for size in sizes:
        taken = seconds(size)
        best = max(best, 2 * size**3 / taken)
        if 8 * taken > SECONDS:
            break
    return best


def _least(run: Callable[[Any], Any], state: Any) -> float:
    """The least seconds of some calls, each given what the one before it returned, behind one that compiles."""
    state = jax.block_until_ready(run(state))
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < SECONDS:
        start = time.perf_counter()
        state = jax.block_until_ready(run(state))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _matmul_seconds(dtype: str, size: int) -> float:
    """One product of two square matrices."""
    random = np.random.default_rng(0)
    # Of such a size that a product of products stays where it is.
    a, b = (jnp.asarray(random.standard_normal((size, size), np.float32) / size**0.5, dtype) for _ in range(2))
    return _least(jax.jit(lambda a: jnp.matmul(a, b)), a)


def _copy_seconds(size: int) -> float:
    """One pass over an array that reads and writes it, in place; many in a loop, so that a call costs nothing."""
    passes = max(4, 2**28 // size)
    loop = jax.jit(lambda a: jax.lax.fori_loop(0, passes, lambda _, a: a + 1, a), donate_argnums=0)
    return _least(loop, jnp.zeros(size // 4, jnp.float32)) / passes
