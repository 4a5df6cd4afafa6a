"""Keras 3 on its JAX backend: `keras.layers.LSTM`, `GRU` and `SimpleRNN`."""

import os
from typing import Any

import jax.numpy as jnp

from benchmarks.contestants.base import Refused
from benchmarks.contestants.jax_program import JaxContestant, Layer
from benchmarks.problem import Job, Problem

# Keras reads it once, when it is imported.
os.environ["KERAS_BACKEND"] = "jax"
import keras

LAYERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "RNN": (keras.layers.SimpleRNN, {}),
    "LSTM": (keras.layers.LSTM, {}),
    "GRU": (keras.layers.GRU, {}),
    "RNN-relu": (keras.layers.SimpleRNN, {"activation": "relu"}),
    "GRU-before": (keras.layers.GRU, {"reset_after": False}),
}


def swap(leaf: Any, gru: bool) -> Any:
    """From gates r, z, n to Keras's z, r, h, and back; other cells have our order."""
    if not gru:
        return leaf
    first, second, third = jnp.split(leaf, 3, -1)
    return jnp.concatenate([second, first, third], -1)


def layer(job: Job, problem: Problem) -> Layer:
    """The layer's `stateless_call` with an initial state; a step is that of the layer's cell."""
    if keras.backend.backend() != "jax":
        raise Refused(f"Keras was imported on its backend {keras.backend.backend()} before this could ask for JAX")
    if job.cell not in LAYERS:
        raise Refused(f"Keras 3 has no {job.cell}")
    kind, options = LAYERS[job.cell]
    if job.cell == "LSTM" and job.dtype != "float32":
        # On a GPU Keras takes jax.experimental.rnn, which fails on other dtypes: its users have to say no.
        options = {**options, "use_cudnn": False}
    # The default, an orthogonal matrix, has no half precision.
    options = {**options, "recurrent_initializer": "glorot_uniform", "dtype": job.dtype}
    rnn = kind(job.case.H, return_sequences=True, return_state=True, **options)
    rnn.build((None, None, job.case.D))
    gru, inner = job.cell.startswith("GRU"), len(problem.params) == 4

    w_x, w_h, b = (swap(jnp.asarray(leaf), gru) for leaf in problem.params[:3])
    if inner:
        # Of the inputs and of the hidden state. Of the latter only the n part is ours.
        b = jnp.stack([b, jnp.zeros_like(b).at[-job.case.H :].set(jnp.asarray(problem.params[3]))])
    fixed = [variable.value for variable in rnn.non_trainable_variables]
    of_cell = [variable.value for variable in rnn.cell.non_trainable_variables]

    def apply(params: Any, xs: Any, carry: Any) -> tuple[Any, Any]:
        (ys, *last), _ = rnn.stateless_call(params, fixed, xs, initial_state=carry)
        return last, ys

    def step(params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
        (y, new), _ = rnn.cell.stateless_call(params, of_cell, x, carry)
        return new, y

    def common_params(grads: Any) -> tuple[Any, ...]:
        d_w_x, d_w_h, d_b = grads
        biases = (d_b[0], d_b[1, -job.case.H :]) if inner else (d_b,)
        return swap(d_w_x, gru), swap(d_w_h, gru), swap(biases[0], gru), *biases[1:]

    return Layer(
        params=[w_x, w_h, b],
        apply=apply,
        step=step,
        carry=list,
        common_carry=tuple,
        common_params=common_params,
        batch_first=True,
    )


CONTESTANT = JaxContestant(
    "Keras 3",
    layer,
    includes="batch-first; GRU: a second bias vector; float32 LSTM on a GPU: cuDNN's, through jax.experimental.rnn",
)
