"""A contestant in a process of its own, for frameworks whose thread pool would fight with JAX's.

The other process imports no JAX. It is idle while another contestant is timed, so the two never
run at once: the parent asks for a block of calls and waits for their seconds.
"""

import gc
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import contestants
from benchmarks.contestants.base import Program, Refused
from benchmarks.problem import Answer, Job, Problem


class RemoteError(Exception):
    """What the contestant raised in its process, as text; or that the process died."""


def serve(connection: Connection, name: str) -> None:
    """The other process: answers requests until the connection closes."""
    # Ctrl-C reaches every process of a terminal; this one ends when its parent does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As in the parent while it times; what a program leaves behind is collected before the next.
    gc.disable()
    program: Program | None = None
    while True:
        try:
            request, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if request == "build":
                program = None  # frees the one before it
                gc.collect()
                program = contestants.load(name).build(*arguments)
                reply: tuple[str, Any] = "ok", None
            elif request == "module":
                function, *rest = arguments
                module = contestants.load(name).__module__
                reply = "ok", getattr(__import__(module, fromlist=[""]), function)(*rest)
            elif request == "contestant":
                reply = "ok", getattr(contestants.load(name), arguments[0])
            else:
                assert program is not None
                attribute = getattr(program, request)
                reply = "ok", attribute(*arguments) if callable(attribute) else attribute
        except Refused as error:
            reply = "refused", str(error)
        except Exception as error:  # whatever a framework raises becomes a row
            reply = "error", f"{type(error).__name__}: {error}"
        try:
            connection.send(reply)
        except OSError:  # the parent has ended in the meantime
            return


class Remote:
    """A contestant whose programs live in another process.

    Args:
      name: of the peer.
      platform: the kind of device that it has to use: cpu, gpu or tpu.
    """

    def __init__(self, name: str, platform: str = "cpu") -> None:
        self.name, self.platform = name, platform
        self.connection: Connection | None = None
        self.process: subprocess.Popen[bytes]

    def ask(self, request: str, *arguments: Any) -> Any:
        """Sends one request and waits for its answer.

        Raises:
          Refused: the contestant refuses the job.
          RemoteError: it raised, or its process died.
        """
        if self.connection is None:
            self.connection, theirs = multiprocessing.Pipe()
            handle = theirs.fileno()
            # Not multiprocessing's own start, which would import this process's main module, and JAX with it.
            command = [sys.executable, "-m", "benchmarks.worker", str(handle), self.name]
            root = pathlib.Path(__file__).parents[1]
            # In a process group of its own Ctrl-C does not reach it while it still imports.
            environment = {**os.environ, "BENCHMARKS_PLATFORM": self.platform}
            self.process = subprocess.Popen(command, pass_fds=[handle], cwd=root, env=environment, process_group=0)
            theirs.close()
        try:
            self.connection.send((request, arguments))
            kind, reply = self.connection.recv()
        except (EOFError, OSError):
            code = self.process.wait()
            self.close()
            raise RemoteError(f"its process died with exit status {code}") from None
        if kind == "refused":
            raise Refused(reply)
        if kind == "error":
            raise RemoteError(reply)
        return reply

    @property
    def includes(self) -> str:
        """See `Contestant`."""
        return str(self.ask("contestant", "includes"))

    def build(self, job: Job, problems: Sequence[Problem]) -> "RemoteProgram":
        """Builds the program over there."""
        self.ask("build", job, problems)
        return RemoteProgram(self)

    def close(self) -> None:
        """Ends the process."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
            # It may be in the middle of a block.
            self.process.kill()
            self.process.wait()


class RemoteProgram:
    """The program that another process holds."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.compile_s: float | None = remote.ask("compile_s")
        self.temp_bytes: int | None = remote.ask("temp_bytes")

    @property
    def peak_bytes(self) -> int | None:
        """Known after the first call."""
        peak: int | None = self.remote.ask("peak_bytes")
        return peak

    def answer(self) -> Answer:
        """See `Program`."""
        answer: Mapping[str, Any] = self.remote.ask("answer")
        return answer

    def time(self, calls: int) -> list[float]:
        """See `Program`."""
        seconds: list[float] = self.remote.ask("time", calls)
        return seconds


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), sys.argv[2])
