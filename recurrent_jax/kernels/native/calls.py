"""The calls of compiled code, forward, backward and gradient, as functions of JAX that `vmap` folds into the batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from recurrent_jax.cells.base import Array, accumulator
from recurrent_jax.kernels.mesh import result_like
from recurrent_jax.kernels.native import library, portable
from recurrent_jax.kernels.native.lowering import compiled_or_portable
from recurrent_jax.kernels.native.problem import Carries, Flags, Kind, Saved, Weights

Function = Callable[[Any, Any, Any], tuple[Any, Any]]
Shape = tuple[int, ...] | None


def _folded(function: Function) -> Function:
    """`function(weights, steps, rows) -> (steps, rows)` with a rule for `vmap`: more rows.

    Where the weights are mapped too, each of them is a call of its own.
    """
    call = custom_vmap(function)

    @call.def_vmap
    def rule(size: int, batched: Any, *args: Any) -> Any:
        if any(jax.tree.leaves(batched[0])):
            return _mapped(call, batched, args)
        weights, steps, rows = args
        fold = lambda axis: lambda leaf, is_mapped: _fold(leaf, is_mapped, size, axis)
        out_steps, out_rows = call(
            weights, jax.tree.map(fold(1), steps, batched[1]), jax.tree.map(fold(0), rows, batched[2])
        )
        unfold = lambda axis: (
            lambda leaf: jnp.moveaxis(leaf.reshape(*leaf.shape[:axis], size, -1, *leaf.shape[axis + 1 :]), axis, 0)
        )
        out = jax.tree.map(unfold(1), out_steps), jax.tree.map(unfold(0), out_rows)
        return out, jax.tree.map(lambda _: True, out)

    return call


def _mapped(call: Callable[..., Any], batched: Any, args: Any) -> Any:
    """One call after the other, as a rule for `vmap`: the results, and that all of them are mapped."""
    leaves, structure = jax.tree.flatten(args)
    is_mapped = jax.tree.leaves(batched)

    def one(mapped: list[Array]) -> Any:
        """A single call, of what is mapped and of what is the same for all."""
        given = iter(mapped)
        each = [next(given) if m else a for a, m in zip(leaves, is_mapped, strict=True)]
        return call(*jax.tree.unflatten(structure, each))

    out = lax.map(one, [a for a, m in zip(leaves, is_mapped, strict=True) if m])
    return out, jax.tree.map(lambda _: True, out)


def _fold(leaf: Array, is_mapped: bool, size: int, axis: int) -> Array:
    """`[size, ..., B, ...]`, or the same `[..., B, ...]` for all, as `[..., size B, ...]` with rows at `axis`."""
    many = leaf if is_mapped else jnp.broadcast_to(leaf, (size, *leaf.shape))
    many = jnp.moveaxis(many, 0, axis)
    return many.reshape(*many.shape[:axis], size * leaf.shape[axis + is_mapped], *many.shape[axis + 2 :])


@functools.cache
def forward(kind: Kind, save: bool, return_carries: bool) -> Function:
    """The function `(weights, (xs, flags), carries) -> (saved, c_last)`.

    `saved.hs` is always there; `saved.cs` with `save` or `return_carries`; the rest with `save`.
    """

    def function(weights: Weights, steps: tuple[Array, Flags], carries: Carries) -> tuple[Saved, Array | None]:
        xs, flags = steps
        time, rows, features = xs.shape
        units = weights.w_h.shape[0]
        every = (time, rows, units)
        gates, extra, hs, cs, c_last = _call(
            "forward",
            kind,
            xs.dtype,
            [xs, weights.w_x, weights.w_h, carries.h, carries.initial_h],
            [weights.b, weights.b_n, weights.peepholes, carries.c, carries.initial_c],
            flags,
            [
                (time, rows, kind.cell.gates * units) if save and kind.cell.saves_gates(xs.dtype) else None,
                every if save and kind.cell.has_extra else None,
                every,
            ],
            [
                every if kind.cell.has_c and (save or return_carries) else None,
                (rows, units) if kind.cell.has_c else None,
            ],
            packed=(time, rows, features, units),
        )
        return Saved(gates, extra, hs, cs), c_last

    return _folded(compiled_or_portable(function, portable.forward(kind, save, return_carries)))


@functools.cache
def backward(kind: Kind) -> Function:
    """The function `(weights, (saved, flags, d_ys, d_hs, d_cs), (carries, dh, dc)) -> ((d_gates, d_extra), d_carries)`.

    `weights` are `w_h` and `peepholes`. `d_ys`, `d_hs` and `d_cs` are the cotangents of the outputs and of the carries
    after each step, `dh` and `dc` those of the last carry, `d_carries` those of all of `carries`.
    """

    def function(weights: tuple[Array, Array | None], steps: Any, rows: Any) -> tuple[Any, Carries]:
        w_h, peepholes = weights
        saved, flags, d_ys, d_hs, d_cs = steps
        carries, dh, dc = rows
        shape = lambda array: None if array is None else array.shape
        d_gates, d_extra, dh, dc, d_initial_h, d_initial_c = _call(
            "backward",
            kind,
            w_h.dtype,
            [w_h, saved.gates, saved.extra, saved.hs, d_ys, d_hs, carries.h, carries.initial_h],
            [peepholes, saved.cs, d_cs, dh, dc, carries.c, carries.initial_c],
            flags,
            [(*d_ys.shape[:2], w_h.shape[1]), shape(saved.extra)],
            [shape(dh), shape(dc), shape(carries.initial_h), shape(carries.initial_c)],
            packed=(*d_ys.shape[:2], 0, w_h.shape[0]),
            # Gradients are written over what they are the gradients of, where that was saved.
            aliases={**({1: 0} if kind.cell.saves_gates(w_h.dtype) else {}), 2: 1, 11: 2, 12: 3},
        )
        return (d_gates, d_extra), Carries(dh, dc, d_initial_h, d_initial_c)

    return _folded(compiled_or_portable(function, portable.backward(kind)))


@functools.cache
def inputs(kind: Kind) -> Function:
    """The function `(w_x, (d_gates, flags), ()) -> (d_xs, ())`."""

    def function(w_x: Array, steps: tuple[Array, Flags], rows: tuple[()]) -> tuple[Array, tuple[()]]:
        d_gates, flags = steps
        time, batch, columns = d_gates.shape
        features = w_x.shape[0]
        (d_xs,) = _call(
            "inputs",
            kind,
            w_x.dtype,
            [w_x, d_gates],
            [],
            flags,
            [(time, batch, features)],
            [],
            packed=(time, batch, features, columns // kind.cell.gates),
        )
        return d_xs, rows

    return _folded(compiled_or_portable(function, portable.inputs(kind)))


@functools.cache
def gradient(kind: Kind) -> Callable[[Any, Carries], Weights]:
    """The function `((xs, hs, cs, flags, d_gates, d_extra), carries) -> Weights` of the weights' gradients.

    What it returns belongs to no row, so that a `vmap` over rows is many calls.
    """

    def function(steps: Any, carries: Carries) -> Weights:
        xs, hs, cs, flags, d_gates, d_extra = steps
        features, units = xs.shape[-1], hs.shape[-1]
        columns = kind.cell.gates * units
        d_w_x, d_b, d_w_h, d_b_n, d_peepholes = _call(
            "gradient",
            kind,
            xs.dtype,
            [xs, d_gates, d_extra, hs, carries.h, carries.initial_h],
            [cs, carries.c, carries.initial_c],
            flags,
            [],
            [
                (features, columns),
                (columns,),
                (units, columns),
                (units,) if kind.cell.has_extra else None,
                (3, units) if kind.cell.has_peepholes else None,
            ],
        )
        return Weights(d_w_x, d_b, d_w_h, d_b_n, d_peepholes)

    call = custom_vmap(compiled_or_portable(function, portable.gradient(kind)))

    @call.def_vmap
    def rule(size: int, batched: Any, *args: Any) -> Any:
        return _mapped(call, batched, args)

    return call


def _call(
    direction: str,
    kind: Kind,
    dtype: np.dtype,
    operands: list[Array | None],
    exact: list[Array | None],
    flags: Flags,
    results: list[Shape],
    exact_results: list[Shape],
    *,
    packed: tuple[int, int, int, int] | None = None,
    aliases: dict[int, int] | None = None,
) -> list[Any]:
    """Calls compiled code with arrays without elements for None, and with room for packed weights at the end.

    Args:
      dtype: of `operands` and `results`; `exact` and `exact_results` are of its accumulator's.
      packed: T, B, D and H of a call that packs weights; None for one that does not.
      aliases: which argument lies where which result will.
    """
    given = next(a for a in operands if a is not None)

    def array(a: Array | None, dtype: Any) -> Array:
        """The array; without elements where there is none."""
        # Made of an argument, so that within `shard_map` it varies over the mesh as all others do.
        return given.reshape(-1)[:0].astype(dtype) if a is None else a

    exactly = accumulator(dtype)
    arguments = [array(a, dtype) for a in operands]
    arguments += [array(a, exactly) for a in exact]
    arguments += [array(a, jnp.bool_) for a in flags]
    like = lambda shape, dtype: result_like(given, (0,) if shape is None else shape, dtype)
    out_types = [like(shape, dtype) for shape in results] + [like(shape, exactly) for shape in exact_results]
    if packed is not None:
        # A size that is left open occurs in export, where compiled code does not go.
        is_open = any(jax.export.is_symbolic_dim(size) for size in packed)
        size = 0 if is_open else library.packed_size(kind.cell.number, direction, dtype, packed)
        out_types.append(like((size,), np.uint8))
    call = jax.ffi.ffi_call(library.target(direction, dtype.name), out_types, input_output_aliases=aliases)
    out = call(*arguments, cell=np.int64(kind.cell.number), reverse=kind.reverse)
    return [None if shape is None else a for shape, a in zip([*results, *exact_results], out, strict=False)]
