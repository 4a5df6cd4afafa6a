"""Benchmarks, like experiments, run under the default configuration of JAX: so do peers' users."""

import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest

from benchmarks import __main__ as command_line
from benchmarks import limits, timing
from benchmarks.contestants import ours
from tests.benchmarks.small_runs import LIMITS, Stub
from tests.experiments.conftest import default_jax_configuration

__all__ = ["default_jax_configuration"]
Command = Callable[..., int]


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits without measuring, blocks of few calls."""
    monkeypatch.setattr(limits, "measure", lambda dtypes, other: LIMITS)
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 1e-4)


@pytest.fixture
def out(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "rows.jsonl"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stub]:
    """Puts a stub in the place of one of ours."""

    def put(name: str, **before: Callable[[], Any]) -> Stub:
        stub = Stub(**before)
        monkeypatch.setitem(ours.CONTESTANTS, name, stub)
        return stub

    return put


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that take no time."""
    monkeypatch.setattr(limits, "SIZES", dict.fromkeys(("cpu", "gpu", "tpu"), (8, 16)))
    monkeypatch.setattr(limits, "COPY_BYTES", (2**18, 2**20))
    monkeypatch.setattr(limits, "SECONDS", 1e-3)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """A command in this process; returns the exit status, also argparse's own."""

    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["benchmarks", *map(str, words)])
        try:
            return command_line.main()
        except SystemExit as exit:
            return int(exit.code or 0)

    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    yield run
    # What float64 asks for.
    jax.config.update("jax_enable_x64", False)
