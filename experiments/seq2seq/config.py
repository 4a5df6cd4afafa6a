"""The configuration of a run, and presets by name."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Literal

from experiments.common import config as common
from experiments.common.cells import CellName
from experiments.common.config import Rule, Training, at_least, kernel_fits, shares

Tokens = Literal["words", "spaces", "characters", "pieces"]
Attention = Literal["dot", "general", "additive", "context", "none"]
Goal = Literal["loss", "sequence_accuracy", "bleu"]


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """One run. Lengths are in tokens."""

    # Pairs
    data: tuple[str, ...] = ()
    """A file of pairs (on each line SOURCE<tab>TARGET, or SCAN's IN: .. OUT: ..), or one of sources, one of targets."""
    valid_data: tuple[str, ...] = ()
    """Pairs like --data to watch while training, in place of a part of --data."""
    test_data: tuple[str, ...] = ()
    """Pairs like --data to measure at the end, in place of a part of --data."""
    dataset: str | None = None
    """Pairs of tensorflow-datasets (ted_hrlr_translate/pt_to_en, wmt16_translate/de-en, ...). Nothing given: dates."""
    tfds_dir: str | None = None
    """Where tensorflow-datasets keeps what it prepared; None is its own default."""
    tfds_manual_dir: str | None = None
    """A folder that holds the source files of --dataset, for machines without a network."""
    widths: int = 3
    """Batches are padded to one of so many lengths; a program is compiled for each."""
    valid_pairs: int = 1000
    """So many pairs of --data, drawn at random, are watched, where there is no --valid-data; a tenth of few."""
    test_pairs: int = 1000
    """So many pairs of --data, drawn at random, are measured at the end, where there is no --test-data."""
    tokens: Tokens = "words"
    """words: lower-cased, signs apart; spaces: as the text is cut by blanks; pieces: subwords of sentencepiece."""
    vocabulary_size: int = 10_000
    """Most tokens that are known, on each side."""
    min_count: int = 2
    """How often a token has to occur in training to be known; of no effect on pieces."""
    max_length: int = 60
    """Longer pairs are not trained on; measured, they are cut, but for the text of the target; no output is longer."""

    # Model
    cell: CellName = "lstm"
    """The recurrent cell of every layer."""
    hidden_size: int = 256
    """Units of each layer of the decoder; those of a bidirectional encoder layer are half as many in each direction."""
    layers: int = 1
    """Layers of the encoder, and of the decoder."""
    bidirectional: bool = True
    """Read the source from both ends."""
    embedding_size: int = 128
    """Size of the learned vector of each token."""
    attention: Attention = "dot"
    """Luong's dot or general, Bahdanau's additive score; or, without attention, the source's last state at every step
    of the decoder (context) or only as its first state (none)."""
    input_feeding: bool = True
    """Give each step of the decoder the attentional state of the one before."""
    dropout: float = 0.2
    """Share of features set to zero while training: in token vectors, before the softmax, between the encoder's layers
    and, without input feeding, between the decoder's."""

    # Training
    teacher_forcing: float = 1.0
    """Share of the steps that read the true token before, not the model's own, at the first step of the training."""
    teacher_forcing_end: float = 1.0
    """That share at the last step; it changes linearly."""
    goal: Goal = "loss"
    """Which number of the valid split the best parameters are best in."""

    # Decoding
    beams: int = 5
    """Hypotheses of the beam search at the end."""
    length_normalisation: float = 0.6
    """Exponent of the length by which the score of a hypothesis is divided (Wu et al., 2016); 0: none."""
    coverage_penalty: float = 0.0
    """Weight of the penalty for source positions that got too little attention (Wu et al., 2016)."""

    def rules(self) -> Iterable[Rule]:
        """What the fields have to keep."""
        sizes = (
            "widths",
            "min_count",
            "max_length",
            "hidden_size",
            "layers",
            "embedding_size",
            "beams",
        )
        forcing = ("teacher_forcing", "teacher_forcing_end")
        attends = self.attention in ("dot", "general", "additive")
        return [
            *at_least(self, 1, *sizes, "widths", "valid_pairs", "test_pairs"),
            # Four of them are special.
            *at_least(self, 5, "vocabulary_size"),
            kernel_fits(self),
            *at_least(self, 0, "length_normalisation", "coverage_penalty"),
            *shares(self, "dropout"),
            *((name, 0 <= getattr(self, name) <= 1, "from 0 to 1") for name in forcing),
            *((n, len(getattr(self, n)) <= 2, "one or two files") for n in ("data", "valid_data", "test_data")),
            *((n, not getattr(self, n) or bool(self.data), "none without --data") for n in ("valid_data", "test_data")),
            ("dataset", not self.data or self.dataset is None, "--data or --dataset, not both, to be given"),
            ("hidden_size", not self.bidirectional or self.hidden_size % 2 == 0, "an even number, for two directions"),
            ("coverage_penalty", attends or not self.coverage_penalty, "0 without attention"),
        ]


# What presets are made for; the others take any pairs, and dates where none are given.
MADE_FOR = {
    "scan": "SCAN's pairs (its file tasks_train_simple.txt)",
    **dict.fromkeys(("multi30k", "multi30k_large"), "Multi30k's pairs (its files train.de train.en)"),
}


def absolute(config: Config) -> Config:
    """The same configuration with paths that hold from any folder."""
    whole = lambda paths: tuple(str(pathlib.Path(path).expanduser().resolve()) for path in paths)
    config = dataclasses.replace(
        config, data=whole(config.data), valid_data=whole(config.valid_data), test_data=whole(config.test_data)
    )
    return common.absolute(config, "tfds_dir", "tfds_manual_dir")


PRESETS = {
    # Dates, a few minutes on two cores.
    "demo": Config(
        tokens="characters", hidden_size=128, embedding_size=32, batch_size=64, epochs=6.0, learning_rate=4e-3,
        dropout=0.1, goal="sequence_accuracy", min_count=1, max_length=48, valid_pairs=500, evals=4, widths=2,
    ),
    # SCAN in ten minutes on two cores.
    "scan": Config(
        tokens="spaces", hidden_size=128, embedding_size=32, batch_size=32, epochs=8.0, learning_rate=2e-3,
        dropout=0.1, goal="sequence_accuracy", min_count=1, vocabulary_size=100, valid_pairs=500,
        length_normalisation=0.0,
    ),
    # A small model of Multi30k on two cores.
    "multi30k": Config(
        tokens="spaces", hidden_size=256, embedding_size=128, batch_size=64, epochs=5.0, learning_rate=2e-3,
        dropout=0.3, label_smoothing=0.1, max_length=50,
    ),
    # The size of published models of Multi30k; for an accelerator.
    "multi30k_large": Config(
        tokens="spaces", hidden_size=512, layers=2, embedding_size=256, batch_size=128, epochs=20.0, learning_rate=1e-3,
        dropout=0.4, label_smoothing=0.1, max_length=60, evals=20, goal="bleu",
    ),
    # A few seconds, to see that all works.
    "tiny": Config(
        tokens="characters", hidden_size=16, embedding_size=8, batch_size=16, epochs=0.1, evals=2, min_count=1,
        valid_pairs=100, test_pairs=100, max_length=48, beams=2, widths=1,
    ),
}  # fmt: skip
