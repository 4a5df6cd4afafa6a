"""Haiku: `hk.dynamic_unroll` of its cores."""

from typing import Any

import haiku as hk
import jax.numpy as jnp

from benchmarks.contestants.base import Refused
from benchmarks.contestants.jax_program import JaxContestant, Layer
from benchmarks.problem import Job, Problem

CORES: dict[str, Any] = {"LSTM": hk.LSTM, "RNN-relu": hk.VanillaRNN, "GRU-before": hk.GRU}
# What its plain core and its GRU are.
OWN = {"RNN": "RNN-relu", "GRU": "GRU-before"}
# Its gates by their index among ours: i, g, f, o of i, f, g, o, and z, r, n of r, z, n. Both are swaps, their own
# inverses.
ORDER = {"LSTM": (0, 2, 1, 3), "RNN-relu": (0,), "GRU-before": (1, 0, 2)}
# Its GRU has h' = (1 - z) h + z n. That z is one minus ours: ours, with the sign of all its weights changed.
SIGNS = {"LSTM": (1, 1, 1, 1), "RNN-relu": (1,), "GRU-before": (1, -1, 1)}


def layer(job: Job, problem: Problem) -> Layer:
    """`hk.dynamic_unroll` with an initial state; a step is the core called once."""
    if job.cell not in (*CORES, *OWN):
        raise Refused(f"Haiku has no {job.cell}")
    if job.cell not in CORES:
        raise Refused(f"Haiku has another {job.cell} than this: see {OWN[job.cell]}")
    features, units = job.case.D, job.case.H
    per_gate = lambda values: jnp.repeat(jnp.array(values, job.dtype), units)
    signs = per_gate(SIGNS[job.cell])

    def swap(leaf: Any) -> Any:
        gates = jnp.split(leaf, len(ORDER[job.cell]), -1)
        return jnp.concatenate([gates[index] for index in ORDER[job.cell]], -1)

    w_x, w_h, b = (swap(signs * jnp.asarray(leaf)) for leaf in problem.params)
    params: dict[str, dict[str, Any]]
    if job.cell == "LSTM":
        # The core adds one to its forget gate: the bias has one less, so that the function is the same.
        params = {"lstm/linear": {"w": jnp.concatenate([w_x, w_h]), "b": b - per_gate((0, 0, 1, 0))}}
    elif job.cell == "RNN-relu":
        params = {"vanilla_rnn/linear": {"w": w_x, "b": b}, "vanilla_rnn/linear_1": {"w": w_h, "b": jnp.zeros_like(b)}}
    else:
        params = {"gru": {"w_i": w_x, "w_h": w_h, "b": b}}

    def common_params(grads: Any) -> tuple[Any, ...]:
        if job.cell == "LSTM":
            linear = grads["lstm/linear"]
            leaves = (linear["w"][:features], linear["w"][features:], linear["b"])
        elif job.cell == "RNN-relu":
            linear = grads["vanilla_rnn/linear"]
            leaves = (linear["w"], grads["vanilla_rnn/linear_1"]["w"], linear["b"])
        else:
            leaves = (grads["gru"]["w_i"], grads["gru"]["w_h"], grads["gru"]["b"])
        return tuple(signs * swap(leaf) for leaf in leaves)

    core = CORES[job.cell]
    unroll: Any = hk.without_apply_rng(hk.transform(lambda xs, state: hk.dynamic_unroll(core(units), xs, state)))
    step: Any = hk.without_apply_rng(hk.transform(lambda x, state: core(units)(x, state)))
    return Layer(
        params=params,
        apply=lambda params, xs, carry: unroll.apply(params, xs, carry)[::-1],
        step=lambda params, carry, x: step.apply(params, x, carry)[::-1],
        carry=lambda leaves: hk.LSTMState(*map(jnp.asarray, leaves)) if job.cell == "LSTM" else leaves[0],
        common_carry=lambda carry: tuple(carry) if job.cell == "LSTM" else (carry,),
        common_params=common_params,
    )


CONTESTANT = JaxContestant(
    "Haiku",
    layer,
    includes="LSTM: forget bias +1 in the step; RNN-relu: a second bias vector",
)
