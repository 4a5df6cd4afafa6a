"""What a step function is, the checks of what is given, and the order of its logits."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrent_jax import arguments
from recurrent_jax.cells.base import Array, PyTree, accumulator

Step = Callable[[PyTree, Array], tuple[PyTree, Array]]


def top(keys: Array, count: int) -> Array:
    """Where the `count` largest along the last axis are, at most all; of equals the first."""
    # `top_k` would rank -0 below 0, which for `argmax` are equals.
    return jax.lax.top_k(jnp.where(keys == 0, 0, keys), min(count, keys.shape[-1]))[1]


def check_integers(end: Any, pad: Any, max_length: Any) -> tuple[int, int, int]:
    """The same as Python's numbers, which meet arrays of any dtype."""
    for name, value in (("end", end), ("pad", pad)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise ValueError(f"{name}: expected an integer, got {value!r}")
    return int(end), int(pad), arguments.check_positive("max_length", max_length)


def check_step(step: Any, carry: Any, start: Any, end: int) -> tuple[Any, Array, np.dtype]:
    """The carry and the start as arrays, and the dtype of log p."""
    if not callable(step):
        raise TypeError(f"step: expected a function (carry, tokens) -> (carry, logits), got {step!r}")
    start, carry = jnp.asarray(start), jax.tree.map(jnp.asarray, carry)
    if start.ndim != 1 or not jnp.issubdtype(start.dtype, jnp.integer):
        raise ValueError(f"start: expected integers [B], got {_kind(start)}")
    start, rows, before = start.astype(jnp.int32), len(start), jax.tree.map(_kind, carry)
    if any(leaf.shape[:1] != (rows,) for leaf in jax.tree.leaves(carry)):
        raise ValueError(f"carry: expected leaves [{rows}, ...] for the {rows} rows of start, got {before}")
    out = jax.eval_shape(step, carry, start)
    if not isinstance(out, tuple) or len(out) != 2:
        raise ValueError(f"step: expected it to return (carry, logits), got {_kind(out)}")
    after, logits = jax.tree.map(_kind, out[0]), out[1]
    if not arguments.same_structure(before, after) or jax.tree.leaves(before) != jax.tree.leaves(after):
        raise ValueError(f"step: expected the carry to stay {before}, got {after}")
    vocabulary = _check_width("step", "logits", logits, rows, "V")
    if not 0 <= end < vocabulary:
        raise ValueError(f"end: expected a token below V={vocabulary}, the number of logits, got {end}")
    return carry, start, accumulator(logits.dtype)


def check_attention(attention: Any, source_lengths: Any, carry: Any, rows: int) -> Array:
    """Bool `[1, B, S]`, which source positions there are."""
    if attention is None:
        raise ValueError("attention: expected a function of the carry, since there is a coverage_penalty, got None")
    size = _check_width("attention", "weights", jax.eval_shape(attention, carry), rows, "S")
    lengths = jnp.asarray(np.full(rows, size) if source_lengths is None else source_lengths)
    if lengths.shape != (rows,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"source_lengths: expected integers [{rows}], got {_kind(lengths)}")
    return jax.lax.broadcasted_iota(jnp.int32, (1, rows, size), 2) < lengths.astype(jnp.int32)[None, :, None]


def _check_width(name: str, what: str, value: Any, rows: int, width: str) -> int:
    """The width of what a function returned, if that is floating `[B, width]`."""
    shape: Any = getattr(value, "shape", ())
    if len(shape) != 2 or shape[0] != rows or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"{name}: expected floating {what} [{rows}, {width}], got {_kind(value)}")
    return shape[1]


def check_number(name: str, value: Any, expected: str, fits: Callable[[Any], bool]) -> float:
    """Returns `value`, which is known while tracing, as Python's number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not fits(value):
        raise ValueError(f"{name}: expected a number {expected}, got {value!r}")
    return float(value)


def check_temperature(value: Any, rows: tuple[int, ...]) -> Array:
    """Returns `temperature` as an array `[]` or `[B]`, at least 0 where that can be seen."""
    heat = jnp.asarray(value)
    if heat.shape not in ((), rows):
        raise ValueError(f"temperature: expected a number or one for each row, got {list(heat.shape)}")
    # What was given, as under jit JAX traces even the array made of a number.
    if not isinstance(value, jax.core.Tracer) and not np.all(np.asarray(value) >= 0):
        raise ValueError(f"temperature: expected at least 0, got {value}")
    return heat


def _kind(value: Any) -> str:
    """`float32[3, 4]`, or the type of what is no array."""
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "shape") else type(value).__name__
