"""Flax's way of calling an RNN, in the terms of this library: what `linen.py` and `nnx.py` share.

A module is here any object with the attributes of their `RNN` or `Bidirectional`, which are the defaults of a call.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from recurrent_jax import arguments
from recurrent_jax.cells.base import Array
from recurrent_jax.layers import BidirectionalCarry, run_layer


def check_layer(cell: Any) -> None:
    """Raises TypeError unless `cell` is a cell, or a layer such as `Stack`, which has `apply` in place of `step`."""
    # By `initial_carry` too: a cell of Linen has `init` and `apply`, and is given here by mistake.
    if isinstance(cell, type) or not (hasattr(cell, "apply") and hasattr(cell, "initial_carry")):
        arguments.check_cell_methods(cell)


def check_rnn(name: str, rnn: Any) -> None:
    """Raises TypeError unless `rnn` is a module to call, such as an `RNN`, and not a bare cell."""
    # Flax's cells can be called, with a carry.
    if isinstance(rnn, type) or not callable(rnn) or hasattr(rnn, "initialize_carry"):
        raise TypeError(
            f"{name}: expected an RNN module, RNN(cell), or for bare cells RNN(rj.Bidirectional(cell)), got {rnn!r}"
        )


def concatenate(forward: Array, backward: Array) -> Array:
    """The outputs of both directions side by side."""
    return jnp.concatenate([forward, backward], axis=-1)


def choose(module: Any, **given: Any) -> dict[str, Any]:
    """Each option as it is given, or where it is None the module's own."""
    return {name: getattr(module, name) if value is None else value for name, value in given.items()}


def drops_out(module: Any, deterministic: bool | None) -> bool:
    """Whether a call has dropout in it, and so needs a key."""
    if not has_dropout(module.cell):
        return False
    chosen = choose(module, deterministic=deterministic)["deterministic"]
    if chosen is None:
        raise ValueError("deterministic: expected True or False, since the layers have dropout, got None")
    return not chosen


def has_dropout(layer: Any) -> bool:
    """Whether a stack, or one within it, has dropout."""
    return bool(getattr(layer, "dropout", 0)) or any(map(has_dropout, getattr(layer, "layers", ())))


def run(
    module: Any,
    params_for: Callable[[int], Any],
    inputs: Any,
    initial_carry: Any,
    *,
    seq_lengths: Any,
    resets: Any,
    key: Array | None,
    **given: bool | None,
) -> Any:
    """One call of an `RNN`, whose parameters for inputs of D features are `params_for(D)`; `given` overrides it."""
    chosen = choose(module, **given)
    time_major, reverse = chosen["time_major"], chosen["reverse"]
    xs = arguments.check_array("inputs", inputs, "[T, ..., D]" if time_major else "[..., T, D]")
    resets = arguments.check_flags("resets", resets, xs.shape[:-1])
    if not time_major:
        xs = jnp.moveaxis(xs, -2, 0)
        resets = None if resets is None else jnp.moveaxis(resets, -1, 0)
    options = {name: getattr(module, name) for name in ("unroll", "implementation", "checkpoint_every")}
    options |= {"lengths": seq_lengths, "resets": resets}
    if reverse:
        # Not said otherwise: a layer that runs both ways refuses the word.
        options["reverse"] = True
    carry, ys = run_layer(module.cell, params_for(xs.shape[-1]), xs, initial_carry, key, options)
    if reverse and not chosen["keep_order"]:
        ys = jax.tree.map(lambda leaf: _turned(leaf, seq_lengths), ys)
    if not time_major:
        ys = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, xs.ndim - 2), ys)
    return (carry, ys) if chosen["return_carry"] else ys


def run_both(module: Any, inputs: Any, initial_carry: Any, *, given: dict[str, bool | None], **options: Any) -> Any:
    """One call of a `Bidirectional`: two RNNs, outputs aligned with the inputs, merged."""
    chosen = choose(module, **given)
    if initial_carry is None:
        initial_carry = BidirectionalCarry(None, None)
    elif not isinstance(initial_carry, tuple) or len(initial_carry) != 2:
        raise ValueError(f"initial_carry: expected (forward, backward), got {type(initial_carry).__name__}")
    # What is not said is not handed on: Flax's own RNNs know of fewer options.
    options = {name: value for name, value in options.items() if value is not None}
    options |= {"time_major": chosen["time_major"], "return_carry": True}
    before, behind = initial_carry
    forward, ys = module.forward_rnn(inputs, initial_carry=before, reverse=False, **options)
    backward, back = module.backward_rnn(inputs, initial_carry=behind, reverse=True, keep_order=True, **options)
    ys = jax.tree.map(module.merge_fn, ys, back)
    return (BidirectionalCarry(forward, backward), ys) if chosen["return_carry"] else ys


def _turned(ys: Array, lengths: Any) -> Array:
    """Each row's true steps in the opposite order; its padding stays behind them."""
    if lengths is None:
        return jnp.flip(ys, 0)
    time = jax.lax.broadcasted_iota(jnp.int32, (len(ys), *jnp.shape(lengths)), 0)
    # Below zero at padding: counted from the end, where padding is.
    source = jnp.asarray(lengths, jnp.int32)[jnp.newaxis] - 1 - time
    return jnp.take_along_axis(ys, source.reshape(source.shape + (1,) * (ys.ndim - source.ndim)), axis=0)
