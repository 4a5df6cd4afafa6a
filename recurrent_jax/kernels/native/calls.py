"""The two calls of compiled code, forward and backward, as functions of JAX that `vmap` folds into the batch.

Arrays come in three containers, by where the rows of the batch are: weights have none, what belongs to
steps has them second, `[T, B, ...]`, and what belongs to carries first, `[B, ...]`. None stands for what
a call has no use for.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from recurrent_jax.cells.base import Array
from recurrent_jax.kernels.native import library


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
    """What the backward pass needs of each step: the gates `[T, B, GH]`, the GRU's `extra [T, B, H]`, the carries."""

    gates: Array | None
    extra: Array | None
    hs: Any
    cs: Array | None


class Cell(NamedTuple):
    """A cell of the compiled code.

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


class Kind(NamedTuple):
    """What is fixed when a call is compiled: the cell, and whether the last step comes first."""

    cell: Cell
    reverse: bool


Function = Callable[[Any, Any, Any], tuple[Any, Any]]


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
            [xs, *weights, *carries],
            list(flags),
            [
                (time, rows, kind.cell.gates * units) if save else None,
                every if save and kind.cell.has_extra else None,
                every,
                every if kind.cell.has_c and (save or return_carries) else None,
                (rows, units) if kind.cell.has_c else None,
            ],
            packed=library.packed_size(kind.cell.number, xs.dtype, features, units, backward=False),
        )
        return Saved(gates, extra, hs, cs), c_last

    return _folded(function)


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
            [w_h, *saved, d_ys, d_hs, d_cs, dh, dc, *carries, peepholes],
            list(flags),
            [shape(a) for a in (saved.gates, saved.extra, dh, dc, carries.initial_h, carries.initial_c)],
            packed=library.packed_size(kind.cell.number, w_h.dtype, 0, w_h.shape[0], backward=True),
            # Gradients are written over what they are the gradients of.
            aliases={1: 0, 2: 1, 8: 2, 9: 3},
        )
        return (d_gates, d_extra), Carries(dh, dc, d_initial_h, d_initial_c)

    return _folded(function)


@functools.cache
def gradient(kind: Kind) -> Callable[[Any, Carries], Weights]:
    """The function `((xs, hs, cs, flags, d_gates, d_extra), carries) -> Weights` of the weights' gradients.

    What it returns belongs to no row, so that a `vmap` over rows is many calls.
    """

    def function(steps: Any, carries: Carries) -> Weights:
        xs, hs, cs, flags, d_gates, d_extra = steps
        features, units = xs.shape[-1], hs.shape[-1]
        columns = kind.cell.gates * units
        return Weights(
            *_call(
                "gradient",
                kind,
                [xs, d_gates, d_extra, hs, cs, *carries],
                list(flags),
                [
                    (features, columns),
                    (columns,),
                    (units, columns),
                    (units,) if kind.cell.has_extra else None,
                    (3, units) if kind.cell.has_peepholes else None,
                ],
            )
        )

    call = custom_vmap(function)

    @call.def_vmap
    def rule(size: int, batched: Any, *args: Any) -> Any:
        return _mapped(call, batched, args)

    return call


def _call(
    direction: str,
    kind: Kind,
    numbers: list[Array | None],
    flags: list[Array | None],
    results: list[tuple[int, ...] | None],
    *,
    packed: int | None = None,
    aliases: dict[int, int] | None = None,
) -> list[Any]:
    """Calls compiled code with arrays without elements for None, and with room for packed weights at the end."""
    given = next(a for a in numbers if a is not None)
    # Made of an argument, so that within `shard_map` it varies over the mesh as all others do.
    nothing = given.reshape(-1)[:0]
    arguments = [nothing if a is None else a for a in numbers]
    arguments += [nothing.astype(jnp.bool_) if a is None else a for a in flags]
    room = [] if packed is None else [_like(given, (packed,))]
    call = jax.ffi.ffi_call(
        library.target(direction, 8 * given.dtype.itemsize),
        [_like(given, (0,) if shape is None else shape) for shape in results] + room,
        input_output_aliases=aliases,
    )
    out = call(*arguments, cell=np.int64(kind.cell.number), reverse=kind.reverse)
    return [None if shape is None else a for shape, a in zip(results, out, strict=False)]


def _like(array: Array, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """A result of this shape that varies over a mesh as `array` does."""
    kind: Any = jax.typeof(array)
    mesh = kind.sharding.mesh
    sharding = None if mesh.empty else jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    name = "manual_axis_type" if hasattr(kind, "manual_axis_type") else "vma"  # as JAX called it at first
    result: Any = jax.ShapeDtypeStruct
    return result(shape, array.dtype, sharding=sharding, **{name: getattr(kind, name)})
