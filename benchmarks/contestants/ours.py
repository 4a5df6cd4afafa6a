"""The kernels of this library."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

import recurrent_jax as rj
from benchmarks.contestants.base import Refused
from benchmarks.contestants.jax_program import JaxContestant, Layer
from benchmarks.implementations import IMPLEMENTATIONS, STEPS, Implementation
from benchmarks.problem import FORWARD, STEP, Job, Problem

MAKE: dict[str, Any] = {
    "RNN": rj.RNN,
    "LSTM": rj.LSTM,
    "GRU": rj.GRU,
    "RNN-relu": lambda size, **options: rj.RNN(size, activation="relu", **options),
    "GRU-before": lambda size, **options: rj.GRU(size, reset="before", **options),
    "LSTM-peephole": rj.PeepholeLSTM,
    "LSTM-coupled": rj.CoupledLSTM,
}
INCLUDES = "gates, and an LSTM's c, in at least float32"


def layer(name: str, options: Mapping[str, Any], job: Job, problem: Problem) -> Layer:
    """`rj.unroll` with one set of options, or one step by itself."""
    cell = MAKE[job.cell](job.case.H, param_dtype=job.dtype)
    kind = jax.tree.structure(jax.eval_shape(lambda: cell.init(jax.random.key(0), job.case.D)))
    params = jax.tree.unflatten(kind, [jnp.asarray(leaf) for leaf in problem.params])
    empty = cell.initial_carry(params, (job.case.B,))
    if (job.mode == STEP) != (name in STEPS):
        raise Refused(f"mode {STEP} is measured as {' and '.join(STEPS)}, the other modes as kernels")
    if job.mode == FORWARD and "checkpoint_every" in options:
        raise Refused("forward alone stores nothing, so there is nothing to compute again")
    kernel = options.get("implementation")
    if kernel is not None:
        # By its name, which some kernels want to be asked for by.
        explanation = rj.explain(cell, params, jnp.asarray(problem.xs), implementation=(kernel, "scan"))
        if (reason := dict(explanation.verdicts)[kernel]) is not None:
            raise Refused(reason)
    return Layer(
        params=params,
        apply=lambda params, xs, carry: rj.unroll(cell, params, xs, carry, **options),
        padded=lambda params, xs, carry, lengths: rj.unroll(cell, params, xs, carry, lengths=lengths, **options),
        step=functools.partial(rj.step, cell) if name == "rj.step" else cell.step,
        carry=lambda leaves: type(empty)(*(a.astype(e.dtype) for a, e in zip(leaves, empty, strict=True))),
        common_carry=tuple,
        common_params=lambda grads: tuple(leaf for leaf in grads if leaf is not None),
    )


def contestant(name: str, one: Implementation) -> JaxContestant:
    """`rj.unroll` with its options, or one step."""
    return JaxContestant(name, functools.partial(layer, name, one.options), INCLUDES, one.gpu_options)


CONTESTANTS = {name: contestant(name, one) for name, one in IMPLEMENTATIONS.items()}
