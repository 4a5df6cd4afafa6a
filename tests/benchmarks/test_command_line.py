"""`python -m benchmarks`: help, lists, and what it says to a mistake."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from benchmarks import __main__ as command_line
from benchmarks.cases import CASES
from benchmarks.cells import CELLS
from benchmarks.contestants import PEERS
from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.problem import MODES
from benchmarks.suites import SUITES
from tests.benchmarks.conftest import Command

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["run", "report", "list", "profile", "hopper"])
def test_help_of_a_command_says_how_it_is_called(
    command: Command, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert command(name, "--help") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: python -m benchmarks {name} ")
    # Every option has a line of help.
    actions = command_line.parser()._subparsers._group_actions[0].choices[name]._actions  # type: ignore[union-attr]
    assert all(action.help for action in actions if action.option_strings)


def test_help_names_the_commands(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    said = capsys.readouterr().out
    assert [name for name in ("run", "report", "list", "profile", "hopper") if f"    {name} " not in said] == []


def test_list_names_everything(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("list") == 0
    sections: dict[str, list[str]] = {}
    title = ""
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("  "):
            name, text = re.split(" {2,}", line.strip(), maxsplit=1)
            assert text
            sections[title].append(name)
        elif line:
            title, sections[line] = line, []
    assert sections == {
        "suites": list(SUITES),
        "cases": list(CASES),
        "cells": list(CELLS),
        "modes": list(MODES),
        "implementations": list(IMPLEMENTATIONS),
        "peers": list(PEERS),
    }


ABOVE_0 = r"expected a number above 0, got "
MISTAKES = [
    ("run --cell LSTMM", r"argument --cell: expected one of RNN, LSTM, GRU, .*, got 'LSTMM'"),
    ("run --cell RNN LSTMM", r"argument --cell: expected one of RNN, LSTM, GRU, .*, got 'LSTMM'"),
    ("run --implementation fussed", r"argument --implementation: expected one of cell\.step, .*, got 'fussed'"),
    (
        "run --case T=0,B=1,D=1,H=1",
        r"argument --case: expected one of .*, or a shape such as .*, got 'T=0,B=1,D=1,H=1'",
    ),
    ("run --case tinny", r"argument --case: expected one of .*, or a shape such as .*, got 'tinny'"),
    ("run --dtype f32", r"argument --dtype: expected one of float32, .*, got 'f32'"),
    ("run --mode backward", r"argument --mode: expected one of step, forward, gradient, padded, train, got 'backward'"),
    ("run --peer Torch", r"argument --peer: expected one of PyTorch, .*, none, got 'Torch'"),
    ("run --seconds -1", rf"argument --seconds: {ABOVE_0}'-1'"),
    ("run --seconds nan", rf"argument --seconds: {ABOVE_0}'nan'"),
    ("run --seconds inf", rf"argument --seconds: {ABOVE_0}'inf'"),
    ("run --seconds soon", rf"argument --seconds: {ABOVE_0}'soon'"),
    ("run --minutes 0", rf"argument --minutes: {ABOVE_0}'0'"),
    ("run --suite quik", r"argument --suite: invalid choice: 'quik' \(choose from .*quick.*\)"),
    ("report missing.jsonl", r"argument FILE\.jsonl: expected a file of rows, found no missing\.jsonl"),
    (f"report {__file__} --against missing.jsonl", r"argument --against: expected a file .*, found no missing\.jsonl"),
    ("profile", r"the following arguments are required: case"),
    ("profile tinny", r"argument case: expected one of .*, or a shape such as .*, got 'tinny'"),
    ("profile tiny --cell LSTMM", r"argument --cell: expected one of RNN, LSTM, GRU, .*, got 'LSTMM'"),
    ("profile tiny --calls -1", r"argument --calls: expected .*, got '-1'"),
    # No call can be traced in part.
    ("profile tiny --calls 0.5", r"argument --calls: expected .*, got '0\.5'"),
    ("ruin", r"argument \{run,report,list,profile,hopper\}: invalid choice: 'ruin' .*"),
    ("", r"the following arguments are required: \{run,report,list,profile,hopper\}"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[words or "nothing" for words, _ in MISTAKES])
def test_mistake_is_answered_in_a_line(capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    # The parser alone, so that nothing runs when a mistake is taken for none.
    with pytest.raises(SystemExit) as exit:
        command_line.parser().parse_args(words.split())
    assert exit.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    # Behind the usage.
    assert re.fullmatch(rf"python -m benchmarks[ a-z]*: error: {message}", said.err.splitlines()[-1])


def test_reader_that_has_seen_enough_ends_it_in_silence() -> None:
    listing = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "list"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert listing.stdout is not None
    # Before the first line is written.
    listing.stdout.close()
    _, complaints = listing.communicate(timeout=60)
    # The status that a shell gives to whoever writes to nobody: what was cut short must not look finished.
    assert (listing.returncode, complaints) == (141, b"")


# Runs a command where a package is not there.
WITHOUT = """
import runpy, sys
sys.modules[sys.argv.pop(1)] = None
runpy.run_module("benchmarks", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("package", "words"),
    [("numpy", "list"), ("jax", "run"), ("optax", "run"), ("tqdm", "run"), ("matplotlib", f"report {__file__}")],
)
def test_missing_package_is_named_in_a_line(package: str, words: str, tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT, package, *words.split()],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert re.fullmatch(rf"error: .*\b{package}\b.*: pip install --editable '\.\[benchmarks\]'", line)
    assert not list(tmp_path.iterdir()), "nothing was made"


def test_mistake_is_answered_before_jax_is_loaded() -> None:
    code = "import sys; from benchmarks.__main__ import parser; parser(); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
