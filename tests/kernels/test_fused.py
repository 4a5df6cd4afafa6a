"""What is particular to `fused`: where it projects the inputs, and which cells it takes."""

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

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


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_steps_of_two_bytes_are_not_turned_into_others_with_all_others(dtype: str) -> None:
    # XLA on a CPU would: a step would take as long as there are steps.
    cell = rj.GRU(4, param_dtype=dtype)
    given = cases.data(cell, (3,), 29)
    run = lambda params, xs, carry: rj.unroll(cell, params, xs, carry, implementation="fused")[1]
    loss = lambda *args: jnp.sum(run(*args).astype(jnp.float32))
    for function in (run, jax.grad(loss, (0, 1, 2))):
        text = jax.jit(function).lower(*given).compile().as_text()
        stacked = re.findall(r"(\w+)\[29,3,\d+\]\S* dynamic-update-slice\(", text)
        assert set(stacked) == {"u16"}


def test_what_a_scan_takes_as_known_has_a_gradient() -> None:
    # The inner gradient is of the scale alone; integers of the same bits have none.
    cell = rj.GRU(4, param_dtype="bfloat16")
    params, xs, _ = cases.data(cell)

    def scaled(scale: Any, params: Any, name: str) -> Any:
        def add(total: Any, xs: Any) -> Any:
            _, ys = rj.unroll(cell, params, xs, implementation=name)
            return total + jnp.sum(scale**2 * jnp.sin(ys.astype(jnp.float32))), None

        return jax.lax.scan(add, jnp.zeros((), jnp.float32), xs[jnp.newaxis])[0]

    gradient = lambda name: jax.grad(lambda params: jax.grad(scaled)(jnp.float32(1.5), params, name))(params)
    assert float(jnp.abs(gradient("scan").w_h).max()) > 0.1
    cases.assert_close(gradient("fused"), gradient("scan"), 0.03)


def test_refuses_a_cell_that_is_not_pointwise() -> None:
    assert fused.refuses(cases.Counter(), Inputs((), None, None), Options()) == "Counter is not a PointwiseCell"


def test_refuses_a_cell_with_two_matmuls() -> None:
    reason = fused.refuses(rj.GRU(4, reset="before"), Inputs((), None, None), Options())
    assert reason is not None
    assert reason.startswith("GRU(hidden_size=4")
    assert "more than one recurrent matmul" in reason


def test_a_traced_array_that_the_cell_closes_over_is_refused() -> None:
    xs = jnp.ones((3, 2, 2))
    params = rj.RNN(2).init(jax.random.key(0), 2)

    def in_pointwise(scale: Any) -> Any:
        helper = lambda h: h * scale

        class Scaled(rj.PointwiseCell):
            """As a user writes it within a function."""

            def pointwise(self, params: Any, carry: Any, z: jax.Array, r: jax.Array) -> Any:
                """tanh, scaled."""
                h = helper(jnp.tanh(z + r))
                return carry._replace(h=h), h

        return Scaled(2)

    in_field = lambda scale: rj.RNN(2, activation=lambda x: jnp.tanh(x) * scale)
    for make in (in_pointwise, in_field):
        loss = lambda scale, name, make=make: jnp.sum(rj.unroll(make(scale), params, xs, implementation=name)[1])
        assert jax.grad(loss)(2.0, None) == jax.grad(loss)(2.0, "scan") != 0
        with pytest.raises(NotImplementedError, match="fused refuses: the cell closes over a traced array"):
            jax.grad(loss)(2.0, "fused")
        assert loss(2.0, "fused") == loss(2.0, "scan")


class LeakyParams(NamedTuple):
    """`w_x [D, H]`, `w_h [H, H]`, one bias for all units, `b [1]`, and a rate, a number."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array
    rate: jax.Array


@dataclasses.dataclass(frozen=True)
class Leaky(rj.PointwiseCell):
    """With parameters of other shapes than this library's cells have."""

    gates: ClassVar[int] = 1

    def init(self, key: jax.Array, in_size: int) -> LeakyParams:
        """A rate of a third."""
        return LeakyParams(*self.draw_weights(key, in_size), self.zeros(1) + 0.1, self.zeros(1)[0] + 1 / 3)

    def pointwise(self, params: LeakyParams, carry: Any, z: jax.Array, r: jax.Array) -> tuple[Any, jax.Array]:
        """A step towards the new `h`."""
        h = (1 - params.rate) * carry.h + params.rate * jnp.tanh(z + r)
        return rj.RNNCarry(h), h


def test_gradients_of_numbers_and_of_a_bias_for_all_units_equal_the_scans() -> None:
    cell = Leaky(5, param_dtype=jnp.float64)
    params, xs, carry = cases.data(cell)

    def loss(params: Any, implementation: str) -> jax.Array:
        return jnp.sum(jnp.sin(rj.unroll(cell, params, xs, carry, implementation=implementation)[1]))

    assert rj.explain(cell, params, xs, carry, implementation="fused").chosen == "fused"
    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        got, expected = (derivative(loss)(params, name) for name in ("fused", "scan"))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)
    # And finite differences of the rate.
    moved = lambda by: loss(params._replace(rate=params.rate + by), "fused")
    slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(loss)(params, "fused").rate, slope, rtol=1e-7)


def matmuls(jaxpr: Any) -> Iterator[Any]:
    """All matmuls of a program, at any depth."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda leaf: hasattr(leaf, "jaxpr") or hasattr(leaf, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from matmuls(inner)


def test_gradients_in_half_precision_are_multiplied_in_half_precision() -> None:
    cell = rj.LSTM(6, param_dtype=jnp.bfloat16)
    params, xs = cell.init(jax.random.key(0), 3), jnp.ones((4, 2, 3), jnp.bfloat16)
    loss = lambda params, xs: jnp.sum(rj.unroll(cell, params, xs, implementation="fused")[1].astype(jnp.float32))
    found = matmuls(jax.make_jaxpr(jax.grad(loss, (0, 1)))(params, xs).jaxpr)
    # The cotangents of all steps' z, times the inputs and times the weights.
    operands = {eqn.outvars[0].aval.shape: [var.aval.dtype.name for var in eqn.invars] for eqn in found}
    assert operands[3, 24] == operands[8, 3] == ["bfloat16", "bfloat16"]
