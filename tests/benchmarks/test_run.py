"""A run leaves one row for each contestant of each job, in a file that only grows, whatever ends it."""

import datetime
import os
import pathlib
import types
from collections.abc import Callable

import jax
import pytest

from benchmarks import contestants, problem, rows, timing
from benchmarks import run as run_module
from benchmarks.cases import CASES
from benchmarks.contestants import Peer, ours
from benchmarks.problem import MODES, STEP
from benchmarks.run import Outcome, Run
from tests.benchmarks import stand_ins
from tests.benchmarks.small_runs import FIELDS, LIMITS, Stub, entry, measure, raising

pytestmark = pytest.mark.usefixtures("instant")


@pytest.mark.parametrize("mode", MODES)
def test_rows_have_all_fields_with_sane_values(out: pathlib.Path, mode: str) -> None:
    names = ("cell.step",) if mode == STEP else ("scan", "fused")
    one = entry(*names, mode=mode)
    outcome, found = measure(out, one)
    assert outcome == Outcome(written=len(names), errors=0, failed=0, left=0)
    assert [row["implementation"] for row in found] == list(names)
    for row in found:
        assert set(row) == FIELDS
        assert (row["cell"], row["peer"], row["case"], row["dtype"], row["mode"]) == (
            "RNN", None, "tiny", "float32", mode,
        )  # fmt: skip
        assert rows.case(row) == CASES["tiny"]._replace(**({"T": 1} if mode == STEP else {}))
        assert 0 < row["q25_s"] <= row["median_s"] <= row["q75_s"] < 60
        assert row["n"] >= timing.LEAST_ROUNDS
        assert 0 < row["alone_s"] < 60
        assert 0 < row["compile_s"] < 600
        assert row["error"] is None
        assert 0 < row["max_err"] <= problem.tolerance(one.job, jax.default_backend())
        assert row["share_of_limit"] == row["floor_s"] / row["median_s"]
        assert row["floor_s"] == LIMITS.floor_s(one.job)
        assert (row["matmul_flops_per_s"], row["bytes_per_s"]) == (2e9, LIMITS.bytes_per_s(one.job))
        assert (row["parameters"], row["flops"], row["bytes"]) == (
            problem.parameters(one.job), problem.flops(one.job), problem.compulsory_bytes(one.job),
        )  # fmt: skip
        # Arguments and results alone are most of what must be moved; some are both, where a call gives its own away.
        assert row["bytes"] / 2 < row["peak_bytes"] < 2**20
        assert 0 <= row["temp_bytes"] < row["peak_bytes"]
        assert (row["includes"], row["process"], row["suite"]) == (ours.INCLUDES, "shared", "a suite")
        assert datetime.datetime.fromisoformat(row["run"]) <= datetime.datetime.fromisoformat(row["date"])
        assert row["device"]
        assert row["versions"]["jax"] == jax.__version__
        assert row["commit"]


def test_rows_of_one_run_share_their_circumstances(out: pathlib.Path, stub: Callable[..., Stub]) -> None:
    stub("fused")
    _, found = measure(out, entry("fused"), entry("fused", cell="LSTM"))
    first, second = ({name: row[name] for name in ("suite", "run", "device", "versions", "commit")} for row in found)
    assert first == second


def test_row_of_a_peer_says_so(out: pathlib.Path, monkeypatch: pytest.MonkeyPatch, stub: Callable[..., Stub]) -> None:
    stub("fused")
    stand_ins.install(monkeypatch)
    monkeypatch.setitem(contestants.PEERS, "Other", Peer("other", "numpy"))
    monkeypatch.setattr(contestants, "load", lambda name: {"Other": Stub()}[name])
    _, found = measure(out, entry("fused", peers=(stand_ins.NAME, "Other")))
    assert [(row["implementation"], row["peer"], row["process"]) for row in found] == [
        ("fused", None, "shared"), (None, stand_ins.NAME, "own"), (None, "Other", "shared"),
    ]  # fmt: skip
    assert {frozenset(row) for row in found} == {frozenset(FIELDS)}
    remote = found[1]
    assert remote["error"] is None
    assert remote["includes"].endswith("without JAX")
    assert (remote["compile_s"], remote["peak_bytes"], remote["temp_bytes"]) == (
        stand_ins.COMPILE_S, stand_ins.PEAK_BYTES, stand_ins.TEMP_BYTES,
    )  # fmt: skip
    assert remote["max_err"] == 0.0
    assert remote["median_s"] > 0


