"""`pointwise` by units, as `mosaic_gpu` runs it: held to the same function of whole rows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent_jax.kernels.mosaic_gpu.units import Pieces, UnitFunction
from tests import cases


def apart(vector: np.ndarray, units: int) -> Pieces:
    """`[rows, k*H]` as k arrays `[H, rows]`."""
    return Pieces(jnp.asarray(piece.T) for piece in np.split(vector, vector.shape[-1] // units, axis=-1))


def together(pieces: Pieces) -> np.ndarray:
    """And back."""
    return np.concatenate([np.asarray(piece).T for piece in pieces], axis=-1)


def a_bit_of_everything(carry: dict[str, Any], gates: jax.Array, keep: jax.Array) -> dict[str, Any]:
    """All ways in which a row is taken apart and put together again, with constants, a flag and a custom derivative."""
    i, f, g = jnp.split(gates, 3)
    half = gates[4:8] * jax.nn.relu(gates[:4]) + jnp.float32(0.5)
    c = jnp.where(keep, carry["c"] * jax.nn.sigmoid(f) + i, jnp.zeros_like(i))
    wide = jnp.concatenate([c, half]) * jnp.pad(g, (4, 0), constant_values=2.0)
    return {"c": c, "wide": wide, "same": jnp.full((4,), 3.0, jnp.float32)}


@pytest.mark.parametrize("derivative", [False, True], ids=["function", "derivative"])
def test_units_give_what_rows_give(rng: np.random.Generator, derivative: bool) -> None:
    units, rows = 4, 5
    draw = lambda size: rng.standard_normal((rows, size)).astype(np.float32)
    carry, gates, keep, d_wide = {"c": draw(4)}, draw(12), rng.random(rows) < 0.5, draw(8)

    def function(carry: Any, gates: jax.Array, d_wide: jax.Array, keep: jax.Array) -> Any:
        if not derivative:
            return a_bit_of_everything(carry, gates, keep)
        return jax.vjp(lambda *a: a_bit_of_everything(*a, keep)["wide"], carry, gates)[1](d_wide)

    row = lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype)
    by_units = UnitFunction(function, units, *jax.tree.map(row, (carry, gates, d_wide, keep)))
    assert by_units.refusal is None
    filled = jnp.broadcast_to(jnp.asarray(keep)[jnp.newaxis], (units, rows))
    got = by_units(*(jax.tree.map(lambda a: apart(a, units), tree) for tree in (carry, gates, d_wide)), filled)
    expected = jax.vmap(function)(carry, gates, d_wide, keep)
    cases.assert_close(jax.tree.map(together, got), jax.tree.map(np.asarray, expected), 1e-6)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda v: v - jnp.mean(v), "`pointwise` has reduce_sum, which is not among the operations that are done to"),
        (lambda v: v * jnp.arange(8, dtype=jnp.float32), "`pointwise` has iota, which makes something of nothing"),
        (lambda v: v + jax.pure_callback(np.sin, v, v), "`pointwise` has pure_callback"),
        (lambda v: (jax.debug.callback(print, v), v)[1], "`pointwise` has side effects"),
        (lambda v: v[::-1], "`pointwise` has rev"),
        (lambda v: v * jnp.pad(v[1:], (1, 0)), "`pointwise` cuts a vector at 1, within a gate of 4 units"),
        (lambda v: v * np.arange(8, dtype=np.float32), "`pointwise` closes over an array [8], which has to be a param"),
        (lambda v: v.reshape(2, 4), "`pointwise` has an array [2, 4] of each row, where 4 units have whole gates"),
    ],
    ids=["mean", "index", "callback", "print", "reverse", "shift", "closure", "shape"],
)
def test_what_mixes_units_is_refused(function: Any, why: str) -> None:
    refusal = UnitFunction(function, 4, jax.ShapeDtypeStruct((8,), jnp.float32)).refusal
    assert refusal is not None
    assert refusal.startswith(why)
