"""Layers made of cells: a stack, and two directions. Still pure functions of their parameters."""

import dataclasses
import itertools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrent_jax import arguments
from recurrent_jax.cells.base import Array, exportable
from recurrent_jax.unroll import unroll

Merge = Literal["concat", "sum"] | None


@exportable
class BidirectionalParams(NamedTuple):
    """The parameters of each direction's cell."""

    forward: Any
    backward: Any


@exportable
class BidirectionalCarry(NamedTuple):
    """The carry of each direction: `forward` behind the last true step, `backward` behind the first."""

    forward: Any
    backward: Any


@dataclasses.dataclass(frozen=True)
class Bidirectional:
    """One cell from the first step to the last, another from the last to the first.

        yf = unroll(forward, xs)         yb = unroll(backward, xs, reverse=True)
        y_t = [yf_t; yb_t]               or yf_t + yb_t, or the pair (yf_t, yb_t)

    With `lengths` or `mask` the backward direction starts at each row's last true step.

    Attributes:
      forward: a cell.
      backward: another; None for one like `forward`, with parameters of its own.
      merge: "concat" puts the outputs side by side, "sum" adds them, None returns them as a pair.

    Raises:
      TypeError: `forward` or `backward` is not a cell.
      ValueError: `merge` is none of these.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> layer = rj.Bidirectional(rj.GRU(hidden_size=8))
      >>> params = layer.init(jax.random.key(0), in_size=3)
      >>> carry, ys = layer.apply(params, jnp.ones((10, 2, 3)), lengths=[10, 4])
      >>> ys.shape, carry.backward.h.shape
      ((10, 2, 16), (2, 8))

    Source: Schuster and Paliwal, "Bidirectional recurrent neural networks", IEEE Transactions on
    Signal Processing 45 (1997).
    """

    forward: Any
    backward: Any = None
    _: dataclasses.KW_ONLY
    merge: Merge = "concat"

    def __post_init__(self) -> None:
        if self.backward is None:
            object.__setattr__(self, "backward", self.forward)
        for cell in (self.forward, self.backward):
            arguments.check_cell_methods(cell)
        if self.merge not in ("concat", "sum", None):
            raise ValueError(f"merge: expected 'concat', 'sum' or None, got {self.merge!r}")

    def init(self, key: Array, in_size: int) -> BidirectionalParams:
        """Draws the parameters of both cells, each for inputs of `in_size` features."""
        forward, backward = jax.random.split(key)
        return BidirectionalParams(self.forward.init(forward, in_size), self.backward.init(backward, in_size))

    def initial_carry(self, params: BidirectionalParams, batch_shape: tuple[int, ...] = ()) -> BidirectionalCarry:
        """Returns the initial carry of both cells."""
        return BidirectionalCarry(
            self.forward.initial_carry(params.forward, batch_shape),
            self.backward.initial_carry(params.backward, batch_shape),
        )

    def apply(
        self,
        params: BidirectionalParams,
        xs: Array,
        carry: BidirectionalCarry | None = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        key: Array | None = None,
        **options: Any,
    ) -> Any:
        """Runs both directions.

        Args:
          params: what `init` returned.
          xs: inputs `[T, ..., D]`.
          carry: the carry of each direction before its first step; by default the initial one.
          lengths, mask: as for `rj.unroll`.
          resets: bool `[T, ...]`, True at the first step of each sequence that is packed into a row; the
            backward direction starts anew at the last true step of each.
          key: not needed, since nothing here is random.
          options: the other options of `rj.unroll`; not `reverse`.

        Returns:
          `(carry, ys)`, and with `return_carries` also the carries, as `rj.unroll` does.

        Raises:
          TypeError: `reverse` is given.
          ValueError: as `rj.unroll`.
        """
        del key
        if "reverse" in options:
            raise TypeError("reverse: not expected, a bidirectional layer runs both ways")
        if carry is None:
            carry = BidirectionalCarry(None, None)
        elif not isinstance(carry, BidirectionalCarry):
            raise ValueError(f"carry: expected BidirectionalCarry(forward, backward), got {type(carry).__name__}")
        shape = arguments.check_inputs(self.forward, params.forward, xs).shape[:-1]
        mask = arguments.mask_from(lengths, mask, shape)
        resets = arguments.check_flags("resets", resets, shape)
        back = None if resets is None else _resets_backward(resets, jnp.ones(shape, bool) if mask is None else mask)
        results = (
            unroll(self.forward, params.forward, xs, carry.forward, mask=mask, resets=resets, **options),
            unroll(self.backward, params.backward, xs, carry.backward, mask=mask, resets=back, reverse=True, **options),
        )
        last, (forward, backward), *carries = zip(*results, strict=True)
        ys: Any = (forward, backward)
        if self.merge == "concat":
            ys = jnp.concatenate(ys, axis=-1)
        elif self.merge == "sum":
            ys = forward + backward
        return BidirectionalCarry(*last), ys, *(BidirectionalCarry(*each) for each in carries)


