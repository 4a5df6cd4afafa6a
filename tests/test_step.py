"""`rj.step`: what `cell.step` does, by whatever kernel."""

import jax
import jax.numpy as jnp
import pytest

import recurrent_jax as rj
from tests import cases

# Float64 sums in two orders.
REORDERED = 1e-14


@pytest.mark.parametrize("batch", [(), (3,), (2, 2), (9,)], ids=str)
@cases.over_pairs
def test_step_is_that_of_the_cell(case: cases.Case, kernel: str, batch: tuple[int, ...]) -> None:
    params, xs, carry = cases.data(case.cell, batch)
    step = lambda *given: rj.step(case.cell, *given, implementation=kernel)
    expected = case.cell.step(params, carry, xs[0])
    cases.assert_close(step(params, carry, xs[0]), expected, REORDERED)
    cases.assert_close(jax.jit(step)(params, carry, xs[0]), expected, REORDERED)


@cases.over_kernels
def test_steps_are_the_sequence(kernel: str) -> None:
    cell = rj.LSTM(cases.UNITS, param_dtype=jnp.float64)
    params, xs, carry = cases.data(cell)
    whole = rj.unroll(cell, params, xs, carry, implementation=kernel)
    ys = []
    for x in xs:
        carry, y = rj.step(cell, params, carry, x)
        ys.append(y)
    cases.assert_close((carry, jnp.stack(ys)), whole, REORDERED)


@cases.over_kernels
def test_gradient_of_a_step_is_that_of_the_cell(kernel: str) -> None:
    cell = rj.GRU(cases.UNITS, param_dtype=jnp.float64)
    params, xs, carry = cases.data(cell)
    gradient = lambda step: jax.grad(lambda *given: jnp.sum(jnp.sin(step(*given)[1])), (0, 1, 2))(params, carry, xs[0])
    got = gradient(lambda *given: rj.step(cell, *given, implementation=kernel))
    cases.assert_close(got, gradient(cell.step), REORDERED)


@cases.over_kernels
def test_step_takes_lists_and_no_carry(kernel: str) -> None:
    cell = rj.LSTM(cases.UNITS, param_dtype=jnp.float64)
    params, xs, _ = cases.data(cell, ())
    expected = cell.step(params, cell.initial_carry(params), xs[0])
    cases.assert_close(rj.step(cell, params, None, xs[0].tolist(), implementation=kernel), expected, REORDERED)


def test_step_of_any_object_is_its_own() -> None:
    cell = cases.Counter()
    carry, y = rj.step(cell, (), cell.initial_carry(()), jnp.ones(1))
    assert int(carry.count[0]) == int(y[0]) == 1


def test_step_refuses_what_unroll_refuses() -> None:
    cell = rj.RNN(4)
    params = cell.init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=r"xs: expected \[T, ..., 3\], got \[1, 2, 5\]"):
        rj.step(cell, params, cell.initial_carry(params, (2,)), jnp.ones((2, 5)))
    with pytest.raises(ValueError, match="implementation: expected None"):
        rj.step(cell, params, cell.initial_carry(params, (2,)), jnp.ones((2, 3)), implementation="fast")
