"""A run leaves one row for each contestant of each job: a right answer's time, or why there is none."""

import datetime
import json
import os
import pathlib
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import contestants, limits, machine, problem, rows, timing
from benchmarks import run as run_module
from benchmarks.cases import CASES, Case
from benchmarks.cells import CELLS
from benchmarks.contestants import Peer, ours
from benchmarks.contestants.base import Refused
from benchmarks.contestants.jax_program import JaxContestant, Layer
from benchmarks.limits import Limits
from benchmarks.problem import FORWARD, GRADIENT, MODES, STEP, TRAIN, Job, Problem
from benchmarks.run import Outcome, Run
from benchmarks.suites import Entry
from tests.benchmarks import stand_ins

FIELDS = {
    # Who and what.
    "cell", "implementation", "peer", "case", "T", "B", "D", "H", "dtype", "mode",
    # Measured.
    "median_s", "q25_s", "q75_s", "n", "alone_s", "used_by_others", "compile_s", "peak_bytes", "temp_bytes",
    "share_of_limit", "max_err",
    # Worked out.
    "parameters", "flops", "bytes", "floor_s", "matmul_flops_per_s", "bytes_per_s",
    # Circumstances.
    "includes", "process", "error", "suite", "run", "date", "device", "versions", "commit",
}  # fmt: skip
MEASURED = ("median_s", "q25_s", "q75_s", "n", "alone_s", "share_of_limit")
LIMITS = Limits({"float32": 2e9, "bfloat16": 1e9}, {2**10: 8e9, 2**20: 4e9})
MEASURE = limits.measure


