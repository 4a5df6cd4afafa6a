"""The classifier: what its poolings are, that padding changes nothing, and its measures by slower ways."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import f1_score

import recurrent_jax as rj
from experiments.common.words import UNKNOWN, Vocabulary
from experiments.sentiment.config import Config
from experiments.sentiment.evaluate import calibration, measure
from experiments.sentiment.model import Classifier
from experiments.sentiment.pictures import page, terminal
from experiments.sentiment.predict import Trained, classify, word_by_word

# Float32, sums in another order.
CLOSE = 1e-5
LENGTHS = np.array([5, 2, 1, 0])
WORDS = np.random.default_rng(0).integers(1, 20, (5, 4))
POOLINGS = ["last", "mean", "max", "attention"]


@functools.cache
def make(**options: Any) -> tuple[Classifier, Any]:
    config = Config(**{"hidden_size": 6, "embedding_size": 4, "dropout": 0.0, "embedding_dropout": 0.0, **options})
    model = Classifier.of(config, vocabulary_size=20, classes=3)
    return model, jax.jit(model.init)(jax.random.key(0))


# Compiled as a whole: operation by operation takes longer.
apply = jax.jit(Classifier.apply, static_argnums=0)


def outputs(model: Classifier, params: Any, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of both directions at the true steps of one row, run by themselves."""
    xs = params["embed"]["params"]["embedding"][WORDS[: LENGTHS[row], row]]
    layer, weights = model.encoder.layers[0], params["encoder"][0]
    forward = rj.unroll(layer.forward, weights.forward, xs)[1]
    backward = rj.unroll(layer.backward, weights.backward, xs, reverse=True)[1]
    return np.asarray(forward), np.asarray(backward)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_is_over_the_true_steps(pooling: Any) -> None:
    model, params = make(pooling=pooling)
    logits = apply(model, params, WORDS, LENGTHS)
    readout = params["readout"]["params"]
    for row, length in enumerate(LENGTHS):
        forward, backward = outputs(model, params, row) if length else (np.zeros((0, 6)),) * 2
        both = np.concatenate([forward, backward], axis=-1)
        if not length:
            pooled = np.zeros(12)
        elif pooling == "last":
            pooled = np.concatenate([forward[-1], backward[0]])
        elif pooling == "attention":
            w = params["attention"]
            scores = np.tanh(params["query"] @ w.w_query + both @ w.w_memory) @ w.v
            pooled = (np.exp(scores) / np.exp(scores).sum()) @ both
        else:
            pooled = {"mean": np.mean, "max": np.max}[pooling](both, axis=0)
        np.testing.assert_allclose(logits[row], pooled @ readout["kernel"] + readout["bias"], atol=CLOSE)


@pytest.mark.parametrize(("pooling", "bidirectional"), [*itertools.product(POOLINGS, [True, False])])
def test_padding_changes_nothing(pooling: Any, bidirectional: bool) -> None:
    model, params = make(pooling=pooling, bidirectional=bidirectional)
    longer = np.concatenate([WORDS, np.full((3, 4), 7)])
    padding = np.arange(8)[:, None] >= LENGTHS
    other = np.where(padding, 19, longer)
    expected = apply(model, params, WORDS, LENGTHS)
    np.testing.assert_allclose(apply(model, params, other, LENGTHS), expected, atol=CLOSE)


def test_dropout_is_of_training_only_and_word_dropout_of_words() -> None:
    model, params = make(word_dropout=0.999, dropout=0.0)
    plain = apply(model, params, WORDS, LENGTHS)
    np.testing.assert_array_equal(plain, apply(make()[0], params, WORDS, LENGTHS))
    dropped = apply(model, params, WORDS, LENGTHS, jax.random.key(0))
    np.testing.assert_allclose(dropped, apply(model, params, np.ones_like(WORDS), LENGTHS), atol=CLOSE)
    for rates in ({"dropout": 0.5}, {"embedding_dropout": 0.5}):
        model, params = make(**rates)
        draws = [apply(model, params, WORDS, LENGTHS, jax.random.key(seed)) for seed in (0, 0, 1)]
        assert (draws[0] == draws[1]).all()
        assert (draws[0] != draws[2]).any()


def test_half_precision_gives_logits_in_single() -> None:
    model, params = make(dtype="bfloat16")
    logits = apply(model, params, WORDS, LENGTHS)
    assert logits.dtype == jnp.float32
    full, _ = make()
    # Eight bits of mantissa.
    np.testing.assert_allclose(logits, apply(full, params, WORDS, LENGTHS), atol=0.05)


def test_measures_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    log_probs = np.log(rng.dirichlet(np.ones(4), 50))
    labels = rng.integers(0, 3, 50)
    values = measure(log_probs, labels)
    # A class that neither occurs nor is guessed has no score.
    sure = np.log(np.eye(3)[[0, 1, 1]] + 1e-9)
    assert measure(sure, np.array([0, 1, 1]))["macro_f1"] == 1
    guesses = log_probs.argmax(axis=1)
    expected = f1_score(labels, guesses, average="macro")
    assert values["macro_f1"] == pytest.approx(expected)
    assert values["accuracy"] == pytest.approx(np.mean(guesses == labels))
    assert values["loss"] == pytest.approx(-np.mean([log_probs[i, label] for i, label in enumerate(labels)]))


def test_calibration_compares_confidence_and_accuracy() -> None:
    # Ten guesses at 0.75 of which six are right, ten at 0.95 of which all are.
    log_probs = np.log(np.array([[0.75, 0.25]] * 10 + [[0.95, 0.05]] * 10))
    labels = np.array([0] * 6 + [1] * 4 + [0] * 10)
    table, error = calibration(log_probs, labels)
    np.testing.assert_allclose(table, [[0.75, 0.6, 10], [0.95, 1.0, 10]])
    assert error == pytest.approx((0.15 + 0.05) / 2)


def test_word_by_word_ends_at_the_class_of_the_text() -> None:
    model, params = make()
    vocabulary = Vocabulary(("<pad>", UNKNOWN, *"abcdefghijklmnopqr"))
    trained = Trained(model, params, vocabulary, ("x", "y", "z"), Config(max_length=4))
    words, probabilities = word_by_word(trained, "A b, c d e")
    assert words == [",", "c", "d", "e"]
    np.testing.assert_allclose(probabilities[-1], classify(trained, ["a b , c d e"])[0], rtol=CLOSE)
    np.testing.assert_allclose(probabilities[1], classify(trained, [", c"])[0], rtol=CLOSE)
    assert word_by_word(trained, " ")[0] == []


def test_pictures_show_every_word() -> None:
    probabilities = np.array([[0.5, 0.5], [0.1, 0.9], [0.98, 0.02]])
    lines = terminal(["so", "<b>", "bad"], probabilities, ("neg", "pos")).splitlines()
    assert len({len(line) for line in lines[1:]}) == 1, "bars line up"
    assert lines[1].endswith("0.50")
    assert lines[3].endswith("0.02")
    bars = [line.split()[1] for line in lines[1:]]
    assert [bar.count("#") for bar in bars] == [1, 13, 16]
    assert bars[1].rstrip(".").endswith("#")
    assert bars[2].startswith("#")
    text = page([(["so", "<b>", "bad"], probabilities)], ("neg", "pos"))
    assert "&lt;b&gt;" in text
    assert "<h2>neg 98.0%</h2>" in text
    assert text.count("<span") == 3
    three = terminal(["a"], np.array([[0.2, 0.2, 0.6]]), ("x", "y", "zed"))
    assert "zed" in three
    assert three.endswith("0.60")
