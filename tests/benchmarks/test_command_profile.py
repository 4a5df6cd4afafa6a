"""`python -m benchmarks profile`: a trace, and where the time went."""

import pathlib
import re

import pytest

from tests.benchmarks.conftest import Command


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
