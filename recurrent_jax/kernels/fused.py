"""`fused`: the scan of any pointwise cell with a backward pass of its own, derived from `pointwise`.

The backward loop writes the gradients dz and dr over the saved pre-activations of the same step, in
place: peak memory holds one such buffer, not two.

Whether the input projection runs inside the forward loop or before it depends on the device: on a
CPU the projected array would travel through memory and cost more than the small matmul saves.

On a CPU XLA writes a step's numbers of two bytes into those of all steps by turning all of these into float32 and back.
So there they are stacked as integers of the same bits, which a loop that JAX differentiates could not do.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrent_jax.cells.base import Array, PointwiseCell
from recurrent_jax.kernels import pointwise, scan
from recurrent_jax.kernels.contract import Inputs, Options, Outputs, masked_step
from recurrent_jax.kernels.pointwise import Loops, Pass, Saved, State

NAME = "fused"


def refuses(cell: Any, inputs: Inputs, options: Options) -> str | None:
    """Refuses cells that are not pointwise, or whose parts are not of the shapes and dtypes that takes."""
    return pointwise.refuses(cell, inputs)


def run(cell: PointwiseCell, inputs: Inputs, options: Options, hoist: bool | None = None) -> Outputs:
    """Unrolls a pointwise cell.

    Args:
      hoist: project all inputs before the forward loop rather than within it; None decides by the
        device: within the loop on CPU.
    """
    hoisted = jax.default_backend() != "cpu" if hoist is None else hoist
    return pointwise.run(cell, inputs, options, Loops(lambda unrolled: _forward(unrolled, hoisted), _backward, _plain))


def _plain(unrolled: Pass) -> Outputs:
    """Where nothing is differentiated, the plain scan is as fast."""
    return scan.run(unrolled.cell, unrolled.inputs, unrolled.options, _scan)


def _forward(unrolled: Pass, hoisted: bool) -> tuple[Outputs, Saved]:
    """The outputs, and what the backward pass needs: the carry and the pre-activations of each step."""
    cell, inputs, options = unrolled.cell, unrolled.inputs, unrolled.options
    w_h = cell.recurrent_kernel(inputs.params)
    project = lambda x: cell.project(inputs.params, x)
    step = lambda carry, x: unrolled.step(inputs.params, w_h, carry, x if hoisted else project(x))

    def body(carry: Any, step_inputs: Any) -> tuple[Any, Any]:
        start, carry, (y, pre) = masked_step(step, inputs, carry, *step_inputs)
        return carry, (y, start, pre, carry if options.return_carries else None)

    time = (project(inputs.xs) if hoisted else inputs.xs, inputs.mask, inputs.resets)
    carry, (ys, starts, pre, carries) = _scan(body, inputs.carry, time, reverse=options.reverse, unroll=options.unroll)
    return Outputs(carry, ys, carries), Saved(starts, pre)


def _backward(unrolled: Pass, saved: Saved, cotangent: Outputs) -> tuple[Array, State, list[Array]]:
    """The `h` that each step consumed, the last state, and the cotangents of the pre-activations."""
    inputs, options = unrolled.inputs, unrolled.options
    own, others, dtype = unrolled.own, unrolled.others, unrolled.cell.compute_dtype
    # The barrier keeps the transposed copy outside the loop, in the layout that the matmul wants.
    w_h_transposed = lax.optimization_barrier(unrolled.cell.recurrent_kernel(inputs.params).T)

    def body(carried: Any, step_inputs: Any) -> tuple[Any, None]:
        state, buffers = carried
        t, start, *rest = step_inputs
        here = [_numbers(lax.dynamic_index_in_dim(buffer, t, keepdims=False), dtype) for buffer in buffers]
        state, d_pre = unrolled.reverse_step(own, others, w_h_transposed, state, start, here, *rest)
        buffers = [lax.dynamic_update_index_in_dim(b, _bits(d), t, 0) for b, d in zip(buffers, d_pre, strict=True)]
        return (state, buffers), None

    starts = unrolled.read(saved.starts)
    time = (jnp.arange(inputs.xs.shape[0]), starts, cotangent.ys, cotangent.carries, inputs.mask, inputs.resets)
    (state, d_pre), _ = lax.scan(
        body,
        (unrolled.last_state(cotangent), [_bits(leaf) for leaf in saved.pre]),
        time,
        reverse=not options.reverse,
        unroll=options.unroll,
    )
    return saved.starts.h, state, [_numbers(leaf, dtype) for leaf in d_pre]


def _scan(body: Any, carry: Any, time: Any, **options: Any) -> Any:
    """`lax.scan`, with what it stacks as bits."""
    dtypes: list[Any] = []

    def as_bits(carry: Any, x: Any) -> Any:
        carry, ys = body(carry, x)
        dtypes[:] = [leaf.dtype for leaf in jax.tree.leaves(ys)]
        return carry, jax.tree.map(_bits, ys)

    carry, ys = lax.scan(as_bits, carry, time, **options)
    leaves, structure = jax.tree.flatten(ys)
    return carry, jax.tree.unflatten(structure, map(_numbers, leaves, dtypes))


def _bits(array: Array) -> Array:
    """Numbers of two bytes as integers, on a CPU; others as they are."""
    if array.dtype not in (jnp.bfloat16, jnp.float16) or jax.default_backend() != "cpu":
        return array
    return lax.bitcast_convert_type(array, jnp.uint16)


def _numbers(array: Array, dtype: Any) -> Array:
    """What `_bits` made of numbers of this dtype."""
    return array if array.dtype == dtype else lax.bitcast_convert_type(array, dtype)
