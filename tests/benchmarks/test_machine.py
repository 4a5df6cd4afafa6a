"""How much of the machine other work took."""

import os

import pytest

from benchmarks import machine


def test_share_of_others_is_what_is_busy_and_not_ours() -> None:
    before, after = machine.Ticks(1000, 400, 100), machine.Ticks(1200, 520, 170)
    assert machine.used_by_others(before, after) == 50 / 200
    # Clocks are rounded: ours may seem to have used more than was used.
    assert machine.used_by_others(before, machine.Ticks(1200, 460, 170)) == 0.0
    assert machine.used_by_others(None, after) is None


def test_ticks_know_this_process() -> None:
    found = machine.ticks([os.getpid()])
    if found is None:
        pytest.skip("this system has no /proc/stat")
    assert 0 < found.own <= found.busy <= found.total
    assert machine.ticks([2**30]) is None
