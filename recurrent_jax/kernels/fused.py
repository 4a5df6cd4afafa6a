"""`fused`: the scan of any pointwise cell with a backward pass of its own, derived from `pointwise`.

Forward, for reverse mode: the loop saves what `pointwise` read, that is, each step's carry and the
pre-activations (z and r, or their sum where the cell uses nothing else).

Backward: a reverse loop carries only the cotangent of the carry; each step calls `jax.vjp` of
`pointwise` and one matmul, dh += dr W_h^T. The gradients dz and dr are written over the saved
pre-activations of the same step, in place: peak memory holds one such buffer, not two. All weight
gradients and dx are then one large matmul each.

Whether the input projection runs inside the forward loop or before it depends on the device: on a
CPU the projected array would travel through memory and cost more than the small matmul saves.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrent_jax.cells.base import Array, PointwiseCell, accumulator, apply_pointwise, matmul
from recurrent_jax.kernels import scan
from recurrent_jax.kernels.contract import Inputs, Options, Outputs, masked_step, select
from recurrent_jax.kernels.derivative import with_backward
from recurrent_jax.kernels.structure import Structure, analyse

NAME = "fused"


def refuses(cell: Any, inputs: Inputs, options: Options) -> str | None:
    """Refuses cells that are not pointwise, or whose parts are not of the shapes and dtypes that takes."""
    if not isinstance(cell, PointwiseCell):
        return f"{type(cell).__name__} is not a PointwiseCell"
    if not cell.is_pointwise:
        return f"{cell!r} is more than one recurrent matmul and an elementwise function"
    if any(isinstance(value, jax.core.Tracer) for value in vars(cell).values()):
        return "a field of the cell is a traced array; make it a parameter"
    if not (hasattr(inputs.carry, "_replace") and hasattr(inputs.carry, "h")):
        return f"the carry {type(inputs.carry).__name__} is not a NamedTuple with a field h"
    for name in ("params", "carry"):
        dtypes = {a.dtype for a in jax.tree.leaves(getattr(inputs, name))}
        others = sorted(str(dtype) for dtype in dtypes if not jnp.issubdtype(dtype, jnp.floating))
        if others:
            return f"{name} of dtype {', '.join(others)}: its backward pass carries floating cotangents only"
    z, r = _pre_activations(cell, inputs)
    if getattr(z, "shape", None) != r.shape:
        return f"project gives {getattr(z, 'shape', type(z).__name__)} where h W_h is {r.shape}"
    return None


def run(cell: PointwiseCell, inputs: Inputs, options: Options, hoist: bool | None = None) -> Outputs:
    """Unrolls a pointwise cell.

    Args:
      hoist: project all inputs before the forward loop rather than within it; None decides by the
        device: within the loop on CPU.
    """
    if not len(inputs.xs):
        return scan.run(cell, inputs, options)  # no step, no difference
    hoisted = jax.default_backend() != "cpu" if hoist is None else hoist

    def reference(args: Any, flags: Any) -> Outputs:
        return scan.run(cell, Inputs(**args, **flags), options)

    def forward(args: Any, flags: Any) -> tuple[Outputs, Any]:
        return _forward(cell, Inputs(**args, **flags), options, hoisted)

    def backward(args: Any, flags: Any, saved: Any, cotangent: Outputs) -> Any:
        return _backward(cell, Inputs(**args, **flags), options, saved, cotangent)

    given = inputs._asdict()
    flags = {name: given.pop(name) for name in ("mask", "resets")}
    return with_backward(reference, forward, backward)(given, flags)


def _pre_activations(cell: PointwiseCell, inputs: Inputs) -> tuple[Any, Any]:
    """Shapes and dtypes of `z` and `r` of one step."""

    def both(params: Any, x: Array, h: Array) -> tuple[Any, Array]:
        return cell.project(params, x), matmul(h, cell.recurrent_kernel(params))

    x = jax.ShapeDtypeStruct(inputs.xs.shape[1:], inputs.xs.dtype)
    return jax.eval_shape(both, inputs.params, x, inputs.carry.h)


def _structure(cell: PointwiseCell, inputs: Inputs) -> Structure:
    """What `pointwise` does with its arguments, at the shapes of this call."""
    return analyse(cell, inputs.params, inputs.carry, *_pre_activations(cell, inputs))


def _forward(cell: PointwiseCell, inputs: Inputs, options: Options, hoisted: bool) -> tuple[Outputs, Any]:
    """The outputs, and what the backward pass needs: the carry and the pre-activations of each step."""
    additive = _structure(cell, inputs).additive
    params = inputs.params
    w_h = cell.recurrent_kernel(params)
    project = lambda x: cell.project(params, x)
    small = lambda a: a.astype(cell.compute_dtype)

    def step(carry: Any, x: Array) -> tuple[Any, Any]:
        z = x if hoisted else project(x)
        r = matmul(carry.h, w_h)
        new, y = apply_pointwise(cell, params, carry, z, r)
        return new, (y, (small(z + r),) if additive else (small(z), small(r)))

    def body(carry: Any, step_inputs: Any) -> tuple[Any, Any]:
        start, carry, (y, pre) = masked_step(step, inputs, carry, *step_inputs)
        return carry, (y, start, pre, carry if options.return_carries else None)

    time = (project(inputs.xs) if hoisted else inputs.xs, inputs.mask, inputs.resets)
    carry, (ys, starts, pre, carries) = lax.scan(
        body, inputs.carry, time, reverse=options.reverse, unroll=options.unroll
    )
    return Outputs(carry, ys, carries), (starts, pre)


def _backward(cell: PointwiseCell, inputs: Inputs, options: Options, saved: Any, cotangent: Outputs) -> Any:
    """The cotangents of params, xs, carry and initial."""
    starts, pre = saved
    additive, used = _structure(cell, inputs)
    params = inputs.params
    exact = accumulator(cell.compute_dtype)
    up = lambda tree: jax.tree.map(lambda a: a.astype(exact), tree)
    leaves, treedef = jax.tree.flatten(params)
    own = [leaf for leaf, is_used in zip(leaves, used, strict=True) if is_used]
    w_h, kernel_vjp = jax.vjp(cell.recurrent_kernel, params)
    # The barrier keeps the transposed copy outside the loop, in the layout that the matmul wants.
    w_h_transposed = lax.optimization_barrier(w_h.T)

    def pointwise(own: list[Array], carry: Any, *pre: Array) -> Any:
        supplied = iter(own)
        full = [next(supplied) if is_used else leaf for leaf, is_used in zip(leaves, used, strict=True)]
        z, r = (pre[0], jnp.zeros_like(pre[0])) if additive else pre
        return apply_pointwise(cell, jax.tree.unflatten(treedef, full), carry, z, r)

    def body(state: Any, step_inputs: Any) -> tuple[Any, None]:
        d_carry, d_own, d_initial, buffers = state
        t, start, dy, d_after, keep, reset = step_inputs
        if d_after is not None:
            d_carry = jax.tree.map(jnp.add, d_carry, up(d_after))
        zeros = jax.tree.map(jnp.zeros_like, (d_carry, dy))
        d_new, held = d_carry, zeros[0]
        if keep is not None:
            (d_new, dy), held = select(keep, (d_carry, dy), zeros), select(keep, zeros[0], d_carry)

        here = [lax.dynamic_index_in_dim(buffer, t, keepdims=False) for buffer in buffers]
        _, vjp = jax.vjp(pointwise, own, start, *up(here))
        d_new = jax.tree.map(lambda d, c: d.astype(c.dtype), d_new, start)
        d_used, d_start, *d_pre = vjp((d_new, dy))
        d_pre = [d.astype(cell.compute_dtype) for d in d_pre]
        d_start = up(d_start)
        d_start = d_start._replace(h=d_start.h + matmul(d_pre[-1], w_h_transposed))

        d_own = jax.tree.map(lambda total, d: total + d.astype(exact), d_own, d_used)
        buffers = [lax.dynamic_update_index_in_dim(b, d, t, 0) for b, d in zip(buffers, d_pre, strict=True)]
        if reset is not None:
            acts = reset if keep is None else reset & keep
            d_initial = jax.tree.map(jnp.add, d_initial, select(acts, d_start, zeros[0]))
            d_start = select(reset, zeros[0], d_start)
        d_carry = jax.tree.map(jnp.add, d_start, held) if keep is not None else d_start
        return (d_carry, d_own, d_initial, buffers), None

    d_final = up(cotangent.carry)
    no_initial = None if inputs.initial is None else jax.tree.map(jnp.zeros_like, d_final)
    no_own = [jnp.zeros_like(leaf, exact) for leaf in own]
    time = (jnp.arange(len(inputs.xs)), starts, cotangent.ys, cotangent.carries, inputs.mask, inputs.resets)
    (d_carry, d_own, d_initial, d_pre), _ = lax.scan(
        body, (d_final, no_own, no_initial, list(pre)), time, reverse=not options.reverse, unroll=options.unroll
    )

    # Rows first: a matmul over two contracted axes would make the compiler copy both operands.
    rows = lambda a: a.reshape(-1, a.shape[-1])
    d_w_h = matmul(rows(starts.h).T, rows(d_pre[-1]))
    z, project_vjp = jax.vjp(cell.project, params, rows(inputs.xs))
    d_params, d_xs = project_vjp(rows(d_pre[0]).astype(z.dtype))
    (d_params_kernel,) = kernel_vjp(d_w_h.astype(w_h.dtype))
    supplied = iter(d_own)
    d_params_own = jax.tree.unflatten(
        treedef,
        [
            next(supplied).astype(leaf.dtype) if is_used else jnp.zeros_like(leaf)
            for leaf, is_used in zip(leaves, used, strict=True)
        ],
    )
    d_params = jax.tree.map(lambda *d: sum(d[1:], d[0]), d_params, d_params_kernel, d_params_own)
    down = lambda tree, like: jax.tree.map(lambda d, a: d.astype(a.dtype), tree, like)
    return {
        "params": d_params,
        "xs": d_xs.reshape(inputs.xs.shape),
        "carry": down(d_carry, inputs.carry),
        "initial": down(d_initial, inputs.initial),
    }
