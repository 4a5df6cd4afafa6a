"""Flax Linen: `nn.RNN` around its cells."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from benchmarks.contestants.base import Refused
from benchmarks.contestants.jax_program import JaxContestant, Layer
from benchmarks.problem import Job, Problem

CELLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "RNN": (nn.SimpleCell, {}),
    "LSTM": (nn.OptimizedLSTMCell, {}),
    "GRU": (nn.GRUCell, {}),
    "RNN-relu": (nn.SimpleCell, {"activation_fn": nn.relu}),
}
# The last letters of Linen's names, as in "ii" and "hf", in the order of our columns.
GATES = {"RNN": ("",), "LSTM": tuple("ifgo"), "GRU": tuple("rzn"), "RNN-relu": ("",)}


def layer(job: Job, problem: Problem) -> Layer:
    """`nn.RNN(cell)` with an initial carry; a step is the cell alone."""
    if job.cell not in (*CELLS, "GRU-before"):
        raise Refused(f"Flax Linen has no {job.cell}")
    if job.cell not in CELLS:
        raise Refused("the GRU of Flax Linen resets after the matmul, not before it")
    kind, options = CELLS[job.cell]
    options = {**options, "dtype": job.dtype, "param_dtype": job.dtype}
    # The default, an orthogonal matrix, has no half precision. Linen looks at it though the parameters are given.
    cell = kind(job.case.H, recurrent_kernel_init=nn.initializers.lecun_normal(), **options)
    rnn = nn.RNN(cell, return_carry=True)
    gates, lstm = GATES[job.cell], job.cell == "LSTM"
    # The side that has the bias: of the hidden state in the LSTM, of the inputs elsewhere.
    side = "h" if lstm else "i"

    w_x, w_h, b = (jnp.split(jnp.asarray(leaf), len(gates), -1) for leaf in problem.params[:3])
    params: dict[str, dict[str, Any]] = {}
    for index, gate in enumerate(gates):
        params[f"i{gate}"], params[f"h{gate}"] = {"kernel": w_x[index]}, {"kernel": w_h[index]}
        params[f"{side}{gate}"]["bias"] = b[index]
    if job.cell == "GRU":
        params["hn"]["bias"] = jnp.asarray(problem.params[3])

    def common_params(grads: Any) -> tuple[Any, ...]:
        of_cell = grads["params"]["cell"]
        joined = lambda side, name: jnp.concatenate([of_cell[f"{side}{gate}"][name] for gate in gates], -1)
        leaves = joined("i", "kernel"), joined("h", "kernel"), joined(side, "bias")
        return (*leaves, of_cell["hn"]["bias"]) if job.cell == "GRU" else leaves

    return Layer(
        params={"params": {"cell": params}},
        apply=lambda params, xs, carry: rnn.apply(params, xs, initial_carry=carry),
        padded=lambda params, xs, carry, lengths: rnn.apply(params, xs, initial_carry=carry, seq_lengths=lengths),
        step=lambda params, carry, x: cell.apply({"params": params["params"]["cell"]}, carry, x),
        # Linen's LSTM has its cell state first.
        carry=lambda leaves: leaves[::-1] if lstm else leaves[0],
        common_carry=lambda carry: carry[::-1] if lstm else (carry,),
        common_params=common_params,
        batch_first=True,
    )


CONTESTANT = JaxContestant("Flax Linen", layer, includes="batch-first; every gate has a kernel of its own")
