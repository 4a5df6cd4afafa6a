"""Ctrl-C where Python drops what it raises, and the end of a process behind it."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from experiments.common.interrupt import INTERRUPTED, repeat_lost_interrupts


class Freed:
    """Calls a function while it is freed."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def __del__(self) -> None:
        self.function()


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C raises also where a shell's `&` has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def lost_in_a_destructor() -> None:
    Freed(ctrl_c)


def lost_in_a_callback_of_the_collector() -> None:
    def callback(phase: str, info: Any) -> None:
        gc.callbacks.remove(callback)
        ctrl_c()

    gc.callbacks.append(callback)
    gc.collect()


def lost_twice() -> None:
    """The one that comes back finds an object that is being freed, too."""
    Freed(lambda: (Freed(ctrl_c), time.sleep(0.1)))


def begin_and_wait(lose: Callable[[], None]) -> None:
    with repeat_lost_interrupts():
        lose()
        # Ends as soon as an interrupt is here.
        time.sleep(30)


@pytest.mark.parametrize("lose", [lost_in_a_destructor, lost_in_a_callback_of_the_collector, lost_twice])
def test_lost_interrupt_comes_back(lose: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    hook = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt):
        begin_and_wait(lose)
    assert capsys.readouterr().err == ""
    assert sys.unraisablehook is hook
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_other_exceptions_that_are_lost_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: told.append(lost.exc_type))
    with repeat_lost_interrupts():
        Freed(lambda: 1 / 0)
    assert told == [ZeroDivisionError]


# Whether anything is torn down shows in a function that is called at the end.
LEAVE = "import atexit, sys; from experiments.common.interrupt import leave; atexit.register(print, 'torn down'); "
LEAVE += "print('said'); leave(int(sys.argv[1]))"


@pytest.mark.parametrize(
    ("status", "said"), [(0, "said\ntorn down\n"), (2, "said\ntorn down\n"), (INTERRUPTED, "said\n")]
)
def test_leave_tears_nothing_down_behind_an_interrupt(status: int, said: str) -> None:
    process = subprocess.run([sys.executable, "-c", LEAVE, str(status)], capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (status, said, "")


def test_leave_behind_an_interrupt_needs_no_reader() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-c", LEAVE, str(INTERRUPTED)],
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # what is printed waits for `leave`
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    assert (process.returncode, process.stderr) == (INTERRUPTED, b"")
