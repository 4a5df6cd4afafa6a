"""What is wrong, raises, refuses or isn't there is a row that says so, without a time; the others are timed."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import pytest

from benchmarks import contestants, limits, timing
from benchmarks.cells import CELLS
from benchmarks.contestants import Peer, ours
from benchmarks.contestants.base import Refused
from benchmarks.contestants.jax_program import JaxContestant, Layer
from benchmarks.problem import FORWARD, GRADIENT, STEP, TRAIN
from benchmarks.run import Outcome
from tests.benchmarks import stand_ins
from tests.benchmarks.small_runs import FIELDS, MEASURED, Stub, entry, measure, raising

pytestmark = pytest.mark.usefixtures("instant")
MEASURE = limits.measure


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
    layer = lambda job, one: MISTAKES[mistake](ours.layer("scan", {"implementation": "scan"}, job, one))
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
            assert row["error"].startswith("GRU(")
        else:
            assert (row["error"], row["median_s"] is None) == (None, False)


@pytest.mark.parametrize(
    ("name", "mode", "reason"),
    [
        ("fused", STEP, "is measured as cell.step and rj.step, the other modes as kernels"),
        ("cell.step", GRADIENT, "is measured as cell.step and rj.step, the other modes as kernels"),
        ("checkpoint_every=64", FORWARD, "nothing to compute again"),
    ],
)
def test_implementation_without_a_meaning_in_a_mode_is_refused(
    out: pathlib.Path, name: str, mode: str, reason: str
) -> None:
    outcome, (row,) = measure(out, entry(name, mode=mode))
    assert outcome == Outcome(written=1, errors=1, failed=0, left=0)
    assert row["error"].endswith(reason)


@pytest.mark.parametrize("name", ["fused:graphs", "mosaic_gpu:no_graphs"])
def test_options_of_a_gpus_compiler_are_refused_elsewhere(out: pathlib.Path, name: str) -> None:
    outcome, (row,) = measure(out, entry(name))
    assert outcome == Outcome(written=1, errors=1, failed=0, left=0)
    assert row["error"] == "CUDA graphs are of GPUs, and this is a cpu"


def test_failure_with_options_of_xlas_own_is_a_row_and_no_failure_of_ours(
    out: pathlib.Path, stub: Callable[..., Stub]
) -> None:
    stub("fused:graphs", build=raising(RuntimeError("no such node")))
    stub("fused")
    outcome, (_, row) = measure(out, entry("fused", "fused:graphs"))
    assert outcome == Outcome(written=2, errors=1, failed=0, left=0)
    assert row["error"] == "RuntimeError: no such node"


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
    # Behind the warm-up, in the third round; all others begin again, so that no one's time is of two settings.
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
@pytest.mark.usefixtures("small_limits")
def test_peer_that_breaks_when_loaded_leaves_a_row(
    out: pathlib.Path, monkeypatch: pytest.MonkeyPatch, stub: Callable[..., Stub], own_process: bool
) -> None:
    # An installed framework may fail to import. Then it can't take part in measuring the limits either.
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
