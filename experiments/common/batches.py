"""Batches of sequences of like length."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

# Batches between which sequences change places: many, for little padding, and not all, for a good shuffle.
_POOL = 50


def widths(lengths: np.ndarray, count: int) -> np.ndarray:
    """A few lengths to pad to, so that a program is compiled for each of them and not for every length.

    They hold equal shares of the sequences; the last is the longest length.
    """
    return np.unique(_quantiles(lengths, count))


def joint_widths(sources: np.ndarray, targets: np.ndarray, count: int) -> np.ndarray:
    """A few pairs of lengths `[count, 2]` to pad pairs of sequences to, each at least as wide as the one before."""
    return np.unique(np.stack([_quantiles(sources, count), _quantiles(targets, count)], axis=1), axis=0)


def _quantiles(lengths: np.ndarray, count: int) -> np.ndarray:
    """Lengths that so many equal shares of all do not exceed, rounded up to multiples of 8 but for the last."""
    shares = np.quantile(lengths, np.arange(1, count + 1) / count, method="higher") if len(lengths) else np.ones(1)
    return np.clip(-(-shares.astype(int) // 8) * 8, 1, max(1, int(shares[-1])))


class Plan:
    """Which sequences make up the batch of each step: random, but of like length within a batch.

    Every epoch has another order, and leaves out another few that do not fill a batch. The plan is a function of its
    arguments and of the step alone.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, epochs: float, seed: int) -> None:
        self._lengths, self._seed = lengths, seed
        self.batch_size = min(batch_size, len(lengths))
        self.steps_per_epoch = len(lengths) // self.batch_size
        self._steps = max(1, round(epochs * self.steps_per_epoch))
        self._epoch = functools.lru_cache(maxsize=2)(self._plan)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> np.ndarray:
        epoch, place = divmod(int(step), self.steps_per_epoch)
        return self._epoch(epoch)[place]

    def _plan(self, epoch: int) -> np.ndarray:
        """The batches `[steps, rows]` of one epoch."""
        rng = np.random.default_rng((self._seed, epoch))
        order = rng.permutation(len(self._lengths))[: self.steps_per_epoch * self.batch_size]
        pool = _POOL * self.batch_size
        pools = [order[begin : begin + pool] for begin in range(0, len(order), pool)]
        by_length = np.concatenate([part[np.argsort(self._lengths[part], kind="stable")] for part in pools])
        return rng.permutation(by_length.reshape(-1, self.batch_size))


def training_batches(plan: Plan, collate: Callable[[np.ndarray], Any]) -> grain.MapDataset:
    """The batch of each step: what `collate` makes of the numbers of its sequences."""
    source: Any = plan
    return grain.MapDataset.source(source).map(collate)


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The numbers of all sequences, the shortest first, in batches."""
    order = np.argsort(lengths, kind="stable")
    return [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]


def pad(sequences: Sequence[np.ndarray], allowed: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences as `[T, rows]` with zeros behind their ends, and their lengths `[rows]`.

    T is the smallest of the `allowed` widths that holds them all; rows behind the last sequence have length 0.
    """
    longest = max(map(len, sequences), default=0)
    return pad_to(sequences, int(allowed[np.searchsorted(allowed, longest)]), rows)


def pad_to(sequences: Sequence[np.ndarray], width: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences as `[width, rows]` with zeros behind their ends, and their lengths `[rows]`."""
    lengths = np.zeros(rows, np.int32)
    lengths[: len(sequences)] = [len(sequence) for sequence in sequences]
    padded = np.zeros((width, rows), np.int32)
    for row, sequence in enumerate(sequences):
        padded[: len(sequence), row] = sequence
    return padded, lengths