@pytest.fixture(autouse=True)
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits without measuring, blocks of few calls."""
    monkeypatch.setattr(limits, "measure", lambda dtypes, other: LIMITS)
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 1e-4)


@pytest.fixture
def out(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "rows.jsonl"


class Stub(stand_ins.StandIn):
    """A right answer in this process, with something done whenever it builds, answers or is timed."""

    includes = "nothing"

    def __init__(self, **before: Callable[[], Any]) -> None:
        self.before = before
        self.builds = 0

    def build(self, job: Job, problems: list[Problem]) -> Any:
        self.builds += 1
        self.before.get("build", lambda: None)()
        program = stand_ins.StandInProgram(job, problems)
        for name in {"answer", "time"} & set(self.before):
            setattr(program, name, self._behind(self.before[name], getattr(program, name)))
        return program

    @staticmethod
    def _behind(before: Callable[[], Any], method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            before()
            return method(*arguments)

        return run


def raising(error: BaseException, calls: int = 1) -> Callable[[], None]:
    """Raises at one of its calls, and at those behind it."""
    left = [calls]

    def act() -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise error

    return act


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stub]:
    """Puts a stub in the place of one of ours."""

    def put(name: str, **before: Callable[[], Any]) -> Stub:
        stub = Stub(**before)
        monkeypatch.setitem(ours.CONTESTANTS, name, stub)
        return stub

    return put


def entry(*implementations: str, peers: tuple[str, ...] = (), cell: str = "RNN", mode: str = FORWARD) -> Entry:
    """One small job."""
    return Entry(Job(cell, "tiny", CASES["tiny"], "float32", mode), implementations, peers)


def measure(out: pathlib.Path, *entries: Entry, minutes: float | None = None) -> tuple[Outcome, list[rows.Row]]:
    """The outcome of a run that takes no more rounds than it must, and its rows."""
    outcome = Run("a suite", list(entries), 1e-6, minutes).measure(out)
    return outcome, [json.loads(line) for line in out.read_text().splitlines()]


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


@pytest.mark.parametrize("mode", [FORWARD, TRAIN])
def test_calls_take_the_problems_in_turn(mode: str) -> None:
    # Over all blocks, so that no call repeats the one before it.
    job = entry(mode=mode).job
    problems = problem.draw(job, 3)
    program = ours.CONTESTANTS["scan"].build(job, problems)
    compiled, seen = program.compiled, []
    program.compiled = lambda *arguments: seen.append(np.asarray(arguments[1])) or compiled(*arguments)
    assert [len(program.time(calls)) for calls in (2, 1, 4)] == [2, 1, 4]
    for number, xs in enumerate(seen):
        np.testing.assert_array_equal(xs, problems[number % 3].xs)


def test_answer_of_a_training_step_is_the_same_behind_timed_steps() -> None:
    # A step consumes its state: neither the answer's nor the timed ones may be the parameters themselves.
    job = entry(mode=TRAIN).job
    program = ours.CONTESTANTS["scan"].build(job, problem.draw(job, 3))
    before = program.answer()
    program.time(3)
    for name, leaf in program.answer().items():
        np.testing.assert_array_equal(leaf, before[name])


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


def forgetful(layer: Layer) -> Layer:
    """The layer without its bias."""
    without = lambda params: params._replace(b=jnp.zeros_like(params.b))
    return layer._replace(apply=lambda params, xs, carry: layer.apply(without(params), xs, carry))


def scaled(layer: Layer, by: Callable[[Any], Any]) -> Layer:
    """The layer, its outputs times something."""

    def apply(params: Any, xs: Any, carry: Any) -> Any:
        last, ys = layer.apply(params, xs, carry)
        return last, ys * by(ys)

    return layer._replace(apply=apply)


MISTAKES: dict[str, Callable[[Layer], Layer]] = {
    # More than the 2 % that an accelerator's matmuls are allowed.
    "outputs too large": lambda layer: scaled(layer, lambda ys: 1.05),
    "bias forgotten": forgetful,
    "one output NaN": lambda layer: scaled(layer, lambda ys: jnp.ones_like(ys).at[0, 0, 0].set(jnp.nan)),
}


@pytest.mark.parametrize("mode", [FORWARD, GRADIENT, TRAIN])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_kernel_gets_no_time(
    out: pathlib.Path, monkeypatch: pytest.MonkeyPatch, stub: Callable[..., Stub], mistake: str, mode: str
) -> None:
    layer = lambda job, one: MISTAKES[mistake](ours.layer({"implementation": "scan"}, job, one))
    monkeypatch.setitem(ours.CONTESTANTS, "fused", JaxContestant("fused", layer))
    stub("scan")
    outcome, (right, wrong) = measure(out, entry("scan", "fused", mode=mode))
    assert outcome == Outcome(written=2, errors=1, failed=1, left=0)
    assert wrong["implementation"] == "fused"
    assert wrong["error"].startswith("wrong answer: off by ")
    assert [wrong[name] for name in MEASURED] == [None] * len(MEASURED)
    assert right["error"] is None
    assert right["median_s"] > 0


def test_every_cell_is_right_or_refused_in_words(out: pathlib.Path) -> None:
    # Options that store fewer carries change nothing in so few steps.
    kernels = ("scan", "fused")
    _, found = measure(out, *(entry(*kernels, cell=cell, mode=GRADIENT) for cell in CELLS))
    assert len(found) == len(CELLS) * len(kernels)
    for row in found:
        if (row["cell"], row["implementation"]) == ("GRU-before", "fused"):
            assert "fused refuses: GRU(" in row["error"]
        else:
            assert (row["error"], row["median_s"] is None) == (None, False)


@pytest.mark.parametrize(
    ("name", "mode", "reason"),
    [
        ("fused", STEP, "no kernel changes a step"),
        ("cell.step", GRADIENT, "no kernel changes a step"),
        ("checkpoint_every=64", FORWARD, "nothing to compute again"),
    ],
)
def test_implementation_without_a_meaning_in_a_mode_is_refused(
    out: pathlib.Path, name: str, mode: str, reason: str
) -> None:
    outcome, (row,) = measure(out, entry(name, mode=mode))
    assert outcome == Outcome(written=1, errors=1, failed=0, left=0)
    assert row["error"].endswith(reason)


def test_wrong_answer_of_a_peer_is_not_ours(out: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Stub()
    # It answers another question than it says.
    build = peer.build
    peer.build = lambda job, problems: build(job._replace(cell="RNN-relu"), problems)
    monkeypatch.setitem(contestants.PEERS, "Other", Peer("other", "numpy"))
    monkeypatch.setattr(contestants, "load", lambda name: peer)
    outcome, (row,) = measure(out, entry(peers=("Other",)))
    assert outcome == Outcome(written=1, errors=1, failed=0, left=0)
    assert row["error"].startswith("wrong answer: off by ")
    assert row["median_s"] is None


@pytest.mark.parametrize("moment", ["build", "answer", "time"])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("out of\n   memory"), "RuntimeError: out of memory"),
        (Refused("only on Tuesdays"), "only on Tuesdays"),
        (ValueError("x" * 5000), f"ValueError: {'x' * 300}"),
    ],
    ids=["error", "refusal", "long"],
)
def test_contestant_that_raises_leaves_a_row_while_others_are_timed(
    out: pathlib.Path, stub: Callable[..., Stub], moment: str, error: Exception, said: str
) -> None:
    stub("fused", **{moment: raising(error)})
    stub("scan")
    stub("checkpoint_every=64")
    outcome, found = measure(out, entry("scan", "fused", "checkpoint_every=64"))
    # A kernel of ours that can't do it has not failed.
    assert outcome == Outcome(written=3, errors=1, failed=not isinstance(error, Refused), left=0)
    # In the order of the entry.
    assert [(row["implementation"], row["error"]) for row in found] == [
        ("scan", None), ("fused", said), ("checkpoint_every=64", None),
    ]  # fmt: skip
    assert [row["median_s"] is None for row in found] == [False, True, False]
    assert set(found[1]) == FIELDS
    assert [found[1][name] for name in MEASURED] == [None] * len(MEASURED)


def test_contestant_that_raises_in_the_rounds_leaves_times_of_the_others_alone(
    out: pathlib.Path, stub: Callable[..., Stub]
) -> None:
    # Behind the warm-up, in the second round; all others begin again, so that no one's time is of two settings.
    stub("fused", time=raising(MemoryError("no more"), calls=5))
    stub("scan")
    _, (scan, fused) = measure(out, entry("scan", "fused"))
    assert (fused["error"], fused["median_s"]) == ("MemoryError: no more", None)
    # One call a block: those of the rounds that count.
    assert scan["n"] == timing.LEAST_ROUNDS


def test_all_contestants_may_fail(out: pathlib.Path, stub: Callable[..., Stub]) -> None:
    stub("scan", build=raising(RuntimeError("a")))
    stub("fused", time=raising(RuntimeError("b")))
    outcome, found = measure(out, entry("scan", "fused"), entry("scan", "fused", cell="LSTM"))
    assert outcome == Outcome(written=4, errors=4, failed=4, left=0)
    assert [row["error"] for row in found] == ["RuntimeError: a", "RuntimeError: b"] * 2


def test_job_says_in_a_line_who_took_how_long(
    out: pathlib.Path, stub: Callable[..., Stub], capsys: pytest.CaptureFixture[str]
) -> None:
    stub("scan")
    stub("fused", build=raising(RuntimeError("a")))
    _, (scan, _) = measure(out, entry("scan", "fused"))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"RNN forward tiny float32: scan {scan['median_s'] * 1e3:.3g} ms; no time for fused"


@pytest.mark.parametrize("own_process", [False, True])
def test_peer_that_is_not_installed_leaves_a_row_that_says_so(
    out: pathlib.Path, monkeypatch: pytest.MonkeyPatch, stub: Callable[..., Stub], own_process: bool
) -> None:
    monkeypatch.setitem(contestants.PEERS, "Nobody", Peer("nobody", "no_such_package", own_process))
    stub("fused")
    outcome, (fused, nobody) = measure(out, entry("fused", peers=("Nobody",)))
    assert (nobody["peer"], nobody["error"]) == ("Nobody", "no_such_package is not installed")
    assert nobody["median_s"] is None
    assert fused["median_s"] > 0
    assert outcome == Outcome(written=2, errors=1, failed=0, left=0)


@pytest.mark.parametrize("own_process", [False, True])
def test_peer_that_breaks_when_loaded_leaves_a_row(
    out: pathlib.Path, monkeypatch: pytest.MonkeyPatch, stub: Callable[..., Stub], own_process: bool
) -> None:
    # An installed framework may fail to import. Then it can't take part in measuring the limits either.
    small_limits(monkeypatch)
    monkeypatch.setattr(limits, "measure", MEASURE)
    # No process that is started anew knows this name.
    monkeypatch.setitem(contestants.PEERS, "Broken", Peer("no_such_module", "numpy", own_process))
    stub("fused")
    outcome, (fused, broken) = measure(out, entry("fused", peers=("Broken",)))
    assert outcome == Outcome(written=2, errors=1, failed=0, left=0)
    assert fused["median_s"] > 0
    assert broken["error"].split(":")[0] == ("KeyError" if own_process else "ModuleNotFoundError")


def test_peer_whose_process_dies_leaves_a_row_and_is_back_for_the_next_job(
    out: pathlib.Path, monkeypatch: pytest.MonkeyPatch, stub: Callable[..., Stub]
) -> None:
    stand_ins.install(monkeypatch)
    stub("fused")
    one = entry("fused", peers=(stand_ins.NAME,))
    dying = one._replace(job=one.job._replace(case_name="die"))
    _, found = measure(out, dying, one)
    assert [row["error"] for row in found] == [None, "its process died with exit status -9", None, None]


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


@pytest.mark.parametrize(("minutes", "done"), [(None, 5), (100.0, 5), (1.5, 2), (0.01, 1)])
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


def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that take no time."""
    monkeypatch.setattr(limits, "SIZES", dict.fromkeys(("cpu", "gpu", "tpu"), (8, 16)))
    monkeypatch.setattr(limits, "COPY_BYTES", (2**18, 2**20))
    monkeypatch.setattr(limits, "SECONDS", 0.0)


