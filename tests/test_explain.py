"""`explain` says what `unroll` runs, and why not what comes before it."""

from typing import Any

import pytest

import recurrent_jax as rj
from recurrent_jax import kernels
from tests import cases

# The kernels that are there on every machine.
PROGRAMS = ("fused", "scan")
REFUSAL = f"{rj.GRU(4, reset='before')!r} is more than one recurrent matmul and an elementwise function"


def explained(cell: Any, **arguments: Any) -> rj.Explanation:
    """`explain` of one small call."""
    params, xs, _ = cases.data(cell)
    return rj.explain(cell, params, xs, **arguments)


def test_explain_first_kernel_runs() -> None:
    explanation = explained(rj.LSTM(4), implementation=PROGRAMS)
    assert explanation.chosen == "fused"
    assert explanation.verdicts == (("fused", None), ("scan", None))
    assert str(explanation) == repr(explanation) == "fused  runs\nscan   not needed"


def test_explain_gives_the_reason_of_a_refusal() -> None:
    explanation = explained(rj.GRU(4, reset="before"), implementation=PROGRAMS)
    assert explanation.chosen == "scan"
    assert explanation.verdicts == (("fused", REFUSAL), ("scan", None))
    assert str(explanation) == f"fused  refuses: {REFUSAL}\nscan   runs"


def test_explain_plain_object_runs_in_the_scan() -> None:
    text = str(explained(cases.Counter()))
    assert text.startswith("native      refuses: ")
    assert "\nfused       refuses: Counter is not a PointwiseCell\n" in text
    assert text.endswith("\nscan        runs")


def test_explain_without_a_choice_goes_through_all_kernels() -> None:
    explanation = explained(rj.LSTM(4))
    assert tuple(name for name, _ in explanation.verdicts) == cases.KERNELS
    assert explanation.chosen == next(name for name, reason in explanation.verdicts if reason is None)


def test_unroll_asks_no_kernel_behind_the_one_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError

    taken = explained(rj.LSTM(4)).chosen
    behind = [kernel.NAME for kernel in kernels.REGISTRY].index(taken) + 1
    for kernel in kernels.REGISTRY[behind:]:
        monkeypatch.setattr(kernel, "refuses", never)
    params, xs, _ = cases.data(rj.LSTM(4))
    rj.unroll(rj.LSTM(4), params, xs)
    rj.step(rj.LSTM(4), params, rj.LSTM(4).initial_carry(params, xs.shape[1:-1]), xs[0])


@pytest.mark.parametrize("name", kernels.HESITATIONS)
@pytest.mark.parametrize("why", ["slow", None])
def test_some_kernels_have_to_be_asked_for(monkeypatch: pytest.MonkeyPatch, name: str, why: str | None) -> None:
    # On a device where it could run, and where nothing before it does.
    for kernel in kernels.REGISTRY:
        refusal = None if kernel.NAME in (name, "scan") else "not here"
        monkeypatch.setattr(kernel, "refuses", lambda *_, refusal=refusal: refusal)
    monkeypatch.setitem(kernels.HESITATIONS, name, lambda *_: why)
    chosen = explained(rj.LSTM(4))
    assert chosen.chosen == ("scan" if why else name)
    assert dict(chosen.verdicts)[name] == (why and f"only where it is asked for by its name: {why}")
    assert explained(rj.LSTM(4), implementation=name).chosen == name


@pytest.mark.parametrize("name", ["pallas_tpu", "cudnn"])
def test_kernels_that_nobody_has_timed_are_always_asked_for(name: str) -> None:
    assert kernels.HESITATIONS[name](rj.LSTM(4), None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("implementation", "text"),
    [
        ("scan", "scan  runs"),
        ("fused", "fused  runs"),
        (("scan", "fused"), "scan   runs\nfused  not needed"),
        (("scan",), "scan  runs"),
    ],
    ids=str,
)
def test_explain_keeps_to_what_is_allowed(implementation: Any, text: str) -> None:
    assert str(explained(rj.LSTM(4), implementation=implementation)) == text


def test_explain_raises_where_unroll_would() -> None:
    with pytest.raises(NotImplementedError, match="fused refuses"):
        explained(rj.GRU(4, reset="before"), implementation="fused")


def test_explain_takes_every_argument_of_unroll() -> None:
    flags = {"mask": cases.GAPS, "resets": cases.RESETS, "reverse": True, "return_carries": True}
    chosen = explained(rj.LSTM(4), **flags, implementation=PROGRAMS, checkpoint_every=2, unroll=2).chosen
    assert chosen == "fused"


def test_layers_are_explained_cell_by_cell() -> None:
    stack = rj.Stack([rj.LSTM(4), rj.GRU(4)])
    hint = "Stack is not a PointwiseCell; Stack.apply may run its cells by other kernels: explain them one by one"
    assert str(explained(stack, implementation=PROGRAMS)) == f"fused  refuses: {hint}\nscan   runs"
    both = rj.Bidirectional(rj.LSTM(4))
    message = r"^cell: .* lacks step; it has apply: call that, and explain its cells one by one$"
    for call in (rj.explain, rj.unroll):
        with pytest.raises(TypeError, match=message):
            call(both, *cases.data(rj.LSTM(4))[:2])
