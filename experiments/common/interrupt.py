"""Ctrl-C: never lost, where asked for at the end of a step, and a clean end of the process."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

# The exit status after Ctrl-C, by the custom of shells.
INTERRUPTED = 130


@contextlib.contextmanager
def repeat_lost_interrupts() -> Iterator[None]:
    """Raises KeyboardInterrupt again where Python drops it.

    One that arrives while an object is freed, or in a callback of the garbage collector, of which JAX has one, has
    nobody to go to: Python prints it and goes on. Here it is not printed, and comes back a moment later, by a timer
    and not by a thread, since a lock may be held.
    """

    def again(lost: Any) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            hook(lost)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hook, sys.unraisablehook = sys.unraisablehook, again
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        sys.unraisablehook = hook


@contextlib.contextmanager
def catch_interrupts() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C (or SIGTERM) came; a second one stops at once."""
    came = threading.Event()

    def note(number: int, frame: Any) -> None:
        if came.is_set():
            raise KeyboardInterrupt
        came.set()

    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(status: int) -> NoReturn:
    """Ends the process.

    Ctrl-C does not stop the threads that JAX compiles in, and tearing JAX down around one of them crashes the process;
    so after Ctrl-C nothing is torn down.
    """
    if status == INTERRUPTED:
        # Ctrl-C reaches who reads the output, too.
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