def test_job_says_in_a_line_who_took_how_long(
    out: pathlib.Path, stub: Callable[..., Stub], capsys: pytest.CaptureFixture[str]
) -> None:
    stub("scan")
    stub("fused", build=raising(RuntimeError("a")))
    _, (scan, _) = measure(out, entry("scan", "fused"))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"RNN forward tiny float32: scan {scan['median_s'] * 1e3:.3g} ms; no time for fused"


def test_interrupt_keeps_the_rows_of_finished_jobs_and_ends_the_processes(
    out: pathlib.Path, monkeypatch: pytest.MonkeyPatch, stub: Callable[..., Stub]
) -> None:
    stand_ins.install(monkeypatch)
    stub("fused", build=raising(KeyboardInterrupt(), calls=2))
    jobs = [entry("fused", peers=(stand_ins.NAME,), cell=cell) for cell in ("RNN", "LSTM", "GRU")]
    run = Run("a suite", jobs, 1e-6, None)
    with pytest.raises(KeyboardInterrupt):
        run.measure(out)
    found = rows.read(out)
    assert [(row["cell"], rows.contestant(row), row["error"]) for row in found] == [
        ("RNN", "fused", None), ("RNN", stand_ins.NAME, None),
    ]  # fmt: skip
    process = int(found[1]["includes"].split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_processes_end_with_the_run(
    out: pathlib.Path, monkeypatch: pytest.MonkeyPatch, stub: Callable[..., Stub]
) -> None:
    stand_ins.install(monkeypatch)
    stub("fused")
    _, found = measure(out, *(entry("fused", peers=(stand_ins.NAME,), cell=cell) for cell in ("RNN", "LSTM")))
    # One process serves all jobs.
    (process,) = {int(row["includes"].split()[0]) for row in found if row["peer"]}
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@pytest.mark.parametrize(("minutes", "done"), [(None, 5), (100.0, 5), (1.5, 2), (0.01, 1), (1e-9, 1)])
def test_deadline_leaves_jobs_out_and_counts_them(
    out: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    stub: Callable[..., Stub],
    minutes: float | None,
    done: int,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(run_module, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    # Each job takes 40 s: a third one would not end within 90 s.
    stub("fused", build=lambda: now.__setitem__(0, now[0] + 40.0))
    cells = ("RNN", "LSTM", "GRU", "RNN-relu", "GRU-before")
    outcome, found = measure(out, *(entry("fused", cell=cell) for cell in cells), minutes=minutes)
    assert [row["cell"] for row in found] == list(cells[:done])
    assert outcome == Outcome(written=done, errors=0, failed=0, left=5 - done)


def test_rows_are_in_the_file_as_soon_as_they_are_known(out: pathlib.Path, stub: Callable[..., Stub]) -> None:
    lines: list[int] = []
    stub("fused", build=lambda: lines.append(len(out.read_text().splitlines()) if out.exists() else 0))
    measure(out, *(entry("fused", cell=cell) for cell in ("RNN", "LSTM", "GRU")))
    assert lines == [0, 1, 2]


def test_rows_are_appended_to_what_is_there(out: pathlib.Path, stub: Callable[..., Stub]) -> None:
    stub("fused")
    out.write_text('{"older": 1}\n')
    measure(out, entry("fused"))
    before = out.read_text()
    _, found = measure(out, entry("fused", cell="GRU"))
    assert out.read_text().startswith(before)
    assert found[0] == {"older": 1}
    assert [row["cell"] for row in found[1:]] == ["RNN", "GRU"]


def test_row_behind_a_line_that_was_cut_off_can_be_read(out: pathlib.Path, stub: Callable[..., Stub]) -> None:
    # A run was killed while it wrote, and is repeated into the same file.
    stub("fused")
    measure(out, entry("fused"))
    out.write_text(out.read_text() + '{"cell": "LST')
    Run("a suite", [entry("fused", cell="GRU")], 1e-6, None).measure(out)
    assert [row["cell"] for row in rows.read(out)] == ["RNN", "GRU"]
