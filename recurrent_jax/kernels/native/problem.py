"""What one call works on, as src/problem.h has it: arrays in containers, and what is fixed when it is compiled.

Containers go by where the rows of the batch are: weights have none, what belongs to steps has them second,
`[T, B, ...]`, and what belongs to carries first, `[B, ...]`. None stands for what a call has no use for.
"""

from typing import Any, NamedTuple

import numpy as np

from recurrent_jax.cells.base import Array, accumulator


class Cell(NamedTuple):
    """A cell that is compiled.

    Attributes:
      number: as in src/problem.h.
      gates: G.
      has_c: the carry has a second half, as the LSTM's has.
      has_extra: a gate acts behind the recurrent matmul, as in the GRU.
      has_peepholes: three gates see `c`.
    """

    number: int
    gates: int
    has_c: bool = False
    has_extra: bool = False
    has_peepholes: bool = False

    def saves_gates(self, dtype: np.dtype) -> bool:
        """Whether the backward pass needs more than the carries, in this dtype."""
        return self.gates > 1 or (self.number == 0 and accumulator(dtype) != dtype)


TANH = Cell(0, gates=1)
RELU = Cell(1, gates=1)
LSTM = Cell(2, gates=4, has_c=True)
GRU = Cell(3, gates=3, has_extra=True)
PEEPHOLE_LSTM = Cell(4, gates=4, has_c=True, has_peepholes=True)
COUPLED_LSTM = Cell(5, gates=3, has_c=True)


class Weights(NamedTuple):
    """`w_x [D, GH]`, `b [GH]`, `w_h [H, GH]`, the GRU's `b_n [H]`, and the LSTM's `peepholes [3, H]` of i, f and o."""

    w_x: Array
    b: Array
    w_h: Array
    b_n: Array | None
    peepholes: Array | None


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

    `extra` is what the reset gate multiplies, `h W_hn + b_n`. Gates and `extra` are of no use at masked steps. An RNN
    has no gates to save, since `hs` gives the derivative; but where h is rounded, that of tanh is in their place: of an
    h near 1, 1 - h^2 would be far off.
    """

    gates: Array | None
    extra: Array | None
    hs: Any
    cs: Array | None


class Kind(NamedTuple):
    """What is fixed when a call is compiled: the cell, and whether the last step comes first."""

    cell: Cell
    reverse: bool
