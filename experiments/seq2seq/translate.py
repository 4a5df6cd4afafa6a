"""Translating: greedy or by beam search, in batches, inside one compiled program for each width."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import recurrent_jax as rj
from experiments.seq2seq.data import Encoded
from experiments.seq2seq.model import Seq2Seq
from experiments.seq2seq.tokens import END_ID, START_ID, UNKNOWN, UNKNOWN_ID, Tokenizer

Watch = Callable[[int], Any]

ROWS = 64


class Search(NamedTuple):
    """How outputs are looked for; one beam is greedy search."""

    beams: int = 1
    length_normalisation: float = 0.0
    coverage_penalty: float = 0.0


class Output(NamedTuple):
    """One output: its tokens without `<eos>`, its log-probability, and the score that ranks it."""

    tokens: np.ndarray
    log_prob: float
    score: float


@functools.partial(jax.jit, static_argnames=("model", "search", "max_length"))
def _search(
    model: Seq2Seq, params: Any, source: jax.Array, lengths: jax.Array, search: Search, max_length: int
) -> rj.decode.Beams:
    """The best outputs for each row; greedy search has one."""
    decoder, carry, context = model.encode(params, source, lengths)
    start = jnp.full(source.shape[1], START_ID, jnp.int32)
    step = model.stepper(params, decoder, context)
    if search.beams == 1:
        one = rj.decode.greedy(step, carry, start, end=END_ID, max_length=max_length)
        return rj.decode.Beams(
            one.tokens[:, None], one.lengths[None], one.ended[None], one.log_probs[None], scores=one.log_probs[None]
        )
    # The context differs from row to row, and is the same for all hypotheses of one.
    attention = (lambda carry: carry.weights) if search.coverage_penalty else None
    return rj.decode.beam(
        step, carry, start, end=END_ID, max_length=max_length, beams=search.beams,
        length_normalisation=search.length_normalisation, coverage_penalty=search.coverage_penalty,
        attention=attention, source_lengths=lengths if attention else None,
    )  # fmt: skip


def translate(
    model: Seq2Seq, params: Any, pairs: Encoded, search: Search, max_length: int, watch: Watch = lambda n: None
) -> list[list[Output]]:
    """The best outputs for each source, in the order of the pairs, the best first."""
    results: list[list[Output]] = [[] for _ in range(len(pairs))]
    for numbers in pairs.batches(ROWS):
        batch = pairs.batch(numbers, ROWS)
        found = _search(model, params, batch.source, batch.source_lengths, search, max_length)
        tokens, lengths, _, log_probs, scores = map(np.asarray, found)
        for row, number in enumerate(numbers):
            results[number] = [
                Output(tokens[: lengths[k, row], k, row], float(log_probs[k, row]), float(scores[k, row]))
                for k in range(tokens.shape[1])
                if np.isfinite(scores[k, row])
            ]
        watch(len(numbers))
    return results


@functools.partial(jax.jit, static_argnums=0)
def _weights(model: Seq2Seq, params: Any, source: jax.Array, lengths: jax.Array, target: jax.Array) -> jax.Array:
    return model.weights(params, source, lengths, target)


def attention(model: Seq2Seq, params: Any, source: np.ndarray, output: np.ndarray) -> np.ndarray:
    """The weights `[T+1, S]` by which each token of an output, and its end, looked at the source."""
    # Widths in steps of 16, so that few programs are compiled.
    wide = lambda count: -(-count // 16) * 16
    padded = np.zeros((wide(len(source)), 1), np.int32)
    padded[: len(source), 0] = source
    target = np.zeros((wide(len(output) + 1), 1), np.int32)
    target[: len(output) + 1, 0] = [START_ID, *output]
    weights = _weights(model, params, padded, np.array([len(source)]), target)
    return np.asarray(weights)[: len(output) + 1, 0, : len(source)]


def words(
    output: Output, tokenizer: Tokenizer, source: Sequence[str] = (), weights: np.ndarray | None = None
) -> list[str]:
    """The tokens of an output; an unknown one is the source's most attended where there are weights."""
    names = tokenizer.names(output.tokens)
    if weights is None:
        return names
    return [
        source[int(row.argmax())] if number == UNKNOWN_ID or name == UNKNOWN else name
        for number, name, row in zip(output.tokens, names, weights, strict=False)
    ]
