"""The device's rates are measured, and a job's floor follows from them."""

import types
from typing import Any

import pytest

from benchmarks import limits
from benchmarks.cases import Case
from benchmarks.limits import Limits
from benchmarks.problem import FORWARD, Job


@pytest.mark.usefixtures("small_limits")
def test_measured_limits_are_rates() -> None:
    found = limits.measure(["float32", "bfloat16"], None)
    assert list(found.matmul) == ["float32", "bfloat16"]
    assert list(found.copy) == [2**18, 2**20]
    assert all(0 < rate < 1e18 for rate in (*found.matmul.values(), *found.copy.values()))


def asked_of(seconds: float) -> tuple[list[tuple[Any, ...]], float]:
    """What another library is asked whose products take so long, and the limit that comes of it."""
    asked: list[tuple[Any, ...]] = []
    other: Any = types.SimpleNamespace(ask=lambda *arguments: asked.append(arguments) or seconds)
    return asked, limits.measure(["float32"], other).matmul["float32"]


@pytest.mark.usefixtures("small_limits")
def test_limit_of_matmuls_is_that_of_the_better_library() -> None:
    asked, found = asked_of(1e-30)
    assert asked == [("module", "matmul_seconds", limits.SECONDS, "float32", size) for size in (8, 16)]
    assert found == pytest.approx(2 * 16**3 / 1e-30)
    _, found = asked_of(1e30)
    assert 1.0 < found < 1e18


@pytest.mark.usefixtures("small_limits")
def test_large_matmuls_are_left_out_where_small_ones_take_long() -> None:
    # A product of twice the size is eight times the work.
    asked, _ = asked_of(limits.SECONDS / 8.1)
    assert [size for *_, size in asked] == [8, 16]
    asked, _ = asked_of(limits.SECONDS / 7.9)
    assert [size for *_, size in asked] == [8]


def test_floor_is_of_the_matmuls_or_of_the_memory() -> None:
    # LSTM, T=2 B=3 D=4 H=5, forward: 2160 operations; 314 numbers of 4 bytes (see test_problem).
    job = Job("LSTM", "by hand", Case(2, 3, 4, 5), "float32", FORWARD)
    fast_memory = Limits({"float32": 1000.0}, {2**12: 1e6})
    assert fast_memory.floor_s(job) == 2.16
    fast_matmul = Limits({"float32": 1e9}, {2**12: 628.0})
    assert fast_matmul.floor_s(job) == 2.0
    assert fast_matmul._replace(matmul={"float32": 1e9, "bfloat16": 1e9}).floor_s(job._replace(dtype="bfloat16")) == 1.0


def test_memory_limit_is_the_best_rate_of_arrays_no_smaller() -> None:
    # 1256 bytes.
    job = Job("LSTM", "by hand", Case(2, 3, 4, 5), "float32", FORWARD)
    rate = lambda **copy: Limits({}, {int(size[1:]): float(value) for size, value in copy.items()}).bytes_per_s(job)
    assert rate(_1024=9, _1256=3, _2048=2) == 3.0
    assert rate(_1024=9, _1255=8, _2048=2, _4096=5) == 5.0
    # What is larger than all has the rate of the largest.
    assert rate(_512=9, _1024=4) == 4.0
