"""Checks at the public boundary: each error names the argument, what was expected and what came."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrent_jax.cells.base import Array, PointwiseCell
from recurrent_jax.cells.shapes import describe, hashable, shapes_of


def check_cell_methods(cell: Any) -> None:
    """Raises TypeError unless `cell` is an instance that has what the contract asks for."""
    if isinstance(cell, type):
        raise TypeError(f"cell: expected an instance, got the class {cell.__name__}; write {cell.__name__}(...)")
    missing = [name for name in ("init", "initial_carry", "step") if not callable(getattr(cell, name, None))]
    if missing:
        hint = "; it has apply: call that, and explain its cells one by one" if hasattr(cell, "apply") else ""
        raise TypeError(
            f"cell: expected the methods init, initial_carry and step, {cell!r} lacks {', '.join(missing)}{hint}"
        )


def check_inputs(cell: Any, params: Any, xs: Any) -> Array:
    """Returns `xs` as a floating array `[T, ..., D]` whose D fits the parameters."""
    xs = check_array("xs", xs, "[T, ..., D]")
    if not isinstance(cell, PointwiseCell):
        return xs
    try:
        size = cell.in_size(params)
    except (AttributeError, IndexError, TypeError):
        raise TypeError(f"params: expected what {cell!r}.init returns, got {describe(params)}") from None
    expected = (_param_shapes if hashable(cell) else _param_shapes.__wrapped__)(cell, size)
    if not same_structure(params, expected) or _shapes(params) != _shapes(expected):
        raise ValueError(f"params: expected {describe(expected)} as {cell!r}.init returns, got {describe(params)}")
    if xs.shape[-1] != size:
        raise ValueError(f"xs: expected [T, ..., {size}], got {list(xs.shape)}")
    return xs


def check_array(name: str, value: Any, form: str) -> Array:
    """Returns `value` as a floating array with at least an axis of time and one of features."""
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        raise TypeError(f"{name}: expected an array {form}, got {type(value).__name__}")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{name}: expected a floating dtype, got {value.dtype}; one-hot encode or embed integers first")
    if len(value.shape) < 2:
        raise ValueError(f"{name}: expected {form}, got {list(value.shape)}")
    return jnp.asarray(value)


def check_carry(cell: Any, params: Any, carry: Any, batch_shape: tuple[int, ...]) -> None:
    """Raises unless `carry` has the structure, shapes and dtypes of the cell's initial carry."""
    if _alike(carry, shapes_of(_initial_carry, (cell, batch_shape), params)):
        return
    # Cells that compare equal may have other carries, as those with a field 0 or 0.0: only this cell's counts.
    expected = jax.eval_shape(lambda p: cell.initial_carry(p, batch_shape), params)
    if not _alike(carry, expected):
        raise ValueError(f"carry: expected {describe(expected)}, got {describe(carry)}")


def mask_from(lengths: Any, mask: Any, time_shape: tuple[int, ...]) -> Array | None:
    """The mask `[T, ...]` that `lengths` or `mask` states; None where there is neither."""
    if lengths is not None and mask is not None:
        raise ValueError("lengths: expected lengths or mask, got both; write the lengths into the mask")
    if lengths is None:
        return check_flags("mask", mask, time_shape)
    steps, *batch = time_shape
    if not hasattr(lengths, "dtype"):
        lengths = np.asarray(lengths)
        lengths = lengths if lengths.size else lengths.astype(np.int32)  # of no rows NumPy thinks that they are floats
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
    if list(lengths.shape) != batch:
        raise ValueError(f"lengths: expected shape {batch}, got {list(lengths.shape)}")
    if not isinstance(lengths, jax.core.Tracer) and lengths.size:
        # By NumPy: under jit JAX would trace even these values, although they are known.
        values = np.asarray(lengths)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > steps:
            raise ValueError(f"lengths: expected values from 0 to T={steps}, got {low if low < 0 else high}")
    return jax.lax.broadcasted_iota(jnp.int32, time_shape, 0) < jnp.asarray(lengths).astype(jnp.int32)[None]


def check_flags(name: str, flags: Any, time_shape: tuple[int, ...]) -> Array | None:
    """Returns `mask` or `resets` as an array of bool `[T, ...]`, or None."""
    if flags is None:
        return None
    flags = jnp.asarray(flags)
    if flags.dtype != jnp.bool_:
        raise TypeError(f"{name}: expected bool, got {flags.dtype}")
    if flags.shape != time_shape:
        raise ValueError(f"{name}: expected shape {list(time_shape)}, got {list(flags.shape)}")
    return flags


def check_positive(name: str, value: Any) -> int:
    """Returns `value` as an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")
    return int(value)


@functools.lru_cache(maxsize=256)
def _param_shapes(cell: PointwiseCell, in_size: int) -> Any:
    """Shapes of what `cell.init` returns; traced once for each cell and size."""
    return jax.eval_shape(lambda: cell.init(jax.random.key(0), in_size))


def _alike(carry: Any, expected: Any) -> bool:
    """Whether a carry has this structure, these shapes and dtypes."""
    if not same_structure(carry, expected):
        return False
    same = lambda a, b: tuple(a.shape) == tuple(b.shape) and a.dtype == b.dtype
    return all(jax.tree.leaves(jax.tree.map(same, jax.tree.map(jnp.asarray, carry), expected)))


def _initial_carry(cell: Any, batch_shape: tuple[int, ...], params: Any) -> Any:
    return cell.initial_carry(params, batch_shape)


def same_structure(a: Any, b: Any) -> bool:
    """Whether two pytrees have the same tree of containers."""
    left: Any = jax.tree.structure(a)
    return bool(left == jax.tree.structure(b))


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [np.shape(leaf) for leaf in jax.tree.leaves(tree)]


def check_bool(name: str, value: Any) -> bool:
    """Returns `value`, a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)
