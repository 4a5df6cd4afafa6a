"""Greedy search and sampling against plain loops and the distributions themselves."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent_jax import decode
from tests.decode.searches import (
    END,
    MODELS,
    ORACLE,
    PAD,
    Markov,
    Tied,
    assert_equal,
    assert_sequences,
    log_softmax,
    rows_of,
    run,
    search_greedily,
)


@pytest.mark.parametrize("kind", MODELS)
def test_greedy_is_the_plain_loop(kind: Any) -> None:
    model = kind(3, rows=8)
    expected = [[search_greedily(model, row, 6)] for row in range(8)]
    # Of both kinds, and of several lengths.
    assert {each.ended for (each,) in expected} == {True, False}
    assert len({len(each.tokens) for (each,) in expected}) > 2
    assert_sequences(run(decode.greedy, model, steps=6), expected, 6)


def kept(logits: np.ndarray, temperature: float, top_k: int | None, top_p: float | None) -> np.ndarray:
    """The distribution that `sample` is to draw from, token by token."""
    p = np.exp(log_softmax(logits / temperature))
    order = sorted(range(len(p)), key=lambda token: -p[token])[:top_k]
    total, share, result = sum(p[token] for token in order), 0.0, np.zeros(len(p))
    for token in order:
        if top_p is None or share < top_p:
            result[token] = p[token]
        share += p[token] / total
    return result / result.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, 1.0), (0.5, 2, None), (2.0, None, 0.7), (1.2, 3, 0.8)],
)
def test_sample_draws_from_the_distribution(temperature: float, top_k: Any, top_p: Any) -> None:
    rows = 8000
    # In this table the order of temperature, top_k and top_p makes a difference.
    table = np.random.default_rng(4).standard_normal((4, 4))
    # Two steps of four tokens: every sequence with its probability, and with that which the model gives it.
    exact, own = {}, {}
    for first, second in itertools.product(range(4), repeat=2):
        tokens = (first, second) if first != END else (END,)
        pairs = list(itertools.pairwise((0, *tokens)))
        exact[tokens] = np.prod([kept(table[a], temperature, top_k, top_p)[b] for a, b in pairs])
        own[tokens] = sum(log_softmax(table[a])[b] for a, b in pairs)
    step = lambda carry, tokens: (carry, jnp.asarray(table)[tokens])
    draw = lambda heat: decode.sample(
        step,
        (),
        jnp.zeros(rows, int),
        jax.random.key(0),
        end=END,
        max_length=2,
        temperature=heat,
        top_k=top_k,
        top_p=top_p,
    )
    # The temperature is traced.
    got = jax.tree.map(np.asarray, jax.jit(draw)(temperature))
    drawn = [
        (*tokens[:n], END)[:2] if ended else tuple(tokens)
        for tokens, n, ended in zip(got.tokens.T.tolist(), got.lengths, got.ended, strict=True)
    ]
    assert set(drawn) <= {tokens for tokens, p in exact.items() if p > 0}
    for tokens, p in exact.items():
        # Of a binomial count: five standard deviations.
        assert drawn.count(tokens) == pytest.approx(rows * p, abs=5 * (rows * p * (1 - p)) ** 0.5 + 1e-9), tokens
    np.testing.assert_allclose(got.log_probs, [own[tokens] for tokens in drawn], rtol=ORACLE)


def test_top_p_keeps_the_first_of_equals() -> None:
    # Two of four equals make the half, exactly.
    step = lambda carry, tokens: (carry, jnp.zeros((64, 4)))
    draw = lambda key: decode.sample(step, (), jnp.zeros(64, int), key, end=3, max_length=3, top_p=0.5)
    assert set(np.unique(jax.jit(draw)(jax.random.key(0)).tokens)) == {0, 1}


def test_sample_of_the_first_alone_is_greedy() -> None:
    model = Tied(2, rows=16)
    assert_equal(run(decode.sample, model, jax.random.key(0), steps=5, top_k=1), run(decode.greedy, model, steps=5))


def test_temperature_may_differ_by_row_and_0_is_greedy() -> None:
    model = Markov(0, rows=6)
    model.logits[:3] = Tied(0, rows=3).logits
    options: Any = {"end": END, "max_length": 6, "pad": PAD}
    draw = jax.jit(
        lambda heat: decode.sample(model.step, model.carry, model.start, jax.random.key(5), temperature=heat, **options)
    )
    # All of these by 3e-308 would be infinite; smaller numbers are not normal, which CPUs take for 0.
    model.logits[3] += 9
    heat = np.array([0.0, 1.0, 0.0, 3e-308, 2.0, 1.0])
    got, greedy = draw(heat), run(decode.greedy, model, steps=6)
    for row, temperature in enumerate(heat):
        same = draw(np.full(6, temperature)) if temperature > 0.5 else greedy
        assert_equal(rows_of(got, slice(row, row + 1)), rows_of(same, slice(row, row + 1)))


def test_sample_is_its_key_row_and_step() -> None:
    step = lambda carry, tokens: (carry, jnp.zeros((*tokens.shape, 1000)))
    compiled = jax.jit(lambda start, key: decode.sample(step, (), start, key, end=0, max_length=6))
    draw = lambda rows, seed: jax.tree.map(np.asarray, compiled(np.zeros(rows, int), jax.random.key(seed)))
    got = draw(8, 1)
    assert_equal(draw(8, 1), got)
    assert_equal(draw(3, 1), rows_of(got, slice(3)))
    # 48 draws of 1000, of which a pair or two are equal: neither rows nor steps nor keys repeat each other.
    assert len(np.unique(got.tokens)) > 40
    assert (draw(8, 2).tokens != got.tokens).mean() > 0.9
