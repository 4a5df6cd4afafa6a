"""What counting words achieves."""

import warnings

import numpy as np
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from experiments.sentiment.data import Encoded

_PENALTIES = (0.03, 0.3, 3.0)


def bag_of_words(train: Encoded, valid: Encoded, test: Encoded, vocabulary_size: int) -> float:
    """Test accuracy of logistic regression on which words occur; its penalty is the best of three on `valid`."""
    features = [_occurrences(split, vocabulary_size) for split in (train, valid, test)]
    best = (-1.0, 0.0)
    for penalty in _PENALTIES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=penalty, max_iter=200).fit(features[0], train.labels)
        best = max(best, (model.score(features[1], valid.labels), model.score(features[2], test.labels)))
    return float(best[1])


def majority(train: Encoded, test: Encoded) -> float:
    """Test accuracy of always naming the commonest class of training."""
    return float(np.mean(test.labels == np.bincount(train.labels).argmax()))


def _occurrences(split: Encoded, vocabulary_size: int) -> scipy.sparse.csr_matrix:
    """A row for each text with a 1 for each word in it."""
    words = [np.unique(text) for text in split.texts]
    ends = np.concatenate([[0], np.cumsum([len(row) for row in words])])
    columns = np.concatenate([*words, np.zeros(0, np.int32)])
    return scipy.sparse.csr_matrix((np.ones(len(columns)), columns, ends), (len(words), vocabulary_size))
