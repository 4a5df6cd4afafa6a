"""Which dtype is what, and how far half precision may be from float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from recurrent_jax.kernels import by_name
from tests import cases, oracles

LOW = ["bfloat16", "float16"]
STEPS, ROWS, FEATURES, UNITS = 8, 3, 4, 5
CELLS = {
    "rnn_tanh": (rj.RNN, {}, oracles.rnn_tanh),
    "lstm": (rj.LSTM, {}, oracles.lstm),
    "peephole_lstm": (rj.PeepholeLSTM, {}, oracles.peephole_lstm),
    "coupled_lstm": (rj.CoupledLSTM, {}, oracles.coupled_lstm),
    "gru_after": (rj.GRU, {}, oracles.gru_after),
    "gru_before": (rj.GRU, {"reset": "before"}, oracles.gru_before),
}
over_cells = pytest.mark.parametrize("name", CELLS)


def make(name: str, **dtypes: Any) -> Any:
    """The cell of that name."""
    family, attributes, _ = CELLS[name]
    return family(UNITS, **attributes, **dtypes)


def skip_where_refused(cell: Any, kernel: str) -> None:
    """Skips the test where the kernel does not run the cell."""
    if reason := cases.refusal(cell, by_name(kernel)):
        pytest.skip(reason)


@pytest.mark.parametrize("dtype", [*LOW, "float32", "float64"])
@over_cells
def test_carry_dtypes_stay(name: str, dtype: str) -> None:
    cell = make(name, dtype=dtype)
    params = cell.init(jax.random.key(0), FEATURES)
    assert params.w_x.dtype == jnp.float32
    carry, ys = rj.unroll(cell, params, jnp.ones((3, ROWS, FEATURES), jnp.float32), resets=np.ones((3, ROWS), bool))
    for now in (cell.initial_carry(params, (ROWS,)), carry):
        assert now.h.dtype == ys.dtype == dtype
        if "lstm" in name:
            assert now.c.dtype == (dtype if dtype == "float64" else "float32")


@pytest.mark.parametrize("kernel", cases.KERNELS)
@pytest.mark.parametrize("dtype", LOW)
def test_gradients_have_the_dtypes_of_what_they_belong_to(dtype: str, kernel: str) -> None:
    cell = rj.LSTM(UNITS, dtype=dtype)
    skip_where_refused(cell, kernel)
    params = cell.init(jax.random.key(0), FEATURES)
    arguments = (params, jnp.ones((3, ROWS, FEATURES), jnp.float32), cell.initial_carry(params, (ROWS,)))
    loss = lambda *a: jnp.sum(rj.unroll(cell, *a, implementation=kernel)[1].astype(jnp.float32))
    gradients = jax.grad(loss, argnums=(0, 1, 2))(*arguments)
    assert jax.tree.map(lambda a: a.dtype, gradients) == jax.tree.map(lambda a: a.dtype, arguments)


@pytest.mark.parametrize("kernel", cases.KERNELS)
@pytest.mark.parametrize("dtype", LOW)
@over_cells
def test_half_precision_is_near_the_oracle(name: str, dtype: str, kernel: str) -> None:
    cell = make(name, param_dtype=dtype)
    skip_where_refused(cell, kernel)
    params, xs, carry = cases.data(cell, (ROWS,), STEPS, FEATURES)
    double = lambda tree: tuple(np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree))
    _, expected, _ = oracles.unroll(
        CELLS[name][2], double(params), np.asarray(xs, np.float64), double(carry), double(carry)
    )
    _, ys = jax.jit(lambda *a: jax.vjp(lambda *b: rj.unroll(cell, *b, implementation=kernel), *a)[0])(params, xs, carry)
    assert ys.dtype == dtype
    # Operands are exact and sums are float32, so each step rounds h (at most 1) once, by eps / 2. Seven roundings can
    # come back through W_h, whose spectral norm is about 2 here, damped by tanh' and gates to below 1 on average.
    bound = STEPS * float(jnp.finfo(dtype).eps)
    error = float(np.abs(np.asarray(ys, np.float64) - expected).max())
    assert error <= bound
    # It did round: a float32 cell would be nearer than this.
    assert error > float(jnp.finfo(dtype).eps) / 64


@pytest.mark.parametrize("kernel", cases.KERNELS)
def test_matmuls_accumulate_in_float32(kernel: str) -> None:
    # 1 + 300 * 2**-9 = 1.586; a bfloat16 sum stays at 1, since 2**-9 is below half of its eps.
    cell = rj.RNN(1, activation="relu", param_dtype="bfloat16", w_x_init=jax.nn.initializers.ones)
    skip_where_refused(cell, kernel)
    params = cell.init(jax.random.key(0), 301)
    xs = jnp.full((1, 1, 301), 2.0**-9, jnp.bfloat16).at[..., 0].set(1)
    _, ys = rj.unroll(cell, params, xs, implementation=kernel)
    np.testing.assert_allclose(float(ys[0, 0, 0]), 1 + 300 * 2.0**-9, rtol=float(jnp.finfo("bfloat16").eps))


@pytest.mark.parametrize("kernel", cases.KERNELS)
def test_cell_state_sums_in_float32(kernel: str) -> None:
    # Gates wide open and a candidate of one: c grows by 1 each step, beyond the 256 that bfloat16 can count.
    cell = rj.LSTM(1, dtype="bfloat16")
    skip_where_refused(cell, kernel)
    params = rj.LSTMParams(
        jnp.zeros((1, 4), jnp.float32), jnp.zeros((1, 4), jnp.float32), jnp.full((4,), 30.0, "float32")
    )
    carry, _ = rj.unroll(cell, params, jnp.zeros((300, 1, 1), jnp.float32), implementation=kernel)
    assert float(carry.c[0, 0]) == 300
