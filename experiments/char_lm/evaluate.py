"""Measuring a model on held-out text, in two protocols."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.char_lm.model import CharLM

BLOCK = 256
"""Characters between resets of the carry: what attention models with this context are measured with."""

Watch = Callable[[int], Any]

_BATCH = 64
_CHUNK = 1024


def bits(nats: float) -> float:
    """Nats in bits."""
    return nats / math.log(2)


def _unwatched(characters: int) -> None:
    """Takes no notice of progress."""


@functools.partial(jax.jit, static_argnums=0)
def _sum_of_losses(model: CharLM, params: Any, carry: Any, indices: jax.Array, counts: jax.Array) -> Any:
    """Carry behind, and summed loss of, `indices [T+1, B]`, where `counts [T, B]` says what counts."""
    carry, logits = model.apply(params, indices[:-1], carry)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, indices[1:])
    return carry, jnp.sum(losses * counts.astype(losses.dtype))


def loss_reset(model: CharLM, params: Any, indices: np.ndarray, watch: Watch = _unwatched) -> float:
    """Mean nats per character with the carry reset every 256 characters: position 0 of a block has no context.

    Every character but the first of the text is predicted once.
    """
    targets = len(indices) - 1
    blocks = -(-targets // BLOCK)
    rows = -(-blocks // _BATCH) * _BATCH
    padded = np.zeros(rows * BLOCK + 1, indices.dtype)
    padded[: len(indices)] = indices
    windows = padded[np.arange(BLOCK + 1)[:, None] + BLOCK * np.arange(rows)]
    counts = (np.arange(rows * BLOCK) < targets).reshape(rows, BLOCK).T
    carry = model.initial_carry(params, _BATCH)
    total = 0.0
    for begin in range(0, rows, _BATCH):
        part = slice(begin, begin + _BATCH)
        total += float(_sum_of_losses(model, params, carry, windows[:, part], counts[:, part])[1])
        watch(int(counts[:, part].sum()))
    return total / targets


def loss_carried(model: CharLM, params: Any, indices: np.ndarray, watch: Watch = _unwatched) -> float:
    """Mean nats per character with the carry carried over the whole text, as one stream."""
    targets = len(indices) - 1
    padded = np.zeros(-(-targets // _CHUNK) * _CHUNK + 1, indices.dtype)
    padded[: len(indices)] = indices
    counts = np.arange(len(padded) - 1) < targets
    carry = model.initial_carry(params, 1)
    total = 0.0
    for begin in range(0, targets, _CHUNK):
        window, part = padded[begin : begin + _CHUNK + 1, None], counts[begin : begin + _CHUNK, None]
        carry, loss = _sum_of_losses(model, params, carry, window, part)
        total += float(loss)
        watch(int(part.sum()))
    return total / targets
