"""Measuring a classifier."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from sklearn.metrics import f1_score

from experiments.common.batches import evaluation_batches
from experiments.sentiment.data import Encoded
from experiments.sentiment.model import Classifier

Watch = Callable[[int], Any]

_ROWS = 128


@functools.partial(jax.jit, static_argnums=0)
def _log_probabilities(model: Classifier, params: Any, words: jax.Array, lengths: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(model.apply(params, words, lengths))


def log_probabilities(model: Classifier, params: Any, examples: Encoded, watch: Watch = lambda n: None) -> np.ndarray:
    """The log-probability of each class `[N, C]`, in the order of the examples."""
    result = np.zeros((len(examples.texts), model.classes), np.float32)
    for numbers in evaluation_batches(examples.lengths, _ROWS):
        batch = examples.batch(numbers, _ROWS)
        result[numbers] = _log_probabilities(model, params, batch.words, batch.lengths)[: len(numbers)]
        watch(len(numbers))
    return result


def measure(log_probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Mean loss, accuracy, and the mean of the F1 scores of all classes that occur or are guessed."""
    guesses = log_probs.argmax(axis=1)
    return {
        "loss": float(-log_probs[np.arange(len(labels)), labels].mean()),
        "accuracy": float(np.mean(guesses == labels)),
        "macro_f1": float(f1_score(labels, guesses, average="macro")),
    }


def calibration(log_probs: np.ndarray, labels: np.ndarray, bins: int = 10) -> tuple[np.ndarray, float]:
    """How often guesses of each confidence are right.

    Returns:
      For each bin that holds any guess its mean confidence, accuracy and number of guesses `[bins, 3]`; and the
      expected calibration error, the mean distance of the two.

    Source: Guo et al., "On calibration of modern neural networks" (2017).
    """
    confidence = np.exp(log_probs.max(axis=1).astype(np.float64))
    right = log_probs.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = [
        (confidence[place == b].mean(), right[place == b].mean(), float(np.sum(place == b))) for b in np.unique(place)
    ]
    table = np.array(rows)
    return table, float(np.sum(abs(table[:, 0] - table[:, 1]) * table[:, 2]) / len(labels))
