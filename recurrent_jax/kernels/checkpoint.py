"""Checkpointing over time: any kernel, with its carry stored only every k steps."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrent_jax.kernels.contract import Inputs, Kernel, Options, Outputs


def run(kernel: Kernel, cell: Any, inputs: Inputs, options: Options, every: int) -> Outputs:
    """Unrolls in chunks of `every` steps, each of them run again in the backward pass.

    Activation memory falls from O(T) to O(T / every + every) at the price of a second forward pass
    (Chen et al., "Training deep nets with sublinear memory cost", arXiv:1604.06174, 2016).
    """
    steps = len(inputs.xs)
    whole = steps - steps % every

    def chunk(params: Any, initial: Any, carry: Any, time: Any) -> Outputs:
        xs, mask, resets = time
        return kernel.run(cell, Inputs(params, xs, carry, initial, mask, resets), options)

    chunk = jax.checkpoint(chunk, prevent_cse=False)

    def body(carry: Any, time: Any) -> tuple[Any, Any]:
        out = chunk(inputs.params, inputs.initial, carry, time)
        return out.carry, (out.ys, out.carries)

    def chunked(carry: Any) -> tuple[Any, Any]:
        head = jax.tree.map(lambda a: a[:whole].reshape(-1, every, *a.shape[1:]), time)
        carry, parts = lax.scan(body, carry, head, reverse=options.reverse)
        return carry, jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), parts)

    def remainder(carry: Any) -> tuple[Any, Any]:
        return body(carry, jax.tree.map(lambda a: a[whole:], time))

    time = (inputs.xs, inputs.mask, inputs.resets)
    if whole == 0:
        carry, parts = remainder(inputs.carry)
    elif whole == steps:
        carry, parts = chunked(inputs.carry)
    else:
        first, second = (remainder, chunked) if options.reverse else (chunked, remainder)
        carry, early = first(inputs.carry)
        carry, late = second(carry)
        head, tail = (late, early) if options.reverse else (early, late)
        parts = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), head, tail)
    return Outputs(carry, *parts)
