"""One sequence for each row: the likeliest token at each step, or one that is drawn."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrent_jax import arguments
from recurrent_jax.cells.base import Array, PyTree, exportable
from recurrent_jax.decode.step import Step, check_integers, check_number, check_step, check_temperature, top
from recurrent_jax.kernels.mesh import vary_alike


@exportable
class Decoded(NamedTuple):
    """A sequence for each row; the end token is not in it.

    Attributes:
      tokens: int32 `[L, B]`, `pad` at and behind a row's length.
      lengths: int32 `[B]`.
      ended: bool `[B]`, whether the end token was produced; False where the row was cut at L.
      log_probs: `[B]`, the sum of log p of the tokens, and of the end token where it was produced.
    """

    tokens: Array
    lengths: Array
    ended: Array
    log_probs: Array


def greedy(step: Step, carry: PyTree, start: Array, *, end: int, max_length: int, pad: int = 0) -> Decoded:
    """Takes the likeliest token at each step.

        y_t = argmax_v p(v | start, y_1 .. y_{t-1})                the first of equals

    Args:
      step: `(carry, tokens int32 [B]) -> (carry, logits [B, V])`. log p is computed in at least float32.
      carry: a pytree of arrays `[B, ...]`, also an empty one.
      start: integers `[B]`, the tokens that are read first.
      end: the token that ends a row.
      max_length: L, the steps at most; the last of them may still produce the end token.
      pad: what `tokens` holds behind a row's end. It is never read, so it need not be a token.

    Returns:
      `Decoded`.

    Raises:
      TypeError: `step` is not a function.
      ValueError: an argument, or what `step` returns, has a wrong shape, structure or value; the message names it.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent_jax import decode
      >>> counting = lambda carry, tokens: (carry, jax.nn.one_hot(tokens + 1, 5))
      >>> out = decode.greedy(counting, (), jnp.array([0, 2]), end=4, max_length=5)
      >>> out.tokens.T.tolist(), out.lengths.tolist()
      ([[1, 2, 3, 0, 0], [3, 0, 0, 0, 0]], [3, 1])
    """
    return _generate(step, carry, start, lambda t, logits: jax.lax.argmax(logits, 1, jnp.int32), end, max_length, pad)


def sample(
    step: Step,
    carry: PyTree,
    start: Array,
    key: Array,
    *,
    end: int,
    max_length: int,
    pad: int = 0,
    temperature: Any = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Decoded:
    """Draws each token from the model's distribution, or from the likelier part of it.

        y_t ~ softmax(logits / temperature), of which `top_k` and then `top_p` keep the likeliest tokens

    `log_probs` are the model's own, by softmax(logits), whatever was kept. What a row draws at a step depends on the
    key, the number of the row and that of the step, and on nothing else.

    Args:
      step, carry, start, end, max_length, pad: as for `greedy`.
      key: a key of `jax.random`.
      temperature: at least 0, a number or an array `[]` or `[B]`, which may be traced; 0 is `greedy`.
      top_k: how many tokens to keep, the first of equals; by default all.
      top_p: keep the smallest set of tokens whose probability, among those that `top_k` keeps, reaches this number,
        above 0 and at most 1; by default all.

    Returns:
      `Decoded`.

    Raises:
      TypeError, ValueError: as `greedy`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent_jax import decode
      >>> coins = lambda carry, tokens: (carry, jnp.log(jnp.full((tokens.shape[0], 2), 0.5)))
      >>> toss = jax.jit(lambda start, key: decode.sample(coins, (), start, key, end=0, max_length=99))
      >>> out = toss(jnp.zeros(1000, int), jax.random.key(0))
      >>> out.tokens.shape, 0.9 < float(out.lengths.mean()) < 1.1    # one before the first 0
      ((99, 1000), True)

    Source: Fan et al., "Hierarchical neural story generation", arXiv:1805.04833 (2018) for `top_k`; Holtzman et al.,
    "The curious case of neural text degeneration", arXiv:1904.09751 (2019) for `top_p`.
    """
    most = None if top_k is None else arguments.check_positive("top_k", top_k)
    share = 1.0 if top_p is None else check_number("top_p", top_p, "above 0 and at most 1", lambda p: 0 < p <= 1)
    temperature = check_temperature(temperature, np.shape(start))

    def choose(t: Array, logits: Array) -> Array:
        rows, vocabulary = logits.shape
        words = None
        if most is not None or share < 1:
            words = top(logits, most or vocabulary)
            logits = jnp.take_along_axis(logits, words, axis=1)
        heat = jnp.broadcast_to(temperature, (rows,)).astype(logits.dtype)[:, None]
        # Below the largest, so that a small temperature makes no infinity but -inf.
        scaled = (logits - jnp.max(logits, axis=1, keepdims=True)) / jnp.where(heat == 0, 1, heat)
        if share < 1:
            p = jax.nn.softmax(scaled, axis=1)
            # A token is kept where those before it do not reach the share; before the first there is p - p = 0.
            scaled = jnp.where(jnp.cumsum(p, axis=1) - p < share, scaled, -jnp.inf)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, t), jnp.arange(rows))
        drawn = jax.vmap(jax.random.categorical)(keys, scaled).astype(jnp.int32)
        drawn = jnp.where(heat[:, 0] == 0, jax.lax.argmax(logits, 1, jnp.int32), drawn)
        return drawn if words is None else jnp.take_along_axis(words, drawn[:, None], axis=1)[:, 0]

    return _generate(step, carry, start, choose, end, max_length, pad)


def _generate(step: Step, carry: PyTree, start: Array, choose: Any, end: int, max_length: int, pad: int) -> Decoded:
    """The loop of `greedy` and `sample`: `choose(t, logits [B, V])` gives the tokens `[B]` of step t."""
    end, pad, max_length = check_integers(end, pad, max_length)
    carry, start, dtype = check_step(step, carry, start, end)
    rows = start.shape[0]

    def body(state: tuple[Array, PyTree, Array, Decoded]) -> tuple[Array, PyTree, Array, Decoded]:
        t, carry, last, out = state
        carry, logits = step(carry, last)
        logits = logits.astype(dtype)
        # A row that has ended goes on to read and write end tokens, which are not kept.
        words = jnp.where(out.ended, end, choose(t, logits))
        ended = words == end
        gained = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=1), words[:, None], axis=1)[:, 0]
        out = Decoded(
            tokens=out.tokens.at[t].set(jnp.where(ended, pad, words)),
            lengths=out.lengths + (~ended).astype(jnp.int32),
            ended=ended,
            log_probs=jnp.where(out.ended, out.log_probs, out.log_probs + gained),
        )
        return t + 1, carry, words, out

    nothing = Decoded(
        tokens=jnp.full((max_length, rows), pad, jnp.int32),
        lengths=jnp.zeros(rows, jnp.int32),
        ended=jnp.zeros(rows, bool),
        log_probs=jnp.zeros(rows, dtype),
    )
    goes_on = lambda state: (state[0] < max_length) & ~jnp.all(state[-1].ended)
    return jax.lax.while_loop(goes_on, body, vary_alike((jnp.int32(0), carry, start, nothing)))[-1]
