"""Ctrl-C: at once, or, where work would be lost, as soon as it is saved.

Nothing heavy is imported here, so that a program can take this in before all else.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

# The exit status after Ctrl-C, and where nobody reads the output, by the custom of shells.
INTERRUPTED, UNREAD = 130, 141
# Seconds within which two signals are one Ctrl-C: whoever starts a program may hand it on, and the terminal sends its
# own.
ONE = 0.3


def stop_at_once() -> None:
    """Lets Ctrl-C end this process from now on, by its first signal and wherever it is.

    KeyboardInterrupt, which Python would raise, does not: it is dropped where an object is freed, in a callback of the
    garbage collector, of which JAX has one, and by `except: pass`; compiled code that is imported, and JAX that is torn
    down while it compiles in another thread, crash of it. What is on disk has to be sound at any time all the same,
    since a process may be killed.
    """
    # Behind a shell's `&` it is ignored, and stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _Stop(lambda: "Stopped."))


@contextlib.contextmanager
def last_words(words: Callable[[], str]) -> Iterator[None]:
    """What Ctrl-C says here, where it stops at once."""
    before = signal.getsignal(signal.SIGINT)
    if not isinstance(before, _Stop):
        yield
        return
    signal.signal(signal.SIGINT, _Stop(words))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def catch_interrupts() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C (or SIGTERM) came; a second one does what the first one would do."""
    came: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(time.monotonic())
        if len(came) == 1:
            _write("\nStopping as soon as this step is saved; once more stops at once.\n")
        elif came[-1] - came[0] > ONE:
            stop = before[signal.SIGINT]
            if callable(stop):
                stop(number, frame)
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def outlive_reader() -> contextlib.AbstractContextManager[Any]:
    """Within it stderr, with its bars, may lose its reader: Ctrl-C ends `tee` as well, before the work is saved."""
    return contextlib.redirect_stderr(_Unread(sys.stderr))


def is_read() -> bool:
    """Flushes stdout; says whether anybody reads it. Where nobody does, as behind `| head`, the rest goes nowhere."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def exit_status(command: Callable[[], int]) -> int:
    """Runs a command: the status that it gives, that of Ctrl-C, or of a success that nobody read to its end."""
    try:
        status = command()
        return status if is_read() or status else UNREAD
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        is_read()
        return UNREAD


class _Stop:
    """A handler of a signal that ends the process."""

    def __init__(self, words: Callable[[], str]) -> None:
        self._words = words

    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:
        with contextlib.suppress(Exception):
            _write(f"\n{self._words()}\n")
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(INTERRUPTED)


class _Unread:
    """A text stream that may lose its reader."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(BrokenPipeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._stream.flush()


def _write(text: str) -> None:
    """To stderr, within a signal: past the buffer that may be in use."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