def test_measured_limits_are_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    found = MEASURE(["float32", "bfloat16"], None)
    assert list(found.matmul) == ["float32", "bfloat16"]
    assert list(found.copy) == [2**18, 2**20]
    assert all(0 < rate < 1e18 for rate in (*found.matmul.values(), *found.copy.values()))


@pytest.mark.parametrize(("seconds", "rate"), [(1e-30, 2 * 16**3 / 1e-30), (1e30, None)])
def test_limit_of_matmuls_is_that_of_the_better_library(
    monkeypatch: pytest.MonkeyPatch, seconds: float, rate: float | None
) -> None:
    small_limits(monkeypatch)
    asked: list[tuple[Any, ...]] = []
    other: Any = types.SimpleNamespace(ask=lambda *arguments: asked.append(arguments) or seconds)
    found = MEASURE(["float32"], other).matmul["float32"]
    assert asked == [("module", "matmul_seconds", size, "float32", 0.0) for size in (8, 16)]
    if rate is None:
        assert 1.0 < found < 1e18
    else:
        assert found == pytest.approx(rate)


def test_floor_is_of_the_matmuls_or_of_the_memory() -> None:
    # LSTM, T=2 B=3 D=4 H=5, forward: 2160 operations; 314 numbers of 4 bytes (see test_problem).
    job = Job("LSTM", "by hand", Case(2, 3, 4, 5), "float32", FORWARD)
    fast_memory = Limits({"float32": 1000.0}, {2**12: 1e6})
    assert fast_memory.floor_s(job) == 2.16
    fast_matmul = Limits({"float32": 1e9}, {2**12: 628.0})
    assert fast_matmul.floor_s(job) == 2.0
    assert fast_matmul._replace(matmul={"float32": 1e9, "bfloat16": 1e9}).floor_s(job._replace(dtype="bfloat16")) == 1.0


