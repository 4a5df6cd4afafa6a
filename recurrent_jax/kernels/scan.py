"""`scan`: `jax.lax.scan` over `cell.step`. This is the specification: all other kernels must equal it."""

from collections.abc import Callable
from typing import Any

from jax import lax

from recurrent_jax.kernels.contract import Inputs, Options, Outputs, masked_step

NAME = "scan"


def refuses(cell: Any, inputs: Inputs, options: Options) -> str | None:
    """Never refuses."""
    return None


def run(cell: Any, inputs: Inputs, options: Options, loop: Callable[..., Any] = lax.scan) -> Outputs:
    """Unrolls any cell, in any mode of differentiation, of any order, by `lax.scan` or what is called like it."""

    def body(carry: Any, step_inputs: Any) -> tuple[Any, Any]:
        step = lambda start, x: cell.step(inputs.params, start, x)
        _, carry, y = masked_step(step, inputs, carry, *step_inputs)
        return carry, (y, carry if options.return_carries else None)

    time = (inputs.xs, inputs.mask, inputs.resets)
    carry, (ys, carries) = loop(body, inputs.carry, time, reverse=options.reverse, unroll=options.unroll)
    return Outputs(carry, ys, carries)
