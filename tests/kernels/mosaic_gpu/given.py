"""What the tests of `mosaic_gpu` are given: calls as `run` takes them, a loss, and a count of kernels."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from recurrent_jax.kernels import mosaic_gpu
from recurrent_jax.kernels.contract import Inputs, Options
from tests.cases import NO_MOSAIC

needs_mosaic = pytest.mark.skipif(bool(NO_MOSAIC), reason=NO_MOSAIC)
HALF = {"param_dtype": jnp.bfloat16}


def inputs(cell: Any, rows: int = 16, features: int = 8, flags: bool = True) -> Inputs:
    """Shapes of what `run` takes."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), features))
    carry = jax.eval_shape(lambda params: cell.initial_carry(params, (rows,)), params)
    xs = jax.ShapeDtypeStruct((6, rows, features), cell.compute_dtype)
    flag = jax.ShapeDtypeStruct((6, rows), jnp.bool_) if flags else None
    return Inputs(params, xs, carry, carry if flags else None, flag, flag)


def loss_of(cell: Any, options: Options = Options()) -> Any:  # noqa: B008
    """A number made of everything, of what is differentiated and the rest."""

    def loss(params: Any, xs: jax.Array, carry: Any, rest: Inputs) -> Any:
        out = mosaic_gpu.run(cell, rest._replace(params=params, xs=xs, carry=carry), options)
        return sum(jnp.sum(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(out))

    return loss


def kernels_of(function: Any, *args: Any) -> int:
    """How many kernels a function is lowered to for a GPU."""
    # As it is by default: without float64, which Mosaic doesn't know.
    with jax.enable_x64(False):
        lowered = jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",))
    return lowered.as_text().count("custom_call @mosaic_gpu")
