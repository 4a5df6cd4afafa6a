"""Clusters of several blocks in Pallas's GPU interpreter, which looks for races: a process that test_clusters starts.

Each block waits for the others in a thread of XLA's pool, so the pool needs more threads than a small machine has
cores; how many, only the environment of a process says (NPROC).

    NPROC=8 python -m tests.kernels.mosaic_gpu.clusters CASE BLOCKS ROWS OPERAND DIRECTION
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import mosaic_gpu as plgpu

import recurrent_jax as rj
from recurrent_jax.kernels import mosaic_gpu
from tests.conftest import cases  # in its strict modes

# The same sums in another order, in float64.
REORDERED = 1e-13
STEPS, UNITS = 5, 100
# Cells with more units than one block takes, and no multiple of what it takes.
CELLS = {
    "learned_start": cases.LearnedStart(UNITS, param_dtype=jnp.float64),
    "mgu": cases.MGU(UNITS, param_dtype=jnp.float64),
    "gru": rj.GRU(UNITS, param_dtype=jnp.float64),
}


def results(cell: Any, rows: int, reverse: bool, kernel: str) -> Any:
    """The outputs without a gradient, and with one those and all gradients of a loss that reads all of them."""
    params, xs, carry = cases.data(cell, (rows,), STEPS)
    rng = np.random.default_rng(3)
    flags = {
        "mask": jnp.asarray(rng.random((STEPS, rows)) < 0.7),
        "resets": jnp.asarray(rng.random((STEPS, rows)) < 0.2),
    }

    def run(params: Any, xs: jax.Array, carry: Any) -> Any:
        out = rj.unroll(cell, params, xs, carry, **flags, reverse=reverse, return_carries=True, implementation=kernel)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(out)), out

    return run(params, xs, carry), jax.value_and_grad(run, (0, 1, 2), has_aux=True)(params, xs, carry)


def main(name: str, blocks: int, rows: int, operand: str, direction: str) -> None:
    """Compares with `scan`; the right operand of a matmul lies `by_units`, or `by_rows` as that of float32 does."""
    mosaic_gpu._by_rows = lambda _: operand == "by_rows"
    expected = results(CELLS[name], rows, direction == "reverse", "scan")
    # Memory that nobody wrote holds NaN there.
    params = plgpu.InterpretGPUParams(detect_races=True, uninitialized_memory="nan")
    with mosaic_gpu.interpreted(params), mosaic_gpu.tiled(blocks, 16):
        got = jax.block_until_ready(results(CELLS[name], rows, direction == "reverse", "mosaic_gpu"))
    cases.assert_close(got, expected, REORDERED)
    print("equal")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
