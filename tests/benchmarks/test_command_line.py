"""`python -m benchmarks`: what it says to a mistake, and what its commands leave behind."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import jax
import pytest

from benchmarks import __main__ as command_line
from benchmarks import rows
from benchmarks.cases import CASES
from benchmarks.cells import CELLS
from benchmarks.contestants import PEERS
from benchmarks.problem import MODES
from benchmarks.run import Outcome
from benchmarks.suites import SUITES, Entry

ROOT = pathlib.Path(__file__).parents[2]
Command = Callable[..., int]


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


# The device's limits take longer to measure than the rest. Where these tests run under a shell's `&`, the signal of
# Ctrl-C is ignored, and that is inherited.
SMALL_LIMITS = """
import signal, sys
from benchmarks import __main__, limits
signal.signal(signal.SIGINT, signal.default_int_handler)
limits.SIZES, limits.COPY_BYTES = {"cpu": (64,), "gpu": ()}, (2**20,)
sys.exit(__main__.main())
"""


def begin(*words: object, small_limits: bool = False) -> subprocess.Popen[str]:
    """The same command in a process of its own, on the CPU."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return subprocess.Popen(
        [sys.executable, *(("-c", SMALL_LIMITS) if small_limits else ("-m", "benchmarks")), *map(str, words)],
        cwd=ROOT,
        env={**environment, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", ["run", "report", "list", "profile"])
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
    assert [name for name in ("run", "report", "list", "profile") if f"    {name} " not in said] == []


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
        "implementations": list(command_line.IMPLEMENTATIONS),
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
    ("run --mode backward", r"argument --mode: expected one of step, forward, gradient, train, got 'backward'"),
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
    ("ruin", r"argument \{run,report,list,profile\}: invalid choice: 'ruin' .*"),
    ("", r"the following arguments are required: \{run,report,list,profile\}"),
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


def test_mistake_is_answered_before_jax_is_loaded() -> None:
    code = "import sys; from benchmarks.__main__ import parser; parser(); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


class Fake:
    """In the place of a run: keeps what it was made of, and comes to what it is told."""

    outcome: Outcome | BaseException = Outcome(0, 0, 0, 0)
    made: tuple[str, list[Entry], float, float | None]
    out: pathlib.Path

    def __init__(self, suite: str, entries: list[Entry], seconds: float, minutes: float | None) -> None:
        Fake.made = (suite, entries, seconds, minutes)

    def measure(self, out: pathlib.Path) -> Outcome:
        Fake.out = out
        if isinstance(Fake.outcome, BaseException):
            raise Fake.outcome
        return Fake.outcome


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> type[Fake]:
    """No run, on a machine that has but a CPU, in an empty folder."""
    monkeypatch.setattr("benchmarks.run.Run", Fake)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(Fake, "outcome", Outcome(8, 2, 0, 0))
    monkeypatch.chdir(tmp_path)
    return Fake


def test_run_takes_what_is_not_said_from_the_suite(
    command: Command, fake: type[Fake], capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    assert command("run") == 0
    suite, entries, seconds, minutes = fake.made
    assert (suite, seconds, minutes) == ("quick", SUITES["quick"].seconds, SUITES["quick"].minutes)
    assert {entry.job.case_name for entry in entries} > {"H=256", "stream"}
    assert {peer for entry in entries for peer in entry.peers} == set(SUITES["quick"].peers)
    assert re.fullmatch(r"runs/benchmarks/\d{8}-\d{6}-quick\.jsonl", str(fake.out))
    assert (tmp_path / fake.out).is_file()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{len(entries)} jobs; rows go to {fake.out}",
        "8 rows, 2 of them without a time.",
        f"Tables and pictures: python -m benchmarks report {fake.out}",
    ]


def test_run_takes_what_is_said(command: Command, fake: type[Fake]) -> None:
    words = (
        "--suite gpu --seconds 0.5 --minutes 3 --cell lstm --cell rnn-RELU --case tiny T=2,B=3,D=4,H=5 --dtype BFloat16"
    )
    assert command("run", *words.split(), "--mode", "forward", "--implementation", "Fused", "--out", "a/b.jsonl") == 0
    suite, entries, seconds, minutes = fake.made
    assert (suite, seconds, minutes) == ("gpu", 0.5, 3.0)
    assert {entry.job.cell for entry in entries} == {"LSTM", "RNN-relu"}
    assert {entry.job.case_name for entry in entries} == {"tiny", "T=2,B=3,D=4,H=5"}
    assert {(entry.job.dtype, entry.job.mode, entry.implementations) for entry in entries} == {
        ("bfloat16", "forward", ("fused",))
    }
    assert str(fake.out) == "a/b.jsonl"


@pytest.mark.parametrize(("words", "peers"), [("none", ()), ("pytorch FLAX-NNX", ("PyTorch", "Flax NNX"))])
def test_run_takes_the_peers_that_are_said(
    command: Command, fake: type[Fake], words: str, peers: tuple[str, ...]
) -> None:
    assert command("run", "--peer", *words.split()) == 0
    assert {entry.peers for entry in fake.made[1]} == {peers}


def test_run_without_accelerator_takes_small_cases_and_says_so(
    command: Command, fake: type[Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", "--suite", "gpu") == 0
    assert {entry.job.case_name for entry in fake.made[1]} == {"small", "tiny"}
    assert re.search(r"^no accelerator: suite gpu .*with the cases small, tiny$", capsys.readouterr().out, re.M)
    # Unless one says which.
    assert command("run", "--suite", "gpu", "--case", "stream") == 0
    assert {entry.job.case_name for entry in fake.made[1]} == {"stream"}
    assert "no accelerator" not in capsys.readouterr().out


def test_run_with_accelerator_takes_the_cases_of_the_suite(
    command: Command, fake: type[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert command("run", "--suite", "gpu") == 0
    assert {"wide", "crowd"} < {entry.job.case_name for entry in fake.made[1]}


def test_run_in_float64_enables_it(command: Command, fake: type[Fake]) -> None:
    assert command("run", "--dtype", "float64") == 0
    assert jax.config.jax_enable_x64


def test_run_with_a_wrong_answer_of_ours_exits_with_1(
    command: Command, fake: type[Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    fake.outcome = Outcome(8, 3, 2, 0)
    assert command("run") == 1
    assert capsys.readouterr().err == "error: 2 times a kernel of ours raised or was wrong: see the rows\n"


def test_run_says_how_many_jobs_it_left_out(
    command: Command, fake: type[Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    fake.outcome = Outcome(8, 3, 0, 5)
    assert command("run") == 0
    assert "8 rows, 3 of them without a time, 5 jobs left out for want of time.\n" in capsys.readouterr().out


def test_run_that_is_interrupted_says_where_its_rows_are(
    command: Command, fake: type[Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    fake.outcome = KeyboardInterrupt()
    assert command("run", "--out", "here.jsonl") == 130
    assert capsys.readouterr().err == "\nStopped. The rows of all finished jobs are in here.jsonl\n"


def test_run_that_cannot_write_says_so_before_it_measures(
    command: Command, fake: type[Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    pathlib.Path("file").touch()
    for out in ("file/rows.jsonl", "."):
        assert command("run", "--out", out) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: --out: ")
        assert out.split("/")[0] in line


def test_run_of_nothing_says_why(command: Command, fake: type[Fake], capsys: pytest.CaptureFixture[str]) -> None:
    # The suite has this mode: it is the dtype that is left out.
    assert command("run", "--suite", "gpu", "--mode", "train", "--dtype", "float16") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "float16" in line


def test_run_writes_rows(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "new" / "rows.jsonl"
    words = "run --suite gpu --cell LSTM --mode gradient --dtype float32 --peer none --seconds 0.05 --out"
    said, complaints = begin(*words.split(), out, small_limits=True).communicate(timeout=300)
    assert "Traceback" not in complaints
    found = rows.read(out)
    assert [(row["case"], rows.contestant(row)) for row in found] == [
        (case, name) for case in ("small", "tiny") for name in ("scan", "fused", "checkpoint_every=64")
    ]
    for row in found:
        assert row["error"] is None
        assert 0 < row["median_s"] < 60
        assert row["share_of_limit"] > 0
        assert (row["suite"], row["cell"], row["mode"], row["dtype"]) == ("gpu", "LSTM", "gradient", "float32")
    assert "6 rows, 0 of them without a time." in said
    assert said.splitlines()[-1] == f"Tables and pictures: python -m benchmarks report {out}"


def wait_for_lines(path: pathlib.Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until a file has so many lines, while the process lives."""
    end = time.monotonic() + 120
    while not path.exists() or path.read_text().count("\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_interrupt_keeps_the_rows(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "rows.jsonl"
    # More jobs than can be done before the signal is here.
    words = "run --suite gpu --mode forward gradient --dtype float32 --peer none --seconds 0.5 --out"
    process = begin(*words.split(), out, small_limits=True)
    try:
        wait_for_lines(out, 2, process)
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert complaints.splitlines()[-1] == f"Stopped. The rows of all finished jobs are in {out}"
    assert "Traceback" not in complaints
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(found) >= 2
    assert all(row["median_s"] > 0 for row in found)


def table(said: str) -> list[tuple[float, float]]:
    """Milliseconds and share of each line of a profile's table."""
    found = re.findall(r"^ *([\d.]+) +([\d.]+)%  ", said, re.M)
    return [(float(milliseconds), float(share)) for milliseconds, share in found]


def test_profile_leaves_a_trace_and_prints_where_the_time_went(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "new" / "profile"
    assert command("profile", "tiny", "--calls", 3, "--out", out) == 0
    said = capsys.readouterr().out
    (trace,) = out.rglob("*.xplane.pb")
    (perfetto,) = out.rglob("perfetto_trace*")
    assert trace.stat().st_size > 0
    assert perfetto.stat().st_size > 0
    lines = table(said)
    # Each share is rounded to a tenth of a per cent.
    assert sum(share for _, share in lines) == pytest.approx(100, abs=0.05 * len(lines) + 0.05)
    total = sum(milliseconds for milliseconds, _ in lines)
    assert total > 0
    for milliseconds, share in lines:
        assert milliseconds / total == pytest.approx(share / 100, abs=0.02)
    assert len(lines) > 3
    # What lasts as long as what runs within it would count twice.
    assert not re.search(r"%  +\d+  (while|call|conditional)", said)
    first = said.splitlines()[0]
    assert first.startswith("LSTM gradient tiny float32, fused, T=7 B=3 D=5 H=11: ")
    assert str(perfetto) in said
    assert f"--logdir {out}" in said
    # Where an operation comes from is said of most of the time.
    assert re.search(r"^ .*%.* {2}\S+/\S+$", said, re.M)


def test_profile_of_a_step_is_of_the_step(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    assert (
        command("profile", "T=2,B=3,D=4,H=5", "--cell", "rnn", "--mode", "step", "--calls", 1, "--out", tmp_path) == 0
    )
    assert capsys.readouterr().out.startswith("RNN step T=2,B=3,D=4,H=5 float32, cell.step, T=1 B=3 D=4 H=5: ")


def test_profile_of_what_is_refused_says_why(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    words = "profile tiny --cell GRU-before --implementation fused --out"
    assert command(*words.split(), tmp_path / "never") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: fused: ")
    assert "more than one recurrent matmul" in line
    assert not (tmp_path / "never").exists()


def test_profile_in_float64_runs(command: Command, tmp_path: pathlib.Path) -> None:
    words = "profile tiny --cell RNN --mode forward --dtype float64 --calls 1 --out"
    assert command(*words.split(), tmp_path) == 0


def test_profile_into_a_folder_that_is_not_empty_is_refused(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    # Two traces in one folder could not be told apart.
    (tmp_path / "older.xplane.pb").touch()
    for out in (tmp_path, tmp_path / "older.xplane.pb"):
        assert command("profile", "tiny", "--out", out) == 2
        assert capsys.readouterr().err == f"error: --out: expected a new or an empty folder, got {out}\n"