def test_memory_limit_is_the_best_rate_of_arrays_no_smaller() -> None:
    # 1256 bytes.
    job = Job("LSTM", "by hand", Case(2, 3, 4, 5), "float32", FORWARD)
    rate = lambda **copy: Limits({}, {int(size[1:]): float(value) for size, value in copy.items()}).bytes_per_s(job)
    assert rate(_1024=9, _1256=3, _2048=2) == 3.0
    assert rate(_1024=9, _1255=8, _2048=2, _4096=5) == 5.0
    # What is larger than all has the rate of the largest.
    assert rate(_512=9, _1024=4) == 4.0


def test_share_of_others_is_what_is_busy_and_not_ours() -> None:
    before, after = machine.Ticks(1000, 400, 100), machine.Ticks(1200, 520, 170)
    assert machine.used_by_others(before, after) == 50 / 200
    # Clocks are rounded: ours may seem to have used more than was used.
    assert machine.used_by_others(before, machine.Ticks(1200, 460, 170)) == 0.0
    assert machine.used_by_others(None, after) is None


def test_ticks_know_this_process() -> None:
    found = machine.ticks([os.getpid()])
    if found is None:
        pytest.skip("this system has no /proc/stat")
    assert 0 < found.own <= found.busy <= found.total
    assert machine.ticks([2**30]) is None
