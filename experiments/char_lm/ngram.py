"""Counting models of text, to stand beside the recurrent ones."""

import numpy as np


def ngram_loss(train: np.ndarray, held_out: np.ndarray, vocabulary_size: int, order: int) -> float:
    """Mean nats per character of an interpolated n-gram model.

    With c the character, h the `order - 1` characters before it, N(h) how often h was seen, T(h) how
    many kinds of characters came behind it, and h' the context h without its first character:

        p(c | h) = (N(h c) + T(h) p(c | h')) / (N(h) + T(h)),        p(c | nothing at all) = 1 / V.

    The held-out text is read as one stream; its first characters have short contexts.

    Args:
      train: indices of the training characters `[N]`.
      held_out: indices of the characters to predict `[M]`; the first is context only.
      vocabulary_size: V.
      order: n; 1 is the unigram model.

    Returns:
      The mean over `held_out[1:]` of -log p.

    Source: Witten and Bell, "The zero-frequency problem", IEEE Transactions on Information Theory 37
    (1991), in the interpolated form of Chen and Goodman (1998).
    """
    probability = np.full(len(held_out) - 1, 1.0 / vocabulary_size)
    for length in range(min(order, len(train), len(held_out))):
        pairs, pair_counts = np.unique(
            _contexts(train, length, vocabulary_size) * vocabulary_size + train[length:], return_counts=True
        )
        kinds_of, kinds = np.unique(pairs // vocabulary_size, return_counts=True)
        total = np.zeros(len(kinds_of))
        np.add.at(total, np.searchsorted(kinds_of, pairs // vocabulary_size), pair_counts)

        # Characters 1, 2, ... are predicted, those from number `length` on have a context this long.
        first = max(1, length)
        context = _contexts(held_out, length, vocabulary_size)[first - length :]
        shorter, goal = probability[first - 1 :], held_out[first:]
        known, place = _find(kinds_of, context)
        pair_known, pair_place = _find(pairs, context * vocabulary_size + goal)
        n_pair = np.where(pair_known, pair_counts[pair_place], 0.0)
        n, t = total[place], kinds[place]
        probability[first - 1 :] = np.where(known, (n_pair + t * shorter) / (n + t), shorter)
    return float(-np.log(probability).mean())


def _contexts(indices: np.ndarray, length: int, vocabulary_size: int) -> np.ndarray:
    """For each character from number `length` on, the `length` characters before it as one number."""
    if length == 0:
        return np.zeros(len(indices), np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(indices.astype(np.int64), length)[:-1]
    return windows @ (vocabulary_size ** np.arange(length - 1, -1, -1, dtype=np.int64))


def _find(table: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each value stands in a sorted table, and where."""
    place = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return table[place] == values, place
