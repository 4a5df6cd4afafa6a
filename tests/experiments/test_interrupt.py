"""Ctrl-C wherever it comes, and readers that have gone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from experiments.common.interrupt import (
    ONE,
    catch_interrupts,
    exit_status,
    is_read,
    last_words,
    outlive_reader,
    stop_at_once,
)

# A program that presses Ctrl-C.
PRESS = """
import contextlib, gc, os, signal, sys
from experiments.common.interrupt import *

signal.signal(signal.SIGINT, signal.default_int_handler)
stop_at_once()

def press(*_):
    os.kill(os.getpid(), signal.SIGINT)

class Freed:
    __del__ = press

print("said")
"""


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """It raises, also where a shell's `&` has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def program(code: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """A program that presses Ctrl-C; what it prints waits until it is flushed."""
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-c", PRESS + code], env=environment, text=True, timeout=60, **streams)


@pytest.fixture
def nobody() -> Iterator[int]:
    """The end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize(
    "code",
    [
        "press()",
        "Freed()",
        "gc.callbacks.append(press); gc.collect()",
        "with contextlib.suppress(BaseException): press()",
        "import atexit; atexit.register(press)",
    ],
)
def test_interrupt_ends_the_process_wherever_it_comes(code: str) -> None:
    process = program(code + "\nprint('goes on')" * ("atexit" not in code))
    assert (process.returncode, process.stdout, process.stderr) == (130, "said\n", "\nStopped.\n")


def test_last_words_are_those_of_the_moment() -> None:
    within = program("with last_words(lambda: 'Half of it is done.'): press()")
    assert (within.returncode, within.stderr) == (130, "\nHalf of it is done.\n")
    behind = program("with last_words(lambda: 'Half of it is done.'): pass\npress()")
    assert (behind.returncode, behind.stderr) == (130, "\nStopped.\n")
    broken = program("with last_words(lambda: 1 / 0): press()")
    assert (broken.returncode, broken.stderr) == (130, "")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_interrupt_needs_no_reader(stream: str, nobody: int) -> None:
    assert program("press()", **{stream: nobody}).returncode == 130


def test_interrupt_needs_no_stdout() -> None:
    process = program("sys.stdout = None; press()")
    assert (process.returncode, process.stderr) == (130, "\nStopped.\n")


def test_what_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop_at_once()
    with last_words(lambda: "never"):
        ctrl_c()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_without_stop_at_once_it_raises() -> None:
    def press() -> None:
        with last_words(lambda: "never"):
            ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        press()


def test_two_signals_of_one_moment_are_one(capfd: pytest.CaptureFixture[str]) -> None:
    with catch_interrupts() as came:
        assert not came()
        ctrl_c()
        ctrl_c()
        assert came()
    assert capfd.readouterr().err == "\nStopping as soon as this step is saved; once more stops at once.\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_one_does_what_the_first_one_would_do() -> None:
    def twice() -> None:
        with catch_interrupts():
            ctrl_c()
            time.sleep(ONE + 0.05)
            ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        twice()
    process = program(f"import time\nwith catch_interrupts():\n    press(); time.sleep({ONE} + 0.05); Freed()\n")
    assert process.returncode == 130
    assert process.stderr.endswith("once more stops at once.\n\nStopped.\n")


def test_stderr_may_lose_its_reader(nobody: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(nobody, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with outlive_reader():
            print("a bar", file=sys.stderr, flush=True)
            assert not sys.stderr.isatty()
        assert sys.stderr is stream
        with pytest.raises(BrokenPipeError):
            print("a bar", file=sys.stderr, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), nobody)


def test_stdout_that_nobody_reads_is_noticed_once(nobody: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_read()
    with open(nobody, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        print("text")
        assert not is_read()
        # The rest goes nowhere, and that without an error.
        assert is_read()
    monkeypatch.setattr(sys, "stdout", None)
    assert is_read()


def interrupted() -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("command", "status"), [(lambda: 0, 0), (lambda: 2, 2), (interrupted, 130)])
def test_exit_status_is_that_of_the_command(command: Any, status: int) -> None:
    assert exit_status(command) == status


@pytest.mark.parametrize(("given", "status"), [(0, 141), (130, 130)])
@pytest.mark.parametrize("flush", [False, True], ids=["at the end", "at once"])
def test_exit_status_of_what_nobody_reads(
    given: int, status: int, flush: bool, nobody: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> int:
        print("text", flush=flush)
        return given

    with open(nobody, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert exit_status(command) == (141 if flush else status)
