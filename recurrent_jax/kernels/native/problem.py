"""What one call works on, as src/problem.h has it: arrays in containers, and what is fixed when it is compiled.

Containers go by where the rows of the batch are: weights have none, what belongs to steps has them second,
`[T, B, ...]`, and what belongs to carries first, `[B, ...]`. None stands for what a call has no use for.
"""

import enum
from typing import Any, NamedTuple

from recurrent_jax.cells.base import Array


class Cell(enum.IntEnum):
    """The cells, as numbered in src/problem.h."""

    TANH = 0
    RELU = 1
    LSTM = 2
    GRU = 3


class Weights(NamedTuple):
    """`w_x [D, GH]`, `b [GH]`, `w_h [H, GH]`, and the GRU's `b_n [H]`."""

    w_x: Array
    b: Array
    w_h: Array
    b_n: Array | None


class Carries(NamedTuple):
    """The carry before the first step and the one that a reset restores, each `[B, H]`."""

    h: Array | None
    c: Array | None
    initial_h: Array | None
    initial_c: Array | None


class Flags(NamedTuple):
    """`keep [T, B]`, False where a step changes nothing, and `reset [T, B]`."""

    keep: Array | None
    reset: Array | None


class Saved(NamedTuple):
    """What the backward pass needs of each step: the gates `[T, B, GH]`, the GRU's `extra [T, B, H]`, the carries.

    `extra` is what the reset gate multiplies, `h W_hn + b_n`. Gates and `extra` hold anything at masked steps, and the
    gates of an RNN everywhere.
    """

    gates: Array | None
    extra: Array | None
    hs: Any
    cs: Array | None


class Kind(NamedTuple):
    """What is fixed when a call is compiled.

    Attributes:
      cell: which one.
      gates: G.
      reverse: the last step first.
    """

    cell: Cell
    gates: int
    reverse: bool

    @property
    def has_c(self) -> bool:
        """Whether the carry has a second half, as the LSTM's has."""
        return self.cell == Cell.LSTM

    @property
    def has_extra(self) -> bool:
        """Whether a gate acts behind the recurrent matmul, as in the GRU."""
        return self.cell == Cell.GRU