def _resets_backward(resets: Array, mask: Array) -> Array:
    """True at the last true step of each packed sequence but a row's last, which begins with the given carry."""
    number = jnp.cumsum((resets & mask).astype(jnp.int32), axis=0)
    # The number of the sequence that the next true step belongs to; they only grow.
    behind = number.max(initial=0) + 1
    here = jax.lax.cummin(jnp.where(mask, number, behind), axis=0, reverse=True)
    following = jnp.concatenate([here[1:], jnp.full_like(here[:1], behind)])
    return (following > number) & (following < behind)


@dataclasses.dataclass(frozen=True)
class Stack:
    """Layers one above the other, with dropout and residual connections between them.

        ys_0 = xs
        ys_l = layer_l(dropout(ys_{l-1}))                  + dropout(ys_{l-1}) where residual and l > 1

    A stack of cells is a cell itself: `step` takes one step of all of them, to stream or to decode. `apply` runs
    whole sequences, layer by layer, so that each takes the fastest kernel.

    Attributes:
      layers: cells, `Bidirectional`s or stacks, the lowest first.
      dropout: share of the features between two layers that is set to zero, the same ones at every step; the
        others are divided by what is left. Drawn once for each call of `apply`, where it is given a key.
      residual: add the input of each layer but the first to its output.

    Raises:
      TypeError: a layer is neither a cell nor a layer.
      ValueError: there is no layer, or `dropout` is not at least 0 and below 1.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> stack = rj.Stack([rj.LSTM(hidden_size=8), rj.LSTM(hidden_size=4)], dropout=0.5)
      >>> params = stack.init(jax.random.key(0), in_size=3)
      >>> carry, ys = stack.apply(params, jnp.ones((10, 2, 3)), key=jax.random.key(1))
      >>> ys.shape, carry[0].h.shape
      ((10, 2, 4), (2, 8))

    Source: the same features at every step: Gal and Ghahramani, "A theoretically grounded application of dropout in
    recurrent neural networks" (2016). Residual connections: Wu et al., "Google's neural machine translation
    system" (2016).
    """

    layers: tuple[Any, ...]
    _: dataclasses.KW_ONLY
    dropout: float = 0.0
    residual: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.layers, (tuple, list)):
            raise TypeError(f"layers: expected a sequence of layers, got {self.layers!r}")
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ValueError("layers: expected at least one layer, got none")
        for layer in self.layers:
            if not hasattr(layer, "apply"):
                arguments.check_cell_methods(layer)
        number = isinstance(self.dropout, (int, float, np.number)) and not isinstance(self.dropout, bool)
        if not number or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected at least 0 and below 1, got {self.dropout!r}")
        arguments.check_bool("residual", self.residual)

    def init(self, key: Array, in_size: int) -> tuple[Any, ...]:
        """Draws the parameters of all layers, each for as many features as the layer below puts out.

        Raises:
          ValueError: with `residual`, a layer but the first puts out another size than it takes.
        """
        params = []
        for number, (layer, one) in enumerate(zip(self.layers, jax.random.split(key, len(self.layers)), strict=True)):
            params.append(layer.init(one, in_size))
            if number + 1 == len(self.layers) and not self.residual:
                break  # Nobody asks what the top puts out, and an attentive cell can't say before it has a memory.
            size = out_size(layer, params[-1], in_size)
            if self.residual and number and size != in_size:
                raise ValueError(
                    f"layers: expected layer {number} to put out {in_size} features, since residual, got {size}"
                )
            in_size = size
        return tuple(params)

    def initial_carry(self, params: tuple[Any, ...], batch_shape: tuple[int, ...] = ()) -> tuple[Any, ...]:
        """Returns the initial carry of each layer."""
        return tuple(layer.initial_carry(p, batch_shape) for layer, p in zip(self.layers, params, strict=True))

    def step(self, params: tuple[Any, ...], carry: tuple[Any, ...], x: Array) -> tuple[tuple[Any, ...], Array]:
        """One step of every layer, without dropout.

        Raises:
          TypeError: a layer is bidirectional, so that it can't know its outputs step by step.
        """
        new = []
        for number, (layer, p, c) in enumerate(zip(self.layers, params, carry, strict=True)):
            if not hasattr(layer, "step"):
                raise TypeError(f"layers: expected cells, which can take single steps, got {layer!r}")
            after, y = layer.step(p, c, x)
            new.append(after)
            x = y + x.astype(y.dtype) if self.residual and number else y
        return tuple(new), x

    def apply(
        self,
        params: tuple[Any, ...],
        xs: Array,
        carry: tuple[Any, ...] | None = None,
        *,
        key: Array | None = None,
        **options: Any,
    ) -> Any:
        """Runs every layer over the whole sequence.

        Args:
          params: what `init` returned.
          xs: inputs `[T, ..., D]`.
          carry: the carry of each layer before the first step; by default the initial one.
          key: of the dropout; None is evaluation, without dropout.
          options: those of `rj.unroll`, for every layer.

        Returns:
          `(carry, ys)`: the carry of each layer, and the outputs of the last; with `return_carries` also the carries.

        Raises:
          TypeError, ValueError: as `rj.unroll`.
        """
        befores = [None] * len(self.layers) if carry is None else carry
        for name, given in (("params", params), ("carry", befores)):
            if len(given) != len(self.layers):
                raise ValueError(f"{name}: expected one for each of the {len(self.layers)} layers, got {len(given)}")
        results = []
        keys = itertools.repeat(None) if key is None else jax.random.split(key, (len(self.layers), 2))
        for number, (layer, p, before, pair) in enumerate(zip(self.layers, params, befores, keys, strict=False)):
            if number and pair is not None:
                xs = _dropout(pair[0], xs, self.dropout)
            after, ys, *rest = run_layer(layer, p, xs, before, None if pair is None else pair[1], options)
            results.append((after, *rest))
            xs = ys + xs.astype(ys.dtype) if self.residual and number else ys
        last, *carries = zip(*results, strict=True)
        return last, xs, *carries


