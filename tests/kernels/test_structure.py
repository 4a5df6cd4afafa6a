"""What `analyse` reads off a cell's `pointwise`."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import pytest

import recurrent_jax as rj
from recurrent_jax.kernels.structure import Structure, analyse
from tests import cases


def structure_of(cell: Any) -> Structure:
    """`analyse` at the shapes of one small call."""
    params, xs, carry = cases.data(cell)
    z = jax.eval_shape(cell.project, params, xs[0])
    return analyse(cell, params, carry, z, z)


@dataclasses.dataclass(frozen=True)
class Written(rj.PointwiseCell):
    """A cell whose `pointwise` is the body under test."""

    body: Any = None
    gates: ClassVar[int] = 1

    def pointwise(self, params: Any, carry: Any, z: Any, r: Any) -> Any:
        """Whatever `body` says."""
        h, y = self.body(params, carry, z, r)
        return carry._replace(h=h), y


ADDITIVE = {
    "rnn_tanh": True,
    "rnn_relu": True,
    "lstm": True,
    "peephole_lstm": True,
    "coupled_lstm": True,
    "gru_after": False,
    "learned_start": True,
    "mgu": False,
}
USED = {
    "peephole_lstm": (False, False, False, True, True, True),
    "gru_after": (False, False, False, True),
    "learned_start": (False, False, False, True, True, True, False),
}
# Of the carry; of h only what is not its matmul counts.
CARRIED = {"rnn_tanh": (False,), "rnn_relu": (False,), "gru_after": (True,), "mgu": (True,)}


@pytest.mark.parametrize("name", ADDITIVE)
def test_cells_have_the_structure_of_their_equations(name: str) -> None:
    case = next(case for case in cases.CASES if case.name == name)
    leaves = len(jax.tree.leaves(cases.data(case.cell).params))
    expected = Structure(ADDITIVE[name], USED.get(name, (False,) * leaves), CARRIED.get(name, (False, True)))
    assert structure_of(case.cell) == expected


def test_arrays_that_pointwise_closes_over_are_found() -> None:
    array = jnp.linspace(0.0, 1.0, cases.UNITS, dtype=jnp.float64)
    body = lambda params, carry, z, r: (jnp.broadcast_to(array, z.shape) * (z + r), z)
    assert structure_of(Written(cases.UNITS, body=body, param_dtype=jnp.float64)).constants == ((cases.UNITS,),)


@pytest.mark.parametrize(
    ("additive", "body"),
    [
        pytest.param(True, lambda p, c, z, r: ((z + r),) * 2, id="the sum itself"),
        pytest.param(True, lambda p, c, z, r: (jnp.tanh(r + z), c.h), id="the sum the other way"),
        pytest.param(True, lambda p, c, z, r: (jnp.tanh(z + r), jnp.tanh(z + r)), id="the sum twice"),
        pytest.param(True, lambda p, c, z, r: [jnp.tanh(z + r), z * 0][:1] * 2, id="a dead use of z"),
        pytest.param(False, lambda p, c, z, r: (jnp.tanh(z + r), z), id="z given out"),
        pytest.param(False, lambda p, c, z, r: (jnp.tanh(z + r), r), id="r given out"),
        pytest.param(False, lambda p, c, z, r: (jnp.tanh(z + r), z + z), id="z with itself"),
        pytest.param(False, lambda p, c, z, r: (jnp.tanh(z + r), r - z), id="the difference"),
        pytest.param(False, lambda p, c, z, r: (jnp.tanh(z) + r, c.h), id="a function of z"),
        pytest.param(False, lambda p, c, z, r: (jnp.tanh(r), c.h), id="r alone"),
        pytest.param(False, lambda p, c, z, r: (c.h, c.h), id="neither"),
    ],
)
def test_additive_means_the_sum_and_nothing_else(additive: bool, body: Any) -> None:
    cell = Written(cases.UNITS, body=body, param_dtype=jnp.float64)
    assert structure_of(cell).additive is additive


def test_a_parameter_read_or_given_out_is_used() -> None:
    body = lambda p, c, z, r: (jnp.tanh(z + r), c.h * 0 + p.b.reshape(1, -1))
    assert structure_of(Written(cases.UNITS, body=body, param_dtype=jnp.float64)).used == (False, False, True)
    body = lambda p, c, z, r: (jnp.tanh(z + r), p.b)
    assert structure_of(Written(cases.UNITS, body=body, param_dtype=jnp.float64)).used == (False, False, True)


def test_a_dead_read_of_a_parameter_is_no_use() -> None:
    def body(p: Any, c: Any, z: Any, r: Any) -> Any:
        jnp.sin(p.b)
        return jnp.tanh(z + r), c.h

    assert structure_of(Written(cases.UNITS, body=body, param_dtype=jnp.float64)).used == (False, False, False)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda p, c, z, r: (jnp.tanh(z + r), z), id="z given out"),
        pytest.param(lambda p, c, z, r: (jnp.tanh(z + r), r), id="r given out"),
        pytest.param(lambda p, c, z, r: (jnp.tanh(z + r), 2 * (z + r) + c.h), id="the sum given out"),
        pytest.param(lambda p, c, z, r: (jnp.tanh(r), c.h), id="r alone"),
        pytest.param(lambda p, c, z, r: (c.h * 0.5, jnp.sin(z)), id="z alone"),
        pytest.param(lambda p, c, z, r: (c.h * 0.5, c.h), id="neither"),
        pytest.param(lambda p, c, z, r: (jnp.tanh(z + r), jnp.tanh(r) * p.b.reshape(1, -1)), id="a parameter"),
    ],
)
def test_odd_cells_have_the_gradient_of_scan(body: Any) -> None:
    cell = Written(cases.UNITS, body=body, param_dtype=jnp.float64)
    given = cases.data(cell)

    def loss(params: Any, xs: Any, carry: Any, kernel: str) -> Any:
        last, ys = rj.unroll(cell, params, xs, carry, implementation=kernel)
        return jnp.sum(jnp.sin(ys)) + jnp.sum(last.h**2)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), static_argnums=3, compiler_options=cases.FAST_TO_COMPILE)
    fused, scan = (gradient(*given, kernel) for kernel in ("fused", "scan"))
    # Float64 in two orders of summation.
    cases.assert_close(fused, scan, 1e-12)
