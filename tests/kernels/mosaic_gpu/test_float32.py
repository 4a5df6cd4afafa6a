"""`mosaic_gpu` in float32: rounded to TF32 where it is multiplied, with operands by rows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from recurrent_jax.kernels import mosaic_gpu
from tests import cases
from tests.kernels.mosaic_gpu.given import needs_mosaic


@needs_mosaic
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("kind", [rj.RNN, rj.LSTM, rj.PeepholeLSTM, rj.GRU, cases.MGU, cases.LearnedStart])
def test_operands_by_rows_give_what_scan_gives(kind: Any, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # In float64, which is not rounded: all the rest of what float32 does.
    monkeypatch.setattr(mosaic_gpu, "_by_rows", lambda _: True)
    cell = kind(5, param_dtype=jnp.float64)
    params, xs, carry = cases.data(cell)
    mask = jnp.asarray(np.random.default_rng(3).random(xs.shape[:-1]) < 0.7)
    resets = jnp.zeros_like(mask).at[2].set(True)

    def loss(kernel: str) -> Any:
        given = {"mask": mask, "resets": resets, "reverse": reverse, "return_carries": True}
        of = lambda *a: rj.unroll(cell, *a, implementation=kernel, **given)
        return jax.value_and_grad(lambda *a: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(of(*a))), (0, 1, 2))

    with mosaic_gpu.interpreted():
        got = loss("mosaic_gpu")(params, xs, carry)
    # The same sums in another order.
    cases.assert_close(got, loss("scan")(params, xs, carry), 1e-13)


@needs_mosaic
def test_float32_is_rounded_as_tensor_cores_read_it() -> None:
    from recurrent_jax.kernels.mosaic_gpu.block import to_tf32

    numbers = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    rounded = np.asarray(to_tf32(jnp.asarray(numbers)))
    assert not np.any(rounded.view(np.int32) & 0x1FFF)  # the 13 bits that `wgmma` does not read
    assert np.all(np.abs(rounded - numbers) <= 2.0**-11 * np.abs(numbers))
    assert np.mean(rounded > numbers) == pytest.approx(0.5, abs=0.1)  # to the nearest
    special = np.asarray([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F800000, 0xFF800000, 0, 0x80000000], np.uint32).view(
        np.float32
    )
    kept = np.asarray(to_tf32(jnp.asarray(special)))
    np.testing.assert_array_equal(kept, special)
    assert np.all(kept.view(np.uint32)[np.isnan(special)] & 0x7FE000 != 0)  # or `wgmma` would read infinity


class Sum(rj.PointwiseCell):
    """A cell that is its matmuls and nothing else."""

    def pointwise(self, params: Any, carry: rj.RNNCarry, z: jax.Array, r: jax.Array) -> tuple[rj.RNNCarry, jax.Array]:
        """The pre-activations."""
        return rj.RNNCarry(z + r), z + r


@needs_mosaic
def test_float32_is_rounded_where_it_is_multiplied_and_nowhere_else() -> None:
    cell, rows = Sum(40), 16
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    params = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda: cell.init(jax.random.key(0), 3))
    )
    params = params._replace(w_h=jnp.asarray(draw(40, 40)))
    h, d = draw(rows, 40), draw(rows, 40)
    xs, carry = jnp.zeros((1, rows, 3), jnp.float32), rj.RNNCarry(jnp.asarray(h))
    run = lambda params, carry: rj.unroll(cell, params, xs, carry, implementation="mosaic_gpu")[1][0]
    # A cluster of several blocks would want as many threads as XLA's pool has.
    with mosaic_gpu.interpreted(), mosaic_gpu.tiled(1, rows):
        y, pull = jax.vjp(run, params, carry)
        d_params, d_carry = pull(jnp.asarray(d))
    # To the nearest number with 10 bits behind the point: JAX's own rounding, for halves to even.
    rounded = lambda a: np.asarray(jax.lax.reduce_precision(a, exponent_bits=8, mantissa_bits=10), np.float64)
    w = rounded(params.w_h)
    # Sums of 40 products in float32; without rounding, or with it, they would be off by more than 1e-3.
    np.testing.assert_allclose(y, rounded(h) @ w, atol=1e-5)
    np.testing.assert_allclose(d_carry.h, rounded(d) @ w.T, atol=1e-5)
    np.testing.assert_allclose(d_params.w_h, h.astype(np.float64).T @ d, atol=1e-5)
