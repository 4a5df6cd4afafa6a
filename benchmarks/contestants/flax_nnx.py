"""Flax NNX: `nnx.RNN` around its cells."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from benchmarks.contestants.base import Refused
from benchmarks.contestants.jax_program import JaxContestant, Layer
from benchmarks.problem import Job, Problem

CELLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "RNN": (nnx.SimpleCell, {}),
    "LSTM": (nnx.OptimizedLSTMCell, {}),
    "GRU": (nnx.GRUCell, {}),
    "RNN-relu": (nnx.SimpleCell, {"activation_fn": nnx.relu}),
}


def layer(job: Job, problem: Problem) -> Layer:
    """`nnx.RNN(cell)` with an initial carry, split into parameters and the rest; a step is the cell alone."""
    if job.cell not in (*CELLS, "GRU-before"):
        raise Refused(f"Flax NNX has no {job.cell}")
    if job.cell not in CELLS:
        raise Refused("the GRU of Flax NNX resets after the matmul, not before it")
    kind, options = CELLS[job.cell]
    common: dict[str, Any] = {"dtype": job.dtype, "param_dtype": job.dtype, "rngs": nnx.Rngs(0)}
    # The default, an orthogonal matrix, has no half precision.
    options = {**options, **common, "recurrent_kernel_init": nnx.initializers.lecun_normal()}
    cell = kind(job.case.D, job.case.H, **options)
    lstm = job.cell == "LSTM"
    # Where the cell keeps its bias: with the hidden state in the LSTM, with the inputs elsewhere.
    side = "dense_h" if lstm else "dense_i"
    w_x, w_h, b, *inner = [jnp.asarray(leaf) for leaf in problem.params]
    if inner:
        # NNX's GRUCell has b_n in its docstring, but no such parameter: its layer of h is given a bias, zero elsewhere.
        cell.dense_h = nnx.Linear(job.case.H, 3 * job.case.H, **common)
        cell.dense_h.bias[...] = jnp.concatenate([jnp.zeros(2 * job.case.H, b.dtype), *inner])
    cell.dense_i.kernel[...], cell.dense_h.kernel[...] = w_x, w_h
    getattr(cell, side).bias[...] = b
    parts: Any = nnx.split(nnx.RNN(cell, return_carry=True), nnx.Param, ...)
    graph, params, rest = parts

    def common_params(grads: Any) -> tuple[Any, ...]:
        dense = grads["cell"]
        leaves = (dense["dense_i"]["kernel"][...], dense["dense_h"]["kernel"][...], dense[side]["bias"][...])
        return (*leaves, dense["dense_h"]["bias"][...][-job.case.H :]) if inner else leaves

    return Layer(
        params=params,
        apply=lambda params, xs, carry: nnx.merge(graph, params, rest)(xs, initial_carry=carry),
        padded=lambda params, xs, carry, lengths: nnx.merge(graph, params, rest)(
            xs, initial_carry=carry, seq_lengths=lengths
        ),
        step=lambda params, carry, x: nnx.merge(graph, params, rest).cell(carry, x),
        # NNX's LSTM has its cell state first.
        carry=lambda leaves: leaves[::-1] if lstm else leaves[0],
        common_carry=lambda carry: carry[::-1] if lstm else (carry,),
        common_params=common_params,
        batch_first=True,
    )


CONTESTANT = JaxContestant("Flax NNX", layer, includes="batch-first; in the GRU a second bias vector, for b_n")
