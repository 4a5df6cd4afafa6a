"""Beam search: the likeliest beginnings of each row are followed side by side."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrent_jax import arguments
from recurrent_jax.cells.base import Array, PyTree, exportable
from recurrent_jax.decode.step import Step, check_attention, check_integers, check_number, check_step, top
from recurrent_jax.kernels.mesh import vary_alike

# The attention that any source position counts with at least: log 0 would make all scores alike.
_UNCOVERED = 1e-30


@exportable
class Beams(NamedTuple):
    """K sequences for each row, best first: those that ended by their scores, then those that were cut by theirs.

    Attributes:
      tokens: int32 `[L, K, B]`.
      lengths, ended, log_probs: `[K, B]`, as in `Decoded`.
      scores: `[K, B]`; -inf, with a length of 0, where there are not as many sequences as K.
    """

    tokens: Array
    lengths: Array
    ended: Array
    log_probs: Array
    scores: Array


class _Live(NamedTuple):
    """The hypotheses of a step, leaves `[K, B, ...]`; where there are not as many as K the log p is -inf."""

    carry: PyTree
    token: Array  # to be read next
    tokens: Array  # [K, B, L]
    log_probs: Array
    coverage: Array  # [K, B, S], the sum of the attention


def beam(
    step: Step,
    carry: PyTree,
    start: Array,
    *,
    end: int,
    max_length: int,
    pad: int = 0,
    beams: int,
    length_normalisation: float = 0.0,
    coverage_penalty: float = 0.0,
    attention: Callable[[PyTree], Array] | None = None,
    source_lengths: Any = None,
) -> Beams:
    """Follows the K likeliest beginnings of each row and keeps the K best sequences that end.

        score = log p / ((5 + n) / 6)^length_normalisation
                + coverage_penalty * sum_{j < source_length} log min(sum_t a_tj, 1)

    n counts the tokens and the end token; `a_t = attention(carry_t)`. Of a row's 2K likeliest continuations, those
    among the first K that end are finished, and the first K that do not end go on. A row is done when it has finished
    K and what goes on scores, as it stands, no better than the worst of these, or when none can go on. What still goes
    on at L is cut, and fills the places that the finished ones leave. Of equals the earlier hypothesis comes first,
    then the lower token, so that one beam is `greedy` exactly.

    `jax.vmap` puts the hypotheses around `step` and `attention`: the carry is held as `[K, B, ...]`, and what these
    functions close over is not copied for each hypothesis.

    Args:
      step, carry, start, end, max_length, pad: as for `greedy`.
      beams: K, which may be more than V.
      length_normalisation: exponent of at least 0; with 0 long sequences score as low as they are unlikely.
      coverage_penalty: at least 0, the weight of source positions with an attention below 1 in all.
      attention: from the carry behind a step to `a_t [B, S]`; not called where `coverage_penalty` is 0. A position
        without any counts as 1e-30.
      source_lengths: integers `[B]`, each row's true source positions; by default S.

    Returns:
      `Beams`.

    Raises:
      TypeError, ValueError: as `greedy`; ValueError also for a `coverage_penalty` without `attention`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent_jax import decode
      >>> p = jnp.array([[0.0, 0.6, 0.4], [0.4, 0.3, 0.3], [0.9, 0.1, 0.0]])    # what follows 0, which ends, 1 and 2
      >>> step = lambda carry, tokens: (carry, jnp.log(p[tokens]))
      >>> search = jax.jit(lambda start: decode.beam(step, (), start, end=0, max_length=3, beams=2))
      >>> best = search(jnp.array([0]))
      >>> best.tokens[:, :, 0].T.tolist(), [round(float(x), 3) for x in jnp.exp(best.scores[:, 0])]
      ([[2, 0, 0], [1, 0, 0]], [0.36, 0.24])

    Source: Wu et al., "Google's neural machine translation system", arXiv:1609.08144 (2016), equation 14, for the
    score; Ott et al., "fairseq", arXiv:1904.01038 (2019) for the rule of what finishes and what goes on. Its rule to
    stop at K finished ones, whatever they score, would end a row too early where few tokens are likely.
    """
    size = arguments.check_positive("beams", beams)
    exponent = check_number("length_normalisation", length_normalisation, "of at least 0", lambda x: 0 <= x < np.inf)
    weight = check_number("coverage_penalty", coverage_penalty, "of at least 0", lambda x: 0 <= x < np.inf)
    end, pad, max_length = check_integers(end, pad, max_length)
    carry, start, dtype = check_step(step, carry, start, end)
    rows = start.shape[0]
    # Without a penalty there are no source positions to look at.
    attend: Any = attention if weight else lambda carry: jnp.zeros((rows, 0), dtype)
    counted = check_attention(attend, source_lengths if weight else None, carry, rows)

    def score(live: _Live, n: Array) -> Array:
        attended = jnp.log(jnp.clip(live.coverage, _UNCOVERED, 1))
        penalty = jnp.sum(jnp.where(counted, attended, 0), axis=-1)
        return live.log_probs / ((5 + n.astype(dtype)) / 6) ** exponent + weight * penalty

    def body(state: tuple[Array, _Live, Beams, Array]) -> tuple[Array, _Live, Beams, Array]:
        t, live, finished, done = state
        carry, logits = jax.vmap(step)(live.carry, live.token)
        coverage = live.coverage + jax.vmap(attend, axis_size=size)(carry).astype(dtype)
        live = live._replace(carry=carry, coverage=coverage)
        log_probs, words, parents = _continuations(live.log_probs, logits.astype(dtype), size)

        # Of the first K those that end are finished, unless the row is done.
        first = _take(live, parents[:size])._replace(log_probs=log_probs[:size])
        ended = (words[:size] == end) & ~done[None]
        scores = jnp.where(ended, score(first, t + 1), -jnp.inf)
        new = Beams(first.tokens, jnp.full_like(finished.lengths, t), ended, first.log_probs, scores)
        both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), finished, new)
        finished = _best(both, both.scores, size)

        # Of all the first K that do not end go on.
        log_probs = jnp.where(words == end, -jnp.inf, log_probs)
        log_probs, words, parents = _best((log_probs, words, parents), log_probs, size)
        live = _take(live, parents)
        live = _Live(live.carry, words, live.tokens.at[:, :, t].set(words), log_probs, live.coverage)
        # An empty place among the finished scores -inf, and so does what can't go on.
        hope = jnp.max(score(live, t + 1), axis=0)
        return t + 1, live, finished, done | (hope <= jnp.min(finished.scores, axis=0))

    spread = lambda leaf: jnp.broadcast_to(leaf[None], (size, *leaf.shape))
    nothing = jnp.full((size, rows), -jnp.inf, dtype)
    zeros = jnp.zeros((size, rows), jnp.int32)
    blank = jnp.full((size, rows, max_length), pad, jnp.int32)
    covered = jnp.zeros((size, rows, counted.shape[-1]), dtype)
    # One hypothesis at first: K equal ones would stay equal.
    live = _Live(jax.tree.map(spread, carry), spread(start), blank, nothing.at[0].set(0), covered)
    finished = Beams(blank, zeros, zeros.astype(bool), nothing, nothing)
    goes_on = lambda state: (state[0] < max_length) & ~jnp.all(state[-1])
    begin = jnp.int32(0), live, finished, jnp.zeros(rows, bool)
    t, live, finished, _ = jax.lax.while_loop(goes_on, body, vary_alike(begin))

    cut = Beams(live.tokens, jnp.full_like(zeros, t), zeros.astype(bool), live.log_probs, score(live, t))
    cut = _best(cut, cut.scores, size)
    both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), finished, cut)
    # Those that ended, those that were cut, and the places that are still empty.
    rank = both.ended.astype(jnp.int32) + (both.scores != -jnp.inf).astype(jnp.int32)
    best = _best(both, rank, size)
    return best._replace(tokens=jnp.moveaxis(best.tokens, -1, 0))


def _continuations(log_probs: Array, logits: Array, size: int) -> tuple[Array, Array, Array]:
    """The 2K likeliest, `[2K, B]` each: their log p, their words, and the hypotheses that they continue."""
    # 2K of each hypothesis are enough. They are ranked as in `greedy`: sums may be equal where logits are not.
    words = top(logits, 2 * size)
    gained = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=2), words, axis=2)
    before = log_probs[..., None]
    # Whatever the model says behind what is impossible, NaN too, is impossible.
    sums = jnp.where(before == -jnp.inf, -jnp.inf, before + gained)
    parents = jax.lax.broadcasted_iota(jnp.int32, words.shape, 0)
    hypotheses, rows, each = words.shape
    flat = lambda leaf: jnp.moveaxis(leaf, 2, 1).reshape(hypotheses * each, rows)
    sums, words, parents = map(flat, (sums, words, parents))
    return _best((sums, words, parents), sums, 2 * size)


def _best(tree: Any, keys: Array, count: int) -> Any:
    """Of leaves `[N, B, ...]` the `count` with the largest keys `[N, B]`, at most N; equals keep their order."""
    return _take(tree, top(keys.T, count).T)


def _take(tree: Any, chosen: Array) -> Any:
    """Of leaves `[N, B, ...]`, in each row by itself, those that `chosen [M, B]` numbers."""
    rows = jnp.arange(chosen.shape[1])[None]
    return jax.tree.map(lambda leaf: leaf[chosen, rows], tree)
