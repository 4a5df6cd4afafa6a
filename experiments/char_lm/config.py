"""The configuration of a run, and presets by name."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

from experiments.common.cells import CellName
from experiments.common.config import Rule, Training, at_least, kernel_fits, shares


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """One run. Lengths of text are in characters."""

    # Text
    data: str | None = None
    """A text file (.gz too), or a folder whose text files are joined in order of their paths."""
    dataset: Literal["tiny_shakespeare"] | None = None
    """A text of tensorflow-datasets, in place of --data. Neither: the source code of Python's own library."""
    tfds_dir: str | None = None
    """Where tensorflow-datasets keeps what it prepared; None is its own default."""
    tfds_manual_dir: str | None = None
    """A folder that holds the source file of --dataset, for machines without a network."""
    max_chars: int = 0
    """Use only so many first characters of the text; 0 uses all."""
    valid_fraction: float = 0.05
    """Share of the text, behind the training part, that is watched while training."""
    test_fraction: float = 0.05
    """Share of the text, at its end, that is measured once, after training."""

    # Model
    cell: CellName = "lstm"
    """The recurrent cell of every layer."""
    hidden_size: int = 256
    """Units of each layer."""
    layers: int = 1
    """Number of layers."""
    embedding_size: int = 0
    """Size of the learned vector of each character; 0 feeds one-hot vectors."""
    dropout: float = 0.0
    """Share of each layer's outputs set to zero while training, on the way to the next layer and to the softmax."""

    # Training
    batch_size: int = 64
    """Parallel streams into which the training text is cut."""
    chunk_length: int = 64
    """Time steps through which a gradient is propagated (truncated backpropagation through time)."""
    learning_rate: float = 3e-3
    """Its highest value."""
    keep: Literal["best", "last"] = "last"
    """Which of the measured parameters are used behind the training: the best on the valid split, or the last."""

    def rules(self) -> Iterable[Rule]:
        """What the fields have to keep."""
        return [
            *at_least(self, 1, "hidden_size", "layers", "chunk_length"),
            *at_least(self, 0, "max_chars", "embedding_size"),
            kernel_fits(self),
            *shares(self, "dropout"),
            *((n, 0 < getattr(self, n) < 1, "between 0 and 1") for n in ("valid_fraction", "test_fraction")),
            ("test_fraction", self.valid_fraction + self.test_fraction < 1, "less than 1 with --valid-fraction"),
            ("dataset", self.data is None or self.dataset is None, "--data or --dataset, not both, to be given"),
        ]


PRESETS = {
    # What `make demo` runs: a few minutes on two cores.
    "demo": Config(
        cell="gru", max_chars=2_000_000, batch_size=32, epochs=4.0, learning_rate=2e-3, warmup=200, evals=3,
    ),
    # Tiny Shakespeare in ten minutes on two cores.
    "small": Config(
        cell="gru", hidden_size=256, batch_size=32, dropout=0.2, epochs=12.0, learning_rate=2e-3, warmup=200, evals=6,
    ),
    # The sizes of char-rnn's published runs; for an accelerator.
    "large": Config(
        hidden_size=512, layers=3, dropout=0.5, batch_size=100, chunk_length=100, epochs=50.0, optimizer="rmsprop",
        learning_rate=2e-3, schedule="exponential", evals=25,
    ),
    # A few seconds, to see that all works.
    "tiny": Config(max_chars=60_000, hidden_size=32, epochs=1.0, batch_size=16, chunk_length=32, evals=2),
}  # fmt: skip
