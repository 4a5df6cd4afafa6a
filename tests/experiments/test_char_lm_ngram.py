"""The n-gram models against sums written out in plain Python."""

import collections
import math

import numpy as np
import pytest

from experiments.char_lm.ngram import ngram_loss


def oracle(train, held_out, size, order):
    """p(c | h) from the definition, one character at a time."""
    pairs, contexts, kinds = collections.Counter(), collections.Counter(), collections.defaultdict(set)
    for n in range(order):
        for i in range(n, len(train)):
            h, c = tuple(train[i - n : i]), train[i]
            pairs[h, c] += 1
            contexts[h] += 1
            kinds[h].add(c)

    def full(h, c):
        below = 1 / size
        for n in range(len(h) + 1):
            context = h[len(h) - n :]
            if context in contexts:
                t = len(kinds[context])
                below = (pairs[context, c] + t * below) / (contexts[context] + t)
        return below

    losses = [-math.log(full(tuple(held_out[max(0, i - order + 1) : i]), held_out[i])) for i in range(1, len(held_out))]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_ngram_equals_its_definition(order):
    draw = np.random.default_rng(order)
    train, held_out = draw.integers(0, 6, 300), draw.integers(0, 8, 60)
    got = ngram_loss(train.astype(np.int32), held_out.astype(np.int32), 8, order)
    # Sums of 60 float64 terms.
    assert got == pytest.approx(oracle(train.tolist(), held_out.tolist(), 8, order), rel=1e-12)


def test_ngram_probabilities_sum_to_one():
    train = np.array([0, 1, 2, 0, 1, 0, 0, 2, 1, 1])
    context = [0, 1]
    # The loss over [context, c] is the mean of two terms; the second is that of c.
    base = ngram_loss(train, np.array(context), 4, 3)
    total = sum(math.exp(-(2 * ngram_loss(train, np.array([*context, c]), 4, 3) - base)) for c in range(4))
    assert total == pytest.approx(1, rel=1e-12)


def test_longer_context_helps_where_there_is_something_to_know():
    text = np.tile([0, 1, 2, 1], 200)
    losses = [ngram_loss(text, text, 3, order) for order in (1, 2, 3)]
    assert losses[0] > 1.0 > losses[1] > 0.3 > losses[2]
