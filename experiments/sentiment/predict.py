"""The class of a text, and how the probabilities move while it is read."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.common.words import Vocabulary, tokenize
from experiments.sentiment.config import Config
from experiments.sentiment.data import Encoded, Example
from experiments.sentiment.evaluate import log_probabilities
from experiments.sentiment.model import Classifier


class Trained(NamedTuple):
    """A model with all that it takes to use it."""

    model: Classifier
    params: Any
    vocabulary: Vocabulary
    classes: tuple[str, ...]
    config: Config

    def encoded(self, examples: list[Example]) -> Encoded:
        """Examples as the model reads them."""
        return Encoded(examples, self.vocabulary, self.classes, self.config.max_length, self.config.widths)


def classify(trained: Trained, texts: Sequence[str]) -> np.ndarray:
    """The probability of each class `[N, C]` for each text."""
    examples = trained.encoded([Example(text, trained.classes[0]) for text in texts])
    return np.exp(log_probabilities(trained.model, trained.params, examples))


def word_by_word(trained: Trained, text: str) -> tuple[list[str], np.ndarray]:
    """The last words of a text, and the probabilities `[T, C]` when reading ends behind each of them.

    Every beginning of the text is read as a text of its own, so that it holds for bidirectional models too.
    """
    words = tokenize(text)[-trained.config.max_length :]
    return words, classify(trained, [" ".join(words[: end + 1]) for end in range(len(words))])
