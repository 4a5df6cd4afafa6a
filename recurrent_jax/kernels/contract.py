"""What every kernel is given and gives back, and the one meaning of mask and resets."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from recurrent_jax.cells.base import Array


class Inputs(NamedTuple):
    """The arrays of one unrolling, time first.

    Attributes:
      params: parameters of the cell.
      xs: `[T, ..., D]`; `unroll` has put zeros wherever `mask` is False.
      carry: the carry before the first step.
      initial: the carry that a reset restores; None where there are no resets.
      mask: `[T, ...]` of bool, False where a step must change nothing; None for all True.
      resets: `[T, ...]` of bool; None for all False.
    """

    params: Any
    xs: Array
    carry: Any
    initial: Any = None
    mask: Array | None = None
    resets: Array | None = None


class Options(NamedTuple):
    """What is fixed when the unrolling is compiled.

    Attributes:
      reverse: run from the last step to the first; outputs stay aligned with the inputs.
      return_carries: also return the carry after each step, `[T, ...]`.
      unroll: steps in each iteration of a compiled loop.
    """

    reverse: bool = False
    return_carries: bool = False
    unroll: int = 1


class Outputs(NamedTuple):
    """The final carry, the outputs `[T, ...]`, and with `return_carries` the carry after each step."""

    carry: Any
    ys: Any
    carries: Any = None


class Kernel(Protocol):
    """One way to run the recurrence: a module of this package with these names."""

    NAME: str

    def refuses(self, cell: Any, inputs: Inputs, options: Options) -> str | None:
        """Why this kernel can't run the call, in words; None where it can."""

    def run(self, cell: Any, inputs: Inputs, options: Options) -> Outputs:
        """Unrolls the cell."""


def select(condition: Array, new: Any, old: Any) -> Any:
    """`new` where `condition [...]` holds, else `old`; both pytrees of leaves `[..., features]`."""

    def leaf(n: Array, o: Array) -> Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (n.ndim - condition.ndim)), n, o)

    return jax.tree.map(leaf, new, old)


def masked_step(
    step: Callable[[Any, Any], tuple[Any, Any]],
    inputs: Inputs,
    carry: Any,
    x: Any,
    keep: Array | None,
    reset: Array | None,
) -> tuple[Any, Any, Any]:
    """One step with the meaning of `mask` and `resets`.

    A reset restores `inputs.initial` before `x` is consumed; a masked step leaves the carry as it
    was, reset or not, and gives zeros.

    Returns:
      The carry that the step consumed, the carry after it, and the output.
    """
    start = carry if reset is None else select(reset, inputs.initial, carry)
    new, y = step(start, x)
    if keep is not None:
        new = select(keep, new, carry)
        y = select(keep, y, jax.tree.map(jnp.zeros_like, y))
    return start, new, y
