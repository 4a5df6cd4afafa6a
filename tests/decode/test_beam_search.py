"""Beam search against the search with lists, and against all sequences there are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent_jax import decode
from tests.decode.searches import (
    END,
    ORACLE,
    PAD,
    Markov,
    Recurrent,
    Scoring,
    Tied,
    assert_equal,
    assert_sequences,
    run,
    search_all,
    search_by_beam,
)

SCORINGS = {
    "log_prob": Scoring(),
    "normalised": Scoring(length_normalisation=1.2),
    # Numbers may be NumPy's, whatever their dtype.
    "coverage": Scoring(np.float32(0.5), coverage_penalty=np.float32(0.25)),
    "ragged": Scoring(0.6, coverage_penalty=2.0, source_lengths=(3, 1, 0, 2)),
}


@pytest.mark.parametrize(
    ("kind", "scoring", "size", "steps"),
    [
        (Markov, "log_prob", 2, 6),
        (Markov, "ragged", 7, 3),
        (Recurrent, "normalised", 3, 8),
        (Recurrent, "coverage", 4, 6),
    ],
)
def test_beam_is_the_search_with_lists(kind: Any, scoring: str, size: int, steps: int) -> None:
    model = kind(1)
    rule = SCORINGS[scoring]
    expected = [search_by_beam(model, row, steps, size, rule)[0] for row in range(4)]
    assert {each.ended for row in expected for each in row} == {True, False}
    assert_sequences(run(decode.beam, model, steps=steps, beams=size, **rule.options(model)), expected, steps)


def test_beam_that_holds_all_sequences_ranks_them_all() -> None:
    # Two tokens and the end: 1 + 2 + 4 + 8 sequences that end and 16 that are cut; two places stay empty.
    model = Recurrent(3, vocabulary=3)
    expected = [search_all(model, row, 4, SCORINGS["ragged"]) for row in range(4)]
    assert {len(each) for each in expected} == {31}
    got = run(decode.beam, model, steps=4, beams=33, **SCORINGS["ragged"].options(model))
    assert_sequences(got, expected, 4)
    np.testing.assert_allclose(np.exp(got.log_probs).sum(axis=0), 1, rtol=ORACLE)


@pytest.mark.parametrize("kind", [Recurrent, Tied])
def test_one_beam_is_greedy_to_the_last_bit(kind: Any) -> None:
    model = kind(1, rows=16)
    greedy = run(decode.greedy, model, steps=5)
    assert set(greedy.ended) == {True, False}
    beams = run(decode.beam, model, steps=5, beams=1)
    # The scores are the log p, as nothing is normalised.
    assert_equal(beams, decode.Beams(*jax.tree.map(lambda leaf: leaf[..., None, :], greedy), greedy.log_probs[None]))


def test_unlikely_ends_do_not_stop_the_search() -> None:
    # Each of 9 steps may end with 2 %, which among 3 tokens is the second likeliest; the tenth ends.
    def step(carry: Any, tokens: Any) -> Any:
        p = jnp.where(carry[:, None] < 9, jnp.array([[0.02, 0.97, 0.01]]), jnp.array([[0.98, 0.01, 0.01]]))
        return carry + 1, jnp.log(p)

    search = jax.jit(lambda start: decode.beam(step, jnp.zeros(1, int), start, end=0, max_length=20, pad=PAD, beams=4))
    found = search(np.zeros(1, int))
    assert found.tokens[:9, 0, 0].tolist() == [1] * 9
    assert found.lengths[0, 0] == 9
    # The next best is the end at once.
    assert found.lengths[1, 0] == 0
    np.testing.assert_allclose(np.exp(found.scores[:2, 0]), [0.97**9 * 0.98, 0.02], rtol=1e-12)


def test_equal_beams_come_in_the_order_of_their_tokens() -> None:
    # No token is likelier than another: all sums are equal, and the first ones end at the second step.
    step = lambda carry, tokens: (carry, jnp.zeros((2, 4)))
    search = jax.jit(lambda start: decode.beam(step, (), start, end=1, max_length=3, beams=3, pad=9))
    got = jax.tree.map(np.asarray, search(np.zeros(2, int)))
    # Candidates 0, 1, 2, 3, ... : 1 is finished, then of 00 01 02 03 20 21 22 23 the second.
    assert got.tokens[:, :, 0].T.tolist() == [[9, 9, 9], [0, 9, 9], [0, 0, 9]]
    np.testing.assert_allclose(got.log_probs[:, 1], -np.log(4) * np.array([1, 2, 3]), rtol=ORACLE)


def test_impossible_tokens_are_in_no_beam() -> None:
    # Only token 3 and the end are possible, and behind any other token the model says NaN, which nobody may see.
    model = Markov(0)
    model.logits[..., [0, 1, 4]] = -np.inf
    model.logits[:, :, [0, 1, 4]] = np.nan
    model.start = np.full(4, 3)
    model.logits[:, 0] = model.logits[:, 3]
    # In a row the end is impossible at first.
    model.logits[1, 0, 3, END] = -np.inf
    expected = [search_by_beam(model, row, 3, 6, Scoring())[0] for row in range(4)]
    assert [len(each) for each in expected] == [4, 3, 4, 4]
    assert_sequences(run(decode.beam, model, steps=3, beams=6), expected, 3)


def sizes(jaxpr: Any) -> Any:
    """The size of all that a program computes, in its loops too."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "jaxpr")):
            if hasattr(inner, "jaxpr"):
                yield from sizes(inner.jaxpr)


def test_beam_does_not_copy_what_the_step_closes_over() -> None:
    memory, queries = jnp.ones((3, 64, 32)), jnp.ones((7, 32))

    def attend(memory: Any, tokens: Any) -> Any:
        weights = jax.nn.softmax(jnp.einsum("bsh,bh->bs", memory, queries[tokens]), axis=-1)
        return weights, jnp.einsum("bs,bsh,vh->bv", weights, memory, queries)

    def step(carry: Any, tokens: Any) -> Any:
        return attend(memory, tokens)

    def largest(step: Any, carry: Any, attention: Any) -> int:
        options: Any = {"end": END, "max_length": 5, "beams": 4, "coverage_penalty": 0.1, "attention": attention}
        call = lambda carry: decode.beam(step, carry, jnp.zeros(3, int), **options)
        return max(sizes(jax.make_jaxpr(call)(carry).jaxpr))

    assert largest(step, jnp.zeros((3, 64)), lambda carry: carry) <= memory.size
    # The law is of use: a memory that the carry holds is copied.
    carried = lambda carry, tokens: (carry, attend(carry, tokens)[1])
    assert largest(carried, memory, lambda carry: carry[..., 0]) == 4 * memory.size


def test_attention_is_not_computed_without_a_penalty() -> None:
    model = Markov(0)
    options: Any = {"end": END, "max_length": 3, "beams": 2, "attention": lambda carry: 1 / 0}
    jax.eval_shape(lambda: decode.beam(model.step, model.carry, model.start, **options))
    with pytest.raises(ZeroDivisionError):
        decode.beam(model.step, model.carry, model.start, coverage_penalty=0.1, **options)
