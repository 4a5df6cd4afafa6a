"""The part of a configuration that every experiment has."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp

import recurrent_jax as rj
from experiments.common.cells import CELLS
from experiments.common.cli import UsageError
from experiments.common.optimizer import Optimizer, Schedule

Rule = tuple[str, bool, str]


@dataclasses.dataclass(frozen=True)
class Training:
    """How a model is trained. Losses are in nats."""

    # Training
    batch_size: int = 64
    """Examples in each step."""
    epochs: float = 10.0
    """Passes over the training examples."""
    optimizer: Optimizer = "adam"
    """rmsprop and sgd use --momentum, adamw uses --weight-decay."""
    learning_rate: float = 1e-3
    """Its highest value."""
    schedule: Schedule = "cosine"
    """cosine: down to a hundredth at the end; exponential: times --decay each epoch behind --decay-after."""
    warmup: int = 50
    """Updates in which the learning rate grows from 0."""
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
    accumulate: int = 1
    """Steps whose gradients are averaged into one update."""
    ema: float = 0.0
    """Decay, for each update, of a moving average of the parameters, which is what is measured then. 0: none."""
    label_smoothing: float = 0.0
    """Share of the target probability that is spread over all classes."""
    patience: int = 0
    """Stop after so many measurements in a row without a better one. 0: never."""
    keep: Literal["best", "last"] = "best"
    """Which of the measured parameters are used behind the training: the best on the valid split, or the last."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of matmul operands and hidden states; parameters stay float32."""
    implementation: Literal["native", "fused", "mosaic_gpu", "pallas_tpu", "cudnn", "scan"] | None = None
    """Kernel that unrolls the cells; None lets the library choose."""
    seed: int = 0
    """Of the parameters, of the order of the examples and of dropout."""

    # Watching
    log_every: int = 20
    """Steps between rows of the training loss, each the mean over that many steps."""
    evals: int = 5
    """How often the valid split is measured, evenly over the training, the end included."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        positive = ("batch_size", "accumulate", "log_every", "evals", "checkpoint_every")
        check(
            self,
            [
                *at_least(self, 1, *positive),
                *at_least(self, 0, "warmup", "clip_norm", "weight_decay", "decay_after", "patience", "seed"),
                *shares(self, "momentum", "ema", "label_smoothing"),
                ("decay", 0 < self.decay <= 1, "more than 0 and at most 1"),
                ("epochs", 0 < self.epochs < math.inf, "more than 0 and finite"),
                ("learning_rate", self.learning_rate > 0, "more than 0"),
                *self.rules(),
            ],
        )

    def rules(self) -> Iterable[Rule]:
        """What an experiment's own fields have to keep: a field's name, whether it does, and what is expected."""
        return ()


def at_least(config: Any, least: int, *names: str) -> list[Rule]:
    """Rules that some fields are 1, or 0, or more."""
    expected = "a positive integer" if least == 1 else f"{least} or more"
    return [(name, getattr(config, name) >= least, expected) for name in names]


def shares(config: Any, *names: str) -> list[Rule]:
    """Rules that some fields are shares of something, never all of it."""
    return [(name, 0 <= getattr(config, name) < 1, "0 or more and less than 1") for name in names]


def kernel_fits(config: Any) -> Rule:
    """The rule that the kernel runs the cell, here."""
    expected = "None, or a kernel that runs the cell"
    if config.implementation is None:
        return "implementation", True, expected
    cell = CELLS[config.cell](1, dtype=config.dtype)
    try:
        rj.explain(cell, cell.init(jax.random.key(0), 1), jnp.zeros((1, 1)), implementation=config.implementation)
    except NotImplementedError as error:
        return "implementation", False, f"{expected} ({error})"
    return "implementation", True, expected


def check(arguments: Any, rules: Iterable[Rule]) -> None:
    """Raises UsageError for the first rule that is broken."""
    for name, holds, expected in rules:
        if not holds:
            raise UsageError(f"--{name.replace('_', '-')}: expected {expected}, got {getattr(arguments, name)!r}")


C = TypeVar("C", bound=Training)


def absolute(config: C, *names: str) -> C:
    """The same configuration with paths that hold from any folder."""
    given = {name: getattr(config, name) for name in names}
    paths: dict[str, Any] = {
        name: str(pathlib.Path(value).expanduser().resolve()) for name, value in given.items() if value is not None
    }
    return dataclasses.replace(config, **paths)
