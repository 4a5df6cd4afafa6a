"""The configuration of a run, and presets by name."""

import dataclasses
import math
import pathlib
from typing import Any, Literal

from experiments.common.cli import UsageError
from experiments.common.optimizer import Optimizer, Schedule

CellName = Literal["lstm", "gru", "gru_before", "rnn", "rnn_relu"]


@dataclasses.dataclass(frozen=True)
class Config:
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
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of matmul operands and hidden states; parameters stay float32."""
    implementation: Literal["fused", "scan"] | None = None
    """Kernel that unrolls the cell; None lets the library choose."""

    # Training
    batch_size: int = 64
    """Parallel streams into which the training text is cut."""
    chunk_length: int = 64
    """Time steps through which a gradient is propagated (truncated backpropagation through time)."""
    epochs: float = 10.0
    """Passes over the training text."""
    optimizer: Optimizer = "adam"
    """rmsprop and sgd use --momentum, adamw uses --weight-decay."""
    learning_rate: float = 3e-3
    """Its highest value."""
    schedule: Schedule = "cosine"
    """cosine: down to a hundredth at the end; exponential: times --decay each epoch behind --decay-after."""
    warmup: int = 50
    """Steps in which the learning rate grows from 0."""
    decay: float = 0.95
    """Factor of one epoch, for --schedule exponential."""
    decay_after: int = 10
    """Epochs without decay, for --schedule exponential."""
    momentum: float = 0.0
    """Of rmsprop and sgd."""
    weight_decay: float = 1e-4
    """Of adamw."""
    clip_norm: float = 5.0
    """Largest global norm of a gradient; larger ones are scaled down to it. 0: none."""
    seed: int = 0
    """Of the parameters, of dropout and of the samples."""

    # Watching
    log_every: int = 20
    """Steps between rows of the training loss, each the mean over that many steps."""
    evals: int = 5
    """How often the valid split is measured and text sampled, evenly over the training, the end included."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        positive = ("hidden_size", "layers", "batch_size", "chunk_length", "log_every", "evals", "checkpoint_every")
        rules = [
            *((name, getattr(self, name) >= 1, "a positive integer") for name in positive),
            *((name, getattr(self, name) >= 0, "0 or more") for name in ("max_chars", "embedding_size", "warmup")),
            *((name, getattr(self, name) >= 0, "0 or more") for name in ("clip_norm", "weight_decay", "decay_after")),
            *((name, 0 < getattr(self, name) < 1, "between 0 and 1") for name in ("valid_fraction", "test_fraction")),
            ("test_fraction", self.valid_fraction + self.test_fraction < 1, "less than 1 together with valid_fraction"),
            ("dropout", 0 <= self.dropout < 1, "0 or more and less than 1"),
            ("momentum", 0 <= self.momentum < 1, "0 or more and less than 1"),
            ("decay", 0 < self.decay <= 1, "more than 0 and at most 1"),
            ("epochs", 0 < self.epochs < math.inf, "more than 0 and finite"),
            ("seed", self.seed >= 0, "0 or more"),
            ("learning_rate", self.learning_rate > 0, "more than 0"),
            ("dataset", self.data is None or self.dataset is None, "--data or --dataset, not both, to be given"),
        ]
        for name, holds, expected in rules:
            if not holds:
                raise UsageError(f"--{name.replace('_', '-')}: expected {expected}, got {getattr(self, name)!r}")

    def absolute(self) -> "Config":
        """The same configuration with paths that hold from any folder."""
        paths: dict[str, Any] = {
            name: str(pathlib.Path(value).expanduser().resolve())
            for name in ("data", "tfds_dir", "tfds_manual_dir")
            if (value := getattr(self, name)) is not None
        }
        return dataclasses.replace(self, **paths)


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
