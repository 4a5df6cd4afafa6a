"""Drawing text from a model."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.char_lm.data import Vocabulary
from experiments.char_lm.model import CharLM


@functools.partial(jax.jit, static_argnums=(0, 3))
def _read(model: CharLM, params: Any, prompt: jax.Array, streams: int) -> Any:
    """The carry and the logits behind a prompt `[P]`, the same for every stream."""
    carry = model.initial_carry(params, streams)
    body = lambda carry, index: model.step(params, carry, jnp.full(streams, index))
    carry, logits = jax.lax.scan(body, carry, prompt)
    return carry, logits[-1]


@functools.partial(jax.jit, static_argnums=(0, 5))
def _write(
    model: CharLM, params: Any, carry: Any, logits: jax.Array, keys: jax.Array, top_k: int, temperature: Any
) -> jax.Array:
    """Draws one character for each key `[N]` and stream, feeding each back: indices `[N, streams]`."""

    def body(state: Any, key: jax.Array) -> Any:
        carry, logits = state
        logits = logits.at[:, 0].set(-jnp.inf)  # index 0 is no character
        if top_k:
            least = jax.lax.top_k(logits, top_k)[0][:, -1:]
            logits = jnp.where(logits >= least, logits, -jnp.inf)
        drawn = jax.random.categorical(key, logits / jnp.maximum(temperature, 1e-6))
        drawn = jnp.where(temperature > 0, drawn, jnp.argmax(logits, axis=-1))
        return model.step(params, carry, drawn), drawn

    return jax.lax.scan(body, (carry, logits), keys)[1]


def sample(
    model: CharLM,
    params: Any,
    vocabulary: Vocabulary,
    *,
    prompt: str,
    length: int,
    streams: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
) -> list[str]:
    """Continues a prompt, one character at a time through `cell.step`.

    Args:
      model: the model.
      params: its parameters.
      vocabulary: its characters.
      prompt: text that it reads first; empty stands for a line break, or the first known character.
      length: characters to draw.
      streams: number of texts, drawn independently.
      temperature: divides the logits; 0 takes the likeliest character.
      top_k: draw among so many likeliest characters only; 0 draws among all.
      seed: of the draws.

    Returns:
      The texts behind the prompt.
    """
    start = prompt or ("\n" if "\n" in vocabulary.characters else vocabulary.characters[-1])
    key = jax.random.key(seed)
    carry, logits = _read(model, params, jnp.asarray(vocabulary.encode(start)), streams)
    top_k = 0 if top_k >= len(vocabulary) - 1 else top_k
    drawn = _write(model, params, carry, logits, jax.random.split(key, length), top_k, jnp.float32(temperature))
    return [vocabulary.decode(column) for column in np.asarray(drawn).T]
