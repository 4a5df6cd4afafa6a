"""The configuration of a run, and presets by name."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

from experiments.common.cells import CellName
from experiments.common.config import Rule, Training, at_least, kernel_fits, shares

Pooling = Literal["last", "mean", "max", "attention"]


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """One run. Lengths are in words; signs of punctuation count as words."""

    # Texts
    data: str | None = None
    """A .csv, .tsv or .jsonl file (.gz too), or a folder or .tar.gz of SPLIT/LABEL/*.txt files, as IMDB comes."""
    test_data: str | None = None
    """A file like --data, to measure at the end, in place of a part of --data."""
    dataset: Literal["imdb_reviews", "glue/sst2"] | None = None
    """Texts of tensorflow-datasets, in place of --data. Neither: synthetic reviews, from a grammar."""
    tfds_dir: str | None = None
    """Where tensorflow-datasets keeps what it prepared; None is its own default."""
    tfds_manual_dir: str | None = None
    """A folder that holds the source files of --dataset, for machines without a network."""
    text_column: str = "text"
    """Name of the column of texts."""
    label_column: str = "label"
    """Name of the column of classes; any number of them, named as you like."""
    max_examples: int = 0
    """Train on so many texts at most; 0: on all."""
    valid_fraction: float = 0.1
    """Share of the training texts, drawn at random, that is watched while training."""
    test_fraction: float = 0.1
    """Share of the texts, drawn at random, to measure at the end, where they bring no test part."""
    max_length: int = 200
    """Only so many last words of a text are read."""
    widths: int = 3
    """Batches are padded to one of so many lengths; a program is compiled for each."""
    vocabulary_size: int = 20_000
    """Most words that are known; all others are one, <unk>."""
    min_count: int = 2
    """How often a word has to occur in training to be known."""

    # Model
    cell: CellName = "lstm"
    """The recurrent cell of every layer."""
    hidden_size: int = 64
    """Units of each layer, and of each direction."""
    layers: int = 1
    """Number of layers."""
    bidirectional: bool = True
    """Read the text from both ends."""
    pooling: Pooling = "last"
    """How the outputs become one vector: that of the last true step, their mean, maximum, or learned attention."""
    embedding_size: int = 64
    """Size of the learned vector of each word."""
    vectors: str | None = None
    """A text file in GloVe's format (a word and its numbers on each line), for the first vectors of known words."""
    dropout: float = 0.3
    """Share of features set to zero between layers and before the classifier, while training."""
    embedding_dropout: float = 0.2
    """Share of the features of word vectors set to zero, the same ones in the whole text, while training."""
    word_dropout: float = 0.0
    """Share of the words replaced by <unk>, while training."""
    balance: bool = False
    """Weigh each class by the inverse of its frequency in the loss."""

    def rules(self) -> Iterable[Rule]:
        """What the fields have to keep."""
        return [
            *at_least(
                self,
                1,
                "widths",
                "max_length",
                "min_count",
                "hidden_size",
                "layers",
                "embedding_size",
            ),
            # Two of them are special.
            *at_least(self, 3, "vocabulary_size"),
            *at_least(self, 0, "max_examples"),
            kernel_fits(self),
            *shares(self, "dropout", "embedding_dropout", "word_dropout"),
            *((n, 0 < getattr(self, n) < 1, "between 0 and 1") for n in ("valid_fraction", "test_fraction")),
            ("test_fraction", self.valid_fraction + self.test_fraction < 1, "less than 1 with --valid-fraction"),
            ("dataset", self.data is None or self.dataset is None, "--data or --dataset, not both, to be given"),
            ("test_data", self.test_data is None or self.data is not None, "none without --data"),
        ]


# What presets are made for; the others take any texts, and synthetic reviews where none are given.
MADE_FOR = {
    "imdb": "IMDB's reviews (its folder aclImdb, or --dataset imdb_reviews)",
    "sst2": "SST-2's phrases (its file train.tsv, or --dataset glue/sst2)",
}

PRESETS = {
    # Synthetic reviews, a minute or two on two cores.
    "demo": Config(batch_size=32, epochs=6.0, learning_rate=3e-3, max_length=60, evals=6),
    # The whole of IMDB in ten minutes on two cores.
    "imdb": Config(batch_size=64, epochs=3.0, learning_rate=2e-3, max_length=200, evals=6, min_count=5),
    # GLUE's SST-2 in ten minutes on two cores.
    "sst2": Config(
        batch_size=64, epochs=3.0, learning_rate=1e-3, max_length=60, evals=6, text_column="sentence",
        valid_fraction=0.02, embedding_size=256, hidden_size=128, pooling="max", dropout=0.5, embedding_dropout=0.3,
        word_dropout=0.1, ema=0.999,
    ),
    # A few seconds, to see that all works.
    "tiny": Config(widths=1, max_examples=600, hidden_size=16, embedding_size=16, epochs=1.0, batch_size=16, evals=2),
}  # fmt: skip
