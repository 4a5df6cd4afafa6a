"""Equinox: `jax.lax.scan` over its cells, which see one row, and `jax.vmap` over the batch."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from benchmarks.contestants.base import Refused
from benchmarks.contestants.jax_program import JaxContestant, Layer
from benchmarks.problem import Job, Problem

CELLS: dict[str, Any] = {"LSTM": eqx.nn.LSTMCell, "GRU": eqx.nn.GRUCell}
REFUSED = {
    "GRU-before": "the GRU of Equinox resets after the matmul, not before it",
    **dict.fromkeys(("RNN", "RNN-relu"), "Equinox has no plain recurrent cell"),
}


class Unroll(eqx.Module):
    """One row, as in Equinox's example of an RNN: the module scans its cell, and who calls it adds the batch."""

    cell: Any

    def __call__(self, xs: Any, carry: Any) -> tuple[Any, Any]:
        """Final carry and outputs."""

        def step(carry: Any, x: Any) -> tuple[Any, Any]:
            carry = self.cell(x, carry)
            return carry, output(carry)

        return jax.lax.scan(step, carry, xs)


def output(carry: Any) -> Any:
    """The output of a step: h."""
    return carry[0] if isinstance(carry, tuple) else carry


def layer(job: Job, problem: Problem) -> Layer:
    """The module's arrays are the parameters; a step is the cell under `jax.vmap`."""
    if job.cell not in CELLS:
        raise Refused(REFUSED.get(job.cell, f"Equinox has no {job.cell}"))
    w_x, w_h, *biases = map(jnp.asarray, problem.params)
    cell = CELLS[job.cell](job.case.D, job.case.H, dtype=job.dtype, key=jax.random.key(0))
    weights = lambda cell: (cell.weight_ih, cell.weight_hh, cell.bias, *((cell.bias_n,) if biases[1:] else ()))
    cell = eqx.tree_at(weights, cell, (w_x.T, w_h.T, *biases))
    params, static = eqx.partition(Unroll(cell), eqx.is_array)

    def step(params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
        carry = jax.vmap(eqx.combine(params, static).cell)(x, carry)
        return carry, output(carry)

    def common_params(grads: Any) -> tuple[Any, ...]:
        d_w_x, d_w_h, *rest = weights(grads.cell)
        return d_w_x.T, d_w_h.T, *rest

    return Layer(
        params=params,
        apply=lambda params, xs, carry: jax.vmap(eqx.combine(params, static))(xs, carry),
        step=step,
        carry=lambda leaves: leaves if job.cell == "LSTM" else leaves[0],
        common_carry=lambda carry: carry if job.cell == "LSTM" else (carry,),
        common_params=common_params,
        batch_first=True,
    )


CONTESTANT = JaxContestant("Equinox", layer, includes="batch-first; a cell of one row under jax.vmap")
