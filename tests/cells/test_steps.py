"""Every cell's step, one at a time, equals the oracle; and the step is its two halves."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from tests import cases, oracles
from tests.cases import Case

# Float64 on both sides, six steps.
ORACLE = 1e-12


def leaves(tree: Any) -> oracles.Row:
    """A pytree as the oracle wants it."""
    return tuple(np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)], ids=str)
@cases.over_cases
def test_streaming_equals_oracle(case: Case, batch: tuple[int, ...]) -> None:
    params, xs, carry = cases.data(case.cell, batch)
    _, expected, carries = oracles.unroll(case.oracle, leaves(params), np.asarray(xs), leaves(carry), leaves(carry))
    for t, x in enumerate(xs):
        carry, y = case.cell.step(params, carry, x)
        np.testing.assert_allclose(y, expected[t], rtol=0, atol=ORACLE)
        for got, want in zip(carry, carries, strict=True):
            np.testing.assert_allclose(got, want[t], rtol=0, atol=ORACLE)


@cases.over_cases
def test_step_is_recur_after_project(case: Case) -> None:
    params, xs, carry = cases.data(case.cell)
    halves = case.cell.recur(params, carry, case.cell.project(params, xs[0]))
    cases.assert_same(case.cell.step(params, carry, xs[0]), halves)


@cases.over_cases
def test_project_of_all_steps_at_once_is_that_of_each(case: Case) -> None:
    params, xs, _ = cases.data(case.cell)
    each = jnp.stack([case.cell.project(params, x) for x in xs])
    # One matmul or six: sums of three float64 terms.
    cases.assert_close(case.cell.project(params, xs), each, 1e-14)


@cases.over_cases
def test_step_keeps_the_carry(case: Case) -> None:
    params, xs, carry = cases.data(case.cell)
    describe = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    initial = case.cell.initial_carry(params, cases.BATCH)
    assert describe(case.cell.step(params, carry, xs[0])[0]) == describe(initial) == describe(carry)


def test_rnn_takes_any_elementwise_function() -> None:
    cell = rj.RNN(cases.UNITS, activation=jnp.sin, **cases.DOUBLE)
    params, xs, carry = cases.data(cell)
    _, y = cell.step(params, carry, xs[0])
    expected = np.sin(np.asarray(xs[0]) @ params.w_x + np.asarray(carry.h) @ params.w_h + np.asarray(params.b)[None])
    np.testing.assert_allclose(y, expected, rtol=0, atol=ORACLE)


@pytest.mark.parametrize(
    "given", [lambda h: None, lambda h: (h, h), lambda h: rj.RNNCarry(h)], ids=["None", "h", "carry"]
)
def test_pointwise_that_gives_something_else_is_named(given: Any) -> None:
    class Mistaken(rj.PointwiseCell):
        """A cell as it is first written."""

        def pointwise(self, params: Any, carry: Any, z: Any, r: Any) -> Any:
            """Not what it should."""
            return given(jnp.tanh(z + r))

    params, xs, carry = cases.data(Mistaken(3))
    with pytest.raises(
        TypeError, match=r"^Mistaken\.pointwise: expected \(carry, y\) with a RNNCarry as it was given, got "
    ):
        Mistaken(3).step(params, carry, xs[0])


def test_pointwise_cell_without_pointwise_says_so() -> None:
    cell = rj.PointwiseCell(4)
    params = cell.init(jax.random.key(0), 3)
    with pytest.raises(NotImplementedError, match=r"PointwiseCell must define pointwise\(params, carry, z, r\)"):
        cell.step(params, cell.initial_carry(params), jnp.ones(3))