def run_layer(layer: Any, params: Any, xs: Array, carry: Any, key: Array | None, options: dict[str, Any]) -> Any:
    """A layer's `apply`, or `unroll` of a cell, which has none."""
    if hasattr(layer, "apply"):
        return layer.apply(params, xs, carry, key=key, **options)
    return unroll(layer, params, xs, carry, **options)


def out_size(layer: Any, params: Any, in_size: int) -> int:
    """The number of features that a layer puts out, found without computing anything."""
    floats = (leaf.dtype for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating))
    xs = jax.ShapeDtypeStruct((1, in_size), next(floats, jnp.dtype(jnp.float32)))
    ys = jax.eval_shape(lambda p, xs: run_layer(layer, p, xs, None, None, {})[1], params, xs)
    if not hasattr(ys, "shape"):
        raise ValueError(f"layers: expected layers that put out one array, got {layer!r}")
    return int(ys.shape[-1])


def _dropout(key: Array, xs: Array, rate: float) -> Array:
    """Sets features to zero, the same ones at every step, and divides the others by the share that is left."""
    if not rate:
        return xs
    kept = jax.random.bernoulli(key, 1 - rate, (1, *xs.shape[1:]))
    return jnp.where(kept, xs / (1 - rate), 0).astype(xs.dtype)
