"""What is particular to `fused`: where it projects the inputs, and which cells it takes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from recurrent_jax.kernels import fused
from recurrent_jax.kernels.contract import Inputs, Options
from recurrent_jax.kernels.pointwise import Pass
from tests import cases


@functools.cache
def value_and_gradients(hoist: bool | None, cell: Any) -> Any:
    """Outputs and gradients of `fused.run` with everything switched on."""
    given = cases.data(cell)

    def loss(inputs: Any) -> Any:
        out = fused.run(cell, Inputs(*inputs, cases.GAPS, cases.RESETS), Options(True, True), hoist=hoist)
        rng = np.random.default_rng(2)
        return sum(jnp.sum(leaf * rng.standard_normal(leaf.shape)) for leaf in jax.tree.leaves(out)), out

    arguments = (*given, cell.initial_carry(given.params, cases.BATCH))
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(arguments)


@pytest.mark.parametrize("name", ["learned_start", "mgu"])
def test_hoisted_projection_changes_nothing(name: str) -> None:
    cell = next(case.cell for case in cases.CASES if case.name == name)
    # One matmul over all steps or one a step: float64 sums of three terms in the same order, or another.
    cases.assert_close(value_and_gradients(True, cell), value_and_gradients(False, cell), 1e-14)


def test_hoisted_projection_is_one_matmul_before_the_loop() -> None:
    cell = cases.LEARNED_START.cell
    given = cases.data(cell)

    def dots_in_forward_loop(hoist: bool) -> int:
        forward = lambda xs: fused._forward(Pass(cell, Inputs(given.params, xs, given.carry), Options()), hoist)
        (loop,) = [e for e in jax.make_jaxpr(forward)(given.xs).jaxpr.eqns if e.primitive.name == "scan"]
        return str(loop.params["jaxpr"]).count("dot_general")

    assert (dots_in_forward_loop(hoist=False), dots_in_forward_loop(hoist=True)) == (2, 1)


def test_default_hoist_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cases.LEARNED_START.cell
    given = cases.data(cell)
    run = lambda xs, hoist: fused.run(cell, Inputs(given.params, xs, given.carry), Options(), hoist=hoist).ys
    program = lambda hoist: str(jax.make_jaxpr(lambda xs: jax.vjp(lambda xs: run(xs, hoist), xs)[0])(given.xs))
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert program(None) == program(False) != program(True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert program(None) == program(True)


def test_backward_pass_saves_one_buffer_of_preactivations_for_additive_cells() -> None:
    def saved(cell: Any) -> list[tuple[int, ...]]:
        given = cases.data(cell)
        shapes = jax.eval_shape(lambda: fused._forward(Pass(cell, Inputs(*given), Options()), False)[1].pre)
        return [leaf.shape for leaf in shapes]

    shape = (cases.STEPS, *cases.BATCH)
    assert saved(rj.LSTM(cases.UNITS)) == [(*shape, 4 * cases.UNITS)]
    assert saved(rj.GRU(cases.UNITS)) == [(*shape, 3 * cases.UNITS)] * 2


def test_refuses_a_cell_that_is_not_pointwise() -> None:
    assert fused.refuses(cases.Counter(), Inputs((), None, None), Options()) == "Counter is not a PointwiseCell"


def test_refuses_a_cell_with_two_matmuls() -> None:
    reason = fused.refuses(rj.GRU(4, reset="before"), Inputs((), None, None), Options())
    assert reason is not None
    assert reason.startswith("GRU(hidden_size=4")
    assert "more than one recurrent matmul" in reason
