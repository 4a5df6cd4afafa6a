"""A contestant in another process answers as one in this process does, and its troubles stay over there."""

import importlib.util
import itertools
import os
import pathlib
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.cases import CASES
from benchmarks.contestants.base import Refused
from benchmarks.problem import DTYPES, FORWARD, MODES, TRAIN, Answer, Job, draw, error, tolerance, truth
from benchmarks.worker import Remote, RemoteError
from tests.benchmarks import stand_ins

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


def job(case_name: str = "tiny", cell: str = "LSTM", mode: str = FORWARD, dtype: str = "float32") -> Job:
    """A job of the smallest shape; the stand-in does what the case's name says."""
    return Job(cell, case_name, CASES["tiny"], dtype, mode)


def runs(pid: int) -> bool:
    """Whether a process is there; one that ended but was not waited for still is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    """The stand-in; its process starts with the first request."""
    stand_ins.install(monkeypatch)
    remote = Remote(stand_ins.NAME)
    yield remote
    remote.close()


def build(remote: Remote, of: Job) -> Answer:
    """The answer of a program built for a job."""
    return remote.build(of, draw(of, 2)).answer()


def test_program_answers_and_times_over_there(remote: Remote) -> None:
    program = remote.build(job(), draw(job(), 2))
    for name, leaf in truth(job()).items():
        np.testing.assert_array_equal(program.answer()[name], leaf)
    # The program is the same one at each request.
    assert program.time(2) == [0.001, 0.002]
    assert program.time(1) == [0.003]
    assert (program.compile_s, program.peak_bytes, program.temp_bytes) == (
        stand_ins.COMPILE_S, stand_ins.PEAK_BYTES, stand_ins.TEMP_BYTES,
    )  # fmt: skip


def test_process_is_another_one_without_jax(remote: Remote) -> None:
    # The stand-in is served by what serves every peer, so that is what has not imported it.
    build(remote, job())
    assert remote.process.pid != os.getpid()
    assert remote.includes == f"{remote.process.pid} without JAX"


def test_process_is_kept_for_the_next_job(remote: Remote) -> None:
    build(remote, job())
    first = remote.process.pid
    build(remote, job(cell="GRU"))
    assert remote.process.pid == first


def test_refusal_travels(remote: Remote) -> None:
    with pytest.raises(Refused, match=r"^Stand-in has no GRU$"):
        build(remote, job("refuse", "GRU"))
    build(remote, job())


def test_exception_travels_as_text(remote: Remote) -> None:
    with pytest.raises(RemoteError, match=r"^TypeError: Stand-in breaks$"):
        build(remote, job("raise"))
    # The process is still there and of use.
    pid = remote.process.pid
    build(remote, job())
    assert remote.process.pid == pid


def test_exception_of_a_timed_call_travels(remote: Remote) -> None:
    of = job("raise when timed")
    program = remote.build(of, draw(of, 2))
    with pytest.raises(RemoteError, match=r"^ValueError: Stand-in has no time$"):
        program.time(3)


def test_request_without_a_program_is_an_error(remote: Remote) -> None:
    build(remote, job())
    with pytest.raises(RemoteError, match=r"^TypeError: "):
        build(remote, job("raise"))
    # The program before it is gone: no row may take its times for another's.
    with pytest.raises(RemoteError, match=r"^AssertionError"):
        remote.ask("time", 1)


def test_death_while_building_is_an_error_and_the_next_build_starts_anew(remote: Remote) -> None:
    with pytest.raises(RemoteError, match=r"process died with exit status -9$"):
        build(remote, job("die"))
    assert remote.connection is None
    first = remote.process.pid
    build(remote, job())
    assert remote.process.pid != first


def test_death_between_requests_is_an_error_and_the_next_build_starts_anew(remote: Remote) -> None:
    program = remote.build(job(), draw(job(), 2))
    os.kill(remote.process.pid, signal.SIGKILL)
    remote.process.wait()
    with pytest.raises(RemoteError, match=r"process died with exit status -9$"):
        program.time(1)
    assert remote.build(job(), draw(job(), 2)).time(1) == [0.001]


def test_close_ends_the_process_and_may_be_repeated(remote: Remote) -> None:
    build(remote, job())
    pid = remote.process.pid
    assert runs(pid)
    remote.close()
    assert not runs(pid)
    remote.close()
    # What was closed starts again when it is asked.
    build(remote, job())


def test_close_of_what_was_never_asked_is_nothing() -> None:
    Remote("PyTorch").close()


def test_interrupt_does_not_end_the_process(remote: Remote) -> None:
    # Ctrl-C in a terminal reaches it too, possibly in the middle of a block that this process waits for.
    program = remote.build(job(), draw(job(), 2))
    os.kill(remote.process.pid, signal.SIGINT)
    assert program.time(1) == [0.001]
    assert remote.process.poll() is None


def test_process_ends_in_silence_where_its_parent_ends_first(remote: Remote, capfd: pytest.CaptureFixture[str]) -> None:
    remote.build(job("long"), draw(job(), 2))
    connection = remote.connection
    assert connection is not None
    connection.send(("time", (1,)))
    connection.close()
    assert remote.process.wait(60) == 0
    assert capfd.readouterr().err == ""


@pytest.fixture(scope="module")
def pytorch() -> Iterator[Remote]:
    """PyTorch, whose import takes seconds."""
    remote = Remote("PyTorch")
    yield remote
    remote.close()


@needs_torch
@pytest.mark.parametrize(
    ("mode", "dtype"),
    # No suite trains in float16.
    [both for both in itertools.product(MODES, DTYPES) if both != (TRAIN, "float16")],
)
@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU", "RNN-relu"])
def test_pytorch_answers_right(pytorch: Remote, cell: str, mode: str, dtype: str) -> None:
    of = job("tiny", cell, mode, dtype)
    assert error(build(pytorch, of), truth(of)) <= tolerance(of, "cpu")


@needs_torch
def test_pytorch_is_timed(pytorch: Remote) -> None:
    seconds = pytorch.build(job(), draw(job(), 2)).time(4)
    assert len(seconds) == 4
    assert all(0 < second < 60 for second in seconds)
    assert pytorch.ask("module", "matmul_seconds", 0.0, "float32", 8) > 0


@needs_torch
def test_pytorch_says_what_it_has_not_and_what_it_includes(pytorch: Remote) -> None:
    with pytest.raises(Refused, match=r"^PyTorch has no GRU-before$"):
        build(pytorch, job(cell="GRU-before"))
    assert pytorch.includes.startswith("a second bias vector")


@needs_torch
@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="needs the /proc of Linux")
def test_process_of_pytorch_has_not_loaded_jax(pytorch: Remote) -> None:
    build(pytorch, job())
    libraries = pathlib.Path(f"/proc/{pytorch.process.pid}/maps").read_text()
    # Those of this process show that the test would see it.
    assert "jaxlib" in pathlib.Path("/proc/self/maps").read_text()
    assert "libtorch" in libraries
    assert "jaxlib" not in libraries


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_pytorch_is_timed_on_the_kind_of_device_of_the_run_or_not_at_all(platform: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is a peer where it is installed, not a dependency")
    if platform == "gpu" and torch.cuda.is_available():
        pytest.skip("this PyTorch sees a GPU")
    other = Remote("PyTorch", platform)
    try:
        with pytest.raises(Refused, match=f"this PyTorch sees no {platform}"):
            other.build(job(), draw(job(), 1))
        with pytest.raises(Refused, match=f"this PyTorch sees no {platform}"):
            other.ask("module", "matmul_seconds", 0.0, "float32", 8)
    finally:
        other.close()
