"""`python -m benchmarks run`: what it makes of its options, and what it leaves behind."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import pytest

from benchmarks import rows
from benchmarks.run import Outcome
from benchmarks.suites import SUITES, Entry
from tests.benchmarks.conftest import Command

ROOT = pathlib.Path(__file__).parents[2]


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
    assert capsys.readouterr().err == "\nStopped. No job was finished.\n"
    pathlib.Path("here.jsonl").write_text("{}\n")
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


def test_run_adds_to_rows_only(command: Command, fake: type[Fake], capsys: pytest.CaptureFixture[str]) -> None:
    notes = pathlib.Path("notes.md")
    notes.write_text("# mine\n")
    assert command("run", "--out", "notes.md") == 2
    assert capsys.readouterr().err == "error: --out: notes.md, line 1: expected a JSON object, got '# mine'\n"
    assert notes.read_text() == "# mine\n"


def test_run_of_nothing_says_why(command: Command, fake: type[Fake], capsys: pytest.CaptureFixture[str]) -> None:
    # The suite has this mode: it is the dtype that is left out.
    assert command("run", "--suite", "gpu", "--mode", "train", "--dtype", "float16") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "float16" in line


# The device's limits take longer to measure than the rest. Where these tests run under a shell's `&`, the signal of
# Ctrl-C is ignored, and that is inherited.
SMALL_LIMITS = """
import signal, sys
from benchmarks import __main__, limits
signal.signal(signal.SIGINT, signal.default_int_handler)
__main__.stop_at_once()
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


def test_run_writes_rows(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "new" / "rows.jsonl"
    words = "run --suite gpu --cell LSTM --mode gradient --dtype float32 --peer none --seconds 0.05"
    words += " --implementation scan fused checkpoint_every=64 --out"
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
        complaints = process.communicate(timeout=120)[1]
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, complaints
    assert complaints.splitlines()[-1] == f"Stopped. The rows of all finished jobs are in {out}"
    assert "Traceback" not in complaints
    found = [json.loads(line) for line in out.read_text().splitlines()]
    # Kernels of other devices refuse, and have rows that say so.
    timed = [row for row in found if row["error"] is None]
    assert len(timed) >= 2
    assert all(row["median_s"] > 0 for row in timed)
