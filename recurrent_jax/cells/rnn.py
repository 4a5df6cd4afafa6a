"""The simple recurrent network."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from recurrent_jax.cells.base import Array, PointwiseCell, RNNCarry

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": jax.nn.relu}


@dataclasses.dataclass(frozen=True)
class RNN(PointwiseCell):
    """Simple recurrent network.

        h_t = activation(x_t W_x + h_{t-1} W_h + b)        y_t = h_t

    Parameters are `RNNParams(w_x [D, H], w_h [H, H], b [H])`, the carry is `RNNCarry(h [..., H])`.

    Attributes:
      hidden_size: H, the number of units.
      activation: "tanh", "relu" or any elementwise function.
      param_dtype, dtype, w_x_init, w_h_init: see `PointwiseCell`.

    Raises:
      ValueError: an attribute is not of the kind above.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> cell = rj.RNN(hidden_size=8, activation="relu")
      >>> params = cell.init(jax.random.key(0), in_size=3)
      >>> carry, ys = rj.unroll(cell, params, jnp.ones((10, 2, 3)))
      >>> ys.shape, carry.h.shape
      ((10, 2, 8), (2, 8))

    Source: Elman, "Finding structure in time", Cognitive Science 14 (1990).
    """

    activation: str | Callable[[Array], Array] = "tanh"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = isinstance(self.activation, str) and self.activation in _ACTIVATIONS
        if not known and not callable(self.activation):
            names = ", ".join(repr(name) for name in _ACTIVATIONS)
            raise ValueError(f"activation: expected {names} or a function, got {self.activation!r}")

    def pointwise(self, params: Any, carry: RNNCarry, z: Array, r: Array) -> tuple[RNNCarry, Array]:
        """`h = activation(z + r)`."""
        function = self.activation if callable(self.activation) else _ACTIVATIONS[self.activation]
        h = function(z + r)
        return RNNCarry(h=h), h
