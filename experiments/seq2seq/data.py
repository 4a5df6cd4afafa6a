"""Pairs of texts: where they come from, how they are split, numbered and put into batches."""

import collections
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.common.batches import Plan, evaluation_batches, joint_widths, pad_to, training_batches
from experiments.common.cli import UsageError
from experiments.common.datasets import prepared
from experiments.seq2seq.config import Config
from experiments.seq2seq.dates import generate
from experiments.seq2seq.lines import Pairs, Part, read
from experiments.seq2seq.tokens import CUTS, END_ID, START_ID, Pieces, Tokenizer, Words

DATES = 12_000


class Corpus(NamedTuple):
    """Three lists of pairs, and a sentence that says where they came from."""

    source: str
    train: Pairs
    valid: Pairs
    test: Pairs

    def sha256(self) -> str:
        """The hash of all pairs, to notice when a run goes on with other ones."""
        digest = hashlib.sha256()
        for pairs in self[1:]:
            digest.update(f"{len(pairs)}\n".encode())
            for number in range(len(pairs)):
                digest.update("\0".join((*pairs[number], "")).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def load(config: Config) -> Corpus:
    """Opens the pairs that a configuration names, and splits them.

    Raises:
      UsageError: they can't be had, or are too few.
    """
    valid: Pairs | None = None
    test: Pairs | None = None
    if config.dataset is not None:
        source, pairs, valid, test = _tfds(config)
    elif config.data:
        source, pairs = " and ".join(config.data), read("data", config.data)
        valid = read("valid-data", config.valid_data) if config.valid_data else None
        test = read("test-data", config.test_data) if config.test_data else None
    else:
        source = "dates, written in the manner of 24 languages"
        pairs = generate(DATES, seed=0)
    # Another seed trains another model, on the same split.
    order = np.random.default_rng(0).permutation(len(pairs))
    if test is None:
        count = min(config.test_pairs, len(pairs) // 10)
        test, order = Part(pairs, order[:count]), order[count:]
    if valid is None:
        count = min(config.valid_pairs, len(pairs) // 10)
        valid, order = Part(pairs, order[:count]), order[count:]
    corpus = Corpus(source, Part(pairs, np.sort(order)), valid, test)
    if not all(map(len, corpus[1:])):
        raise UsageError(
            f"--data: expected pairs for training, valid and test split, got {len(corpus.train)}, {len(corpus.valid)} "
            f"and {len(corpus.test)} from {source}"
        )
    return corpus


def _tfds(config: Config) -> tuple[str, Pairs, Pairs, Pairs]:
    """The three parts of a data set of tensorflow-datasets that translates from one language to another."""
    builder = prepared(str(config.dataset), config.tfds_dir, config.tfds_manual_dir)
    if builder.info.supervised_keys is None or not {"train", "validation", "test"} <= set(builder.info.splits):
        raise UsageError(f"--dataset: expected pairs with splits train, validation and test, {config.dataset} has none")
    keys = builder.info.supervised_keys

    class Rows:
        def __init__(self, split: str) -> None:
            self._rows = builder.as_data_source(split=split)

        def __len__(self) -> int:
            return len(self._rows)

        def __getitem__(self, number: int) -> tuple[str, str]:
            row = self._rows[number]
            source, target = (bytes(row[key]).decode("utf-8") for key in keys)
            return source, target

    return f"{builder.info.full_name} of tensorflow-datasets", Rows("train"), Rows("validation"), Rows("test")


def survey(config: Config, pairs: Pairs) -> tuple[Tokenizer, Tokenizer, np.ndarray]:
    """The tokenizers of sources and targets, and the number of tokens of each pair's sides `[N, 2]`, in one reading."""
    if config.tokens == "pieces":
        first, second = (Pieces.of(_side(pairs, side), config.vocabulary_size) for side in (0, 1))
        return first, second, measure(pairs, first, second)
    cut = CUTS[config.tokens]
    counts: tuple[collections.Counter[str], ...] = (collections.Counter(), collections.Counter())
    lengths = np.zeros((len(pairs), 2), np.int32)
    for number in range(len(pairs)):
        for side, text in enumerate(pairs[number]):
            tokens = cut(text)
            counts[side].update(tokens)
            lengths[number, side] = len(tokens)
    source, target = (Words.of(config.tokens, each, config.vocabulary_size, config.min_count) for each in counts)
    return source, target, lengths


def measure(pairs: Pairs, source: Tokenizer, target: Tokenizer) -> np.ndarray:
    """The number of tokens of each pair's sides `[N, 2]`."""
    both = (pairs[number] for number in range(len(pairs)))
    lengths = [(len(source.cut(first)), len(target.cut(second))) for first, second in both]
    return np.array(lengths, np.int32).reshape(-1, 2)


def _side(pairs: Pairs, side: int) -> Iterator[str]:
    """The texts of all sources, or of all targets."""
    return (pairs[number][side] for number in range(len(pairs)))


class Batch(NamedTuple):
    """Tokens of sources `[S, B]` and of targets `[T, B]` with `<sos>` and `<eos>`, and true lengths `[B]`.

    The decoder reads a target but its last token, and is to predict it but its first.
    """

    source: Any
    source_lengths: Any
    target: Any
    target_lengths: Any


class Encoded:
    """Pairs as numbers, in batches. A pair is read and cut when its batch is made; only its lengths are kept.

    One line of many thousand words would make its batch as long, so both sides are cut to `max_length` tokens.
    """

    def __init__(
        self,
        pairs: Pairs,
        source: Tokenizer,
        target: Tokenizer,
        max_length: int,
        widths: int,
        lengths: np.ndarray | None = None,
    ) -> None:
        self.pairs, self._rest = pairs, (source, target, max_length, widths)
        self.lengths = measure(pairs, source, target) if lengths is None else lengths
        # A batch always has a step, and a target its start and end.
        sources, targets = np.clip(self.lengths[:, 0], 1, max_length), np.minimum(self.lengths[:, 1], max_length) + 2
        self.widths = joint_widths(sources, targets, widths)

    def _encode(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A pair: its source, and its target with start and end; the target that is cut does not end."""
        source, target, max_length, _ = self._rest
        first, second = self.pairs[number]
        words = np.array([START_ID, *target.encode(second), END_ID], np.int32)
        return source.encode(first)[:max_length], words[: max_length + 2]

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, numbers: np.ndarray, rows: int) -> Batch:
        """The pairs of some numbers, and empty ones up to `rows`."""
        sources, targets = zip(*(self._encode(int(number)) for number in numbers), strict=True)
        longest = max(map(len, sources)), max(map(len, targets))
        source, target = next(both for both in self.widths if (both >= longest).all())
        return Batch(*pad_to(sources, int(source), rows), *pad_to(targets, int(target), rows))

    def batches(self, rows: int) -> list[np.ndarray]:
        """The numbers of all pairs, in batches of like length."""
        return evaluation_batches(self.lengths.max(axis=1), rows)

    def too_long(self) -> int:
        """How many pairs are cut."""
        return int((self.lengths > self._rest[2]).any(axis=1).sum())

    def trainable(self) -> "Encoded":
        """The pairs with two sides, of which neither is longer than the most tokens."""
        fits = (self.lengths > 0) & (self.lengths <= self._rest[2])
        numbers = np.flatnonzero(fits.all(axis=1))
        return Encoded(Part(self.pairs, numbers), *self._rest, self.lengths[numbers])

    def plan(self, config: Config) -> Plan:
        """The order of training."""
        return Plan(self.lengths.max(axis=1), config.batch_size, config.epochs, config.seed)

    def training_batches(self, plan: Plan) -> Any:
        """The batch of each step."""
        return training_batches(plan, lambda numbers: self.batch(numbers, plan.batch_size))
