"""What `init` draws, and in which dtype."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from tests import cases

CELLS = {
    "rnn": (rj.RNN, 1),
    "lstm": (rj.LSTM, 4),
    "peephole_lstm": (rj.PeepholeLSTM, 4),
    "coupled_lstm": (rj.CoupledLSTM, 3),
    "gru_after": (rj.GRU, 3),
    "gru_before": (lambda size, **more: rj.GRU(size, reset="before", **more), 3),
}
over_cells = pytest.mark.parametrize(("make", "gates"), CELLS.values(), ids=CELLS)
over_dtypes = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
UNITS, FEATURES = 8, 5


@over_cells
def test_init_has_the_shapes_of_the_equations(make: Any, gates: int) -> None:
    params = make(UNITS).init(jax.random.key(0), FEATURES)
    assert params.w_x.shape == (FEATURES, gates * UNITS)
    assert params.w_h.shape == (UNITS, gates * UNITS)
    assert params.b.shape == (gates * UNITS,)


@over_dtypes
@over_cells
def test_init_recurrent_blocks_are_orthogonal_each(make: Any, gates: int, dtype: str) -> None:
    params = make(UNITS, param_dtype=dtype).init(jax.random.key(0), FEATURES)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))
    # Entries below one are rounded by half an eps at most; each product sums eight of them, twice. QR of float64
    # matrices is exact to some eps.
    tolerance = 16 * float(jnp.finfo(dtype).eps)
    blocks = np.split(np.asarray(params.w_h, np.float64), gates, axis=1)
    for block in blocks:
        np.testing.assert_allclose(block.T @ block, np.eye(UNITS), rtol=0, atol=tolerance)
    for one, other in itertools.pairwise(blocks):
        assert np.abs(one - other).max() > 0.1


@over_cells
def test_init_input_blocks_have_the_variance_of_their_inputs(make: Any, gates: int) -> None:
    w_x = np.asarray(make(32).init(jax.random.key(0), 400).w_x)
    # 12800 draws a block: their standard deviation is known to one part in 160; four of these.
    for block in np.split(w_x, gates, axis=1):
        np.testing.assert_allclose(block.std() * np.sqrt(400), 1.0, rtol=4 / 160)


@over_cells
def test_init_draws_all_gates_and_keys_apart(make: Any, gates: int) -> None:
    params, other = (make(UNITS).init(jax.random.key(seed), FEATURES) for seed in (0, 1))
    blocks = np.split(np.asarray(params.w_x), gates, axis=1)
    assert all(np.abs(a - b).max() > 0.1 for a, b in itertools.pairwise(blocks))
    assert float(jnp.abs(params.w_x - other.w_x).max()) > 0.1
    cases.assert_same(make(UNITS).init(jax.random.key(0), FEATURES), params)


@pytest.mark.parametrize("bias", [1.0, 0.0, -2.5])
def test_init_puts_the_forget_bias_into_the_parameters(bias: float) -> None:
    first = lambda family: family(2, forget_bias=bias).init(jax.random.key(0), FEATURES).b
    np.testing.assert_array_equal(first(rj.LSTM), [0, 0, bias, bias, 0, 0, 0, 0])
    np.testing.assert_array_equal(first(rj.PeepholeLSTM), [0, 0, bias, bias, 0, 0, 0, 0])
    np.testing.assert_array_equal(first(rj.CoupledLSTM), [bias, bias, 0, 0, 0, 0])


def test_init_forget_bias_is_one_by_default() -> None:
    np.testing.assert_array_equal(rj.LSTM(1).init(jax.random.key(0), FEATURES).b, [0, 1, 0, 0])
    np.testing.assert_array_equal(rj.PeepholeLSTM(1).init(jax.random.key(0), FEATURES).b, [0, 1, 0, 0])
    np.testing.assert_array_equal(rj.CoupledLSTM(1).init(jax.random.key(0), FEATURES).b, [1, 0, 0])


def test_init_of_peepholes_is_that_of_an_lstm() -> None:
    params = rj.PeepholeLSTM(UNITS).init(jax.random.key(0), FEATURES)
    plain = rj.LSTM(UNITS).init(jax.random.key(0), FEATURES)
    cases.assert_same(rj.LSTMParams(*params[:3]), plain)
    cases.assert_same(params[3:], (np.zeros(UNITS, np.float32),) * 3)
    xs = jax.random.normal(jax.random.key(1), (6, 3, FEATURES))
    run = lambda cell, params: rj.unroll(cell, params, xs, implementation="scan")
    cases.assert_same(run(rj.PeepholeLSTM(UNITS), params), run(rj.LSTM(UNITS), plain))


@pytest.mark.parametrize("make", [rj.RNN, rj.GRU])
def test_init_other_biases_are_zero(make: Any) -> None:
    assert not np.asarray(make(UNITS).init(jax.random.key(0), FEATURES).b).any()


def test_init_inner_bias_exists_with_reset_after_only() -> None:
    after = rj.GRU(UNITS).init(jax.random.key(0), FEATURES)
    np.testing.assert_array_equal(after.b_n, np.zeros(UNITS))
    assert rj.GRU(UNITS, reset="before").init(jax.random.key(0), FEATURES).b_n is None


def test_init_takes_other_initialisers() -> None:
    cell = rj.LSTM(2, w_x_init=jax.nn.initializers.ones, w_h_init=jax.nn.initializers.zeros)
    params = cell.init(jax.random.key(0), 3)
    np.testing.assert_array_equal(params.w_x, np.ones((3, 8)))
    np.testing.assert_array_equal(params.w_h, np.zeros((2, 8)))


@pytest.mark.parametrize("in_size", [0, -1, 2.5, True, "4", None])
def test_init_refuses_a_bad_in_size(in_size: Any) -> None:
    with pytest.raises(ValueError, match=r"in_size: expected a positive integer, got " + repr(in_size)):
        rj.LSTM(4).init(jax.random.key(0), in_size)


@pytest.mark.parametrize("name", ["param_dtype", "dtype"])
def test_init_refuses_float64_that_jax_would_round(name: str) -> None:
    cell = rj.RNN(4, **{name: "float64"})
    with jax.enable_x64(False), pytest.raises(ValueError, match=f"^{name}: float64 needs .*jax_enable_x64"):
        cell.init(jax.random.key(0), 3)


def test_init_runs_under_jit_and_vmap() -> None:
    cell = rj.LSTM(4)
    one = lambda key: cell.init(key, 3)
    keys = jax.random.split(jax.random.key(0), 2)
    stacked = jax.jit(jax.vmap(one))(keys)
    # QR in a batch or alone, in float32.
    cases.assert_close(jax.tree.map(lambda leaf: leaf[1], stacked), one(keys[1]), 1e-6)
