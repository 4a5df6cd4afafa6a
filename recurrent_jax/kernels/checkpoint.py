"""Checkpointing over time: any kernel, with its carry stored only every k steps."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrent_jax.kernels.contract import Inputs, Kernel, Options, Outputs


def run(kernel: Kernel, cell: Any, inputs: Inputs, options: Options, every: int) -> Outputs:
    """Unrolls in chunks of `every` steps, fewer than all, each of them run again in the backward pass.

    Activation memory falls from O(T) to O(T / every + every) at the price of a second forward pass
    (Chen et al., "Training deep nets with sublinear memory cost", arXiv:1604.06174, 2016).
    """
    steps = len(inputs.xs)
    # Two chunks at least: a loop of one step is unrolled by the compiler, which then merges the
    # second forward pass with the first, and nothing is saved.
    every = min(every, steps // 2)
    whole = steps - steps % every

    def chunk(params: Any, initial: Any, carry: Any, time: Any) -> tuple[Any, Any]:
        xs, mask, resets = time
        out = kernel.run(cell, Inputs(params, xs, carry, initial, mask, resets), options)
        return out.carry, (out.ys, out.carries)

    def again(carry: Any, time: Any) -> tuple[Any, Any]:
        return jax.checkpoint(chunk, prevent_cse=False)(inputs.params, inputs.initial, carry, time)

    def chunked(carry: Any) -> tuple[Any, Any]:
        head = jax.tree.map(lambda a: a[:whole].reshape(whole // every, every, *a.shape[1:]), time)
        carry, parts = lax.scan(again, carry, head, reverse=options.reverse)
        return carry, jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), parts)

    def remainder(carry: Any) -> tuple[Any, Any]:
        return again(carry, jax.tree.map(lambda a: a[whole:], time))

    time = (inputs.xs, inputs.mask, inputs.resets)
    if whole == steps:
        carry, parts = chunked(inputs.carry)
    else:
        first, second = (remainder, chunked) if options.reverse else (chunked, remainder)
        carry, early = first(inputs.carry)
        carry, late = second(carry)
        head, tail = (late, early) if options.reverse else (early, late)
        parts = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), head, tail)
    return Outputs(carry, *parts)
