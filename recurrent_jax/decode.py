"""Decoding: from a step function to sequences, by the likeliest token, by chance, or by beam search.

A step function reads one token of each row and says what may follow:

    step: (carry, tokens int32 [B]) -> (carry, logits [B, V])

What does not change from step to step, such as parameters and an encoder's memory, is closed over. Each function is
one loop that ends as soon as every row has; call it under `jax.jit`, since JAX compiles a bare loop at every call.

Letters: L `max_length`, K hypotheses, B rows, S source positions, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrent_jax import arguments
from recurrent_jax.cells.base import Array, PyTree, accumulator, exportable

__all__ = ["Beams", "Decoded", "beam", "greedy", "sample"]

Step = Callable[[PyTree, Array], tuple[PyTree, Array]]

# The attention that any source position counts with at least: log 0 would make all scores alike.
_UNCOVERED = 1e-30


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
    share = 1.0 if top_p is None else _number("top_p", top_p, "above 0 and at most 1", lambda p: 0 < p <= 1)
    temperature = _temperature(temperature, np.shape(start))

    def choose(t: Array, logits: Array) -> Array:
        rows, vocabulary = logits.shape
        words = None
        if most is not None or share < 1:
            words = _top(logits, most or vocabulary)
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
    end, pad, max_length = _checked_integers(end, pad, max_length)
    carry, start, dtype = _checked(step, carry, start, end)
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
    return jax.lax.while_loop(goes_on, body, arguments.vary_alike((jnp.int32(0), carry, start, nothing)))[-1]


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
    exponent = _number("length_normalisation", length_normalisation, "of at least 0", lambda x: 0 <= x < np.inf)
    weight = _number("coverage_penalty", coverage_penalty, "of at least 0", lambda x: 0 <= x < np.inf)
    end, pad, max_length = _checked_integers(end, pad, max_length)
    carry, start, dtype = _checked(step, carry, start, end)
    rows = start.shape[0]
    # Without a penalty there are no source positions to look at.
    attend: Any = attention if weight else lambda carry: jnp.zeros((rows, 0), dtype)
    counted = _checked_attention(attend, source_lengths if weight else None, carry, rows)

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
    t, live, finished, _ = jax.lax.while_loop(goes_on, body, arguments.vary_alike(begin))

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
    words = _top(logits, 2 * size)
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
    return _take(tree, _top(keys.T, count).T)


def _top(keys: Array, count: int) -> Array:
    """Where the `count` largest along the last axis are, at most all; of equals the first."""
    # `top_k` would rank -0 below 0, which for `argmax` are equals.
    return jax.lax.top_k(jnp.where(keys == 0, 0, keys), min(count, keys.shape[-1]))[1]


def _take(tree: Any, chosen: Array) -> Any:
    """Of leaves `[N, B, ...]`, in each row by itself, those that `chosen [M, B]` numbers."""
    rows = jnp.arange(chosen.shape[1])[None]
    return jax.tree.map(lambda leaf: leaf[chosen, rows], tree)


def _checked_integers(end: Any, pad: Any, max_length: Any) -> tuple[int, int, int]:
    """The same as Python's numbers, which meet arrays of any dtype."""
    for name, value in (("end", end), ("pad", pad)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise ValueError(f"{name}: expected an integer, got {value!r}")
    return int(end), int(pad), arguments.check_positive("max_length", max_length)


def _checked(step: Any, carry: Any, start: Any, end: int) -> tuple[Any, Array, np.dtype]:
    """The carry and the start as arrays, and the dtype of log p."""
    if not callable(step):
        raise TypeError(f"step: expected a function (carry, tokens) -> (carry, logits), got {step!r}")
    start, carry = jnp.asarray(start), jax.tree.map(jnp.asarray, carry)
    if start.ndim != 1 or not jnp.issubdtype(start.dtype, jnp.integer):
        raise ValueError(f"start: expected integers [B], got {_kind(start)}")
    start, rows, before = start.astype(jnp.int32), len(start), jax.tree.map(_kind, carry)
    if any(leaf.shape[:1] != (rows,) for leaf in jax.tree.leaves(carry)):
        raise ValueError(f"carry: expected leaves [{rows}, ...] for the {rows} rows of start, got {before}")
    out = jax.eval_shape(step, carry, start)
    if not isinstance(out, tuple) or len(out) != 2:
        raise ValueError(f"step: expected it to return (carry, logits), got {_kind(out)}")
    after, logits = jax.tree.map(_kind, out[0]), out[1]
    if not arguments.same_structure(before, after) or jax.tree.leaves(before) != jax.tree.leaves(after):
        raise ValueError(f"step: expected the carry to stay {before}, got {after}")
    vocabulary = _checked_width("step", "logits", logits, rows, "V")
    if not 0 <= end < vocabulary:
        raise ValueError(f"end: expected a token below V={vocabulary}, the number of logits, got {end}")
    return carry, start, accumulator(logits.dtype)


def _checked_attention(attention: Any, source_lengths: Any, carry: Any, rows: int) -> Array:
    """Bool `[1, B, S]`, which source positions there are."""
    if attention is None:
        raise ValueError("attention: expected a function of the carry, since there is a coverage_penalty, got None")
    size = _checked_width("attention", "weights", jax.eval_shape(attention, carry), rows, "S")
    lengths = jnp.asarray(np.full(rows, size) if source_lengths is None else source_lengths)
    if lengths.shape != (rows,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"source_lengths: expected integers [{rows}], got {_kind(lengths)}")
    return jax.lax.broadcasted_iota(jnp.int32, (1, rows, size), 2) < lengths.astype(jnp.int32)[None, :, None]


def _checked_width(name: str, what: str, value: Any, rows: int, width: str) -> int:
    """The width of what a function returned, if that is floating `[B, width]`."""
    shape: Any = getattr(value, "shape", ())
    if len(shape) != 2 or shape[0] != rows or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"{name}: expected floating {what} [{rows}, {width}], got {_kind(value)}")
    return shape[1]


def _number(name: str, value: Any, expected: str, fits: Callable[[Any], bool]) -> float:
    """Returns `value`, which is known while tracing, as Python's number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not fits(value):
        raise ValueError(f"{name}: expected a number {expected}, got {value!r}")
    return float(value)


def _temperature(value: Any, rows: tuple[int, ...]) -> Array:
    """Returns `temperature` as an array `[]` or `[B]`, at least 0 where that can be seen."""
    heat = jnp.asarray(value)
    if heat.shape not in ((), rows):
        raise ValueError(f"temperature: expected a number or one for each row, got {list(heat.shape)}")
    # What was given, as under jit JAX traces even the array made of a number.
    if not isinstance(value, jax.core.Tracer) and not np.all(np.asarray(value) >= 0):
        raise ValueError(f"temperature: expected at least 0, got {value}")
    return heat


def _kind(value: Any) -> str:
    """`float32[3, 4]`, or the type of what is no array."""
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "shape") else type(value).__name__
