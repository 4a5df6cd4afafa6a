"""`jax.experimental.rnn`: the LSTM of cuDNN, on NVIDIA GPUs."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import rnn

from benchmarks.contestants.base import Refused
from benchmarks.contestants.jax_program import JaxContestant, Layer
from benchmarks.problem import Job, Problem


def on_nvidia() -> bool:
    """Whether JAX computes on NVIDIA GPUs by default."""
    try:
        return jax.devices("cuda") == jax.devices()
    except RuntimeError:
        return False


def layer(job: Job, problem: Problem) -> Layer:
    """One layer in one direction; there is no cell, so a step is a sequence of one."""
    if job.cell != "LSTM":
        raise Refused("jax.experimental.rnn has only an LSTM")
    if job.dtype != "float32":
        raise Refused("jax.experimental.rnn computes in float32 only")
    if not on_nvidia():
        raise Refused("jax.experimental.rnn needs an NVIDIA GPU")
    sizes: dict[str, Any] = {
        "input_size": job.case.D, "hidden_size": job.case.H, "num_layers": 1, "bidirectional": False,
    }  # fmt: skip
    w_x, w_h, b = map(jnp.asarray, problem.params)
    # Kernels [4H, D] and [4H, H], then the biases of inputs and hidden state; gates i, f, g, o as ours.
    packed = jnp.concatenate([w_x.T.ravel(), w_h.T.ravel(), b, jnp.zeros_like(b)])

    def apply(weights: Any, xs: Any, carry: Any) -> tuple[Any, Any]:
        return padded(weights, xs, carry, jnp.full(xs.shape[:1], xs.shape[1], jnp.int32))

    def padded(weights: Any, xs: Any, carry: Any, lengths: Any) -> tuple[Any, Any]:
        ys, h, c = rnn.lstm(xs, *carry, weights, lengths, **sizes, dropout=0.0)
        return (h, c), ys

    def step(weights: Any, carry: Any, x: Any) -> tuple[Any, Any]:
        carry, ys = apply(weights, x[:, None], carry)
        return carry, ys[:, 0]

    def common_params(grads: Any) -> tuple[Any, ...]:
        d_w_x, d_w_h, d_b, _ = (kind[0] for kind in rnn.unpack_lstm_weights(grads, **sizes))
        return d_w_x.T, d_w_h.T, d_b

    return Layer(
        params=packed,
        apply=apply,
        padded=padded,
        step=step,
        # Its leaves are of [layers, B, H].
        carry=lambda leaves: tuple(leaf[None] for leaf in leaves),
        common_carry=lambda carry: tuple(leaf[0] for leaf in carry),
        common_params=common_params,
        batch_first=True,
    )


CONTESTANT = JaxContestant(
    "jax.experimental.rnn",
    layer,
    includes="batch-first; a second bias vector; a step is a sequence of one",
)
