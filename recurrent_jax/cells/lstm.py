"""Long short-term memory."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrent_jax.cells.base import Array, PointwiseCell, accumulator, exportable


@exportable
class LSTMParams(NamedTuple):
    """Parameters `w_x [D, 4H]`, `w_h [H, 4H]`, `b [4H]`; gates in the order i, f, g, o."""

    w_x: Array
    w_h: Array
    b: Array


@exportable
class LSTMCarry(NamedTuple):
    """The hidden state `h [..., H]` and the cell state `c [..., H]`, the latter never below float32."""

    h: Array
    c: Array


@dataclasses.dataclass(frozen=True)
class LSTM(PointwiseCell):
    """Long short-term memory with a forget gate.

        i, f, g, o = split(x_t W_x + h_{t-1} W_h + b)
        c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)
        h_t = sigmoid(o) tanh(c_t)                          y_t = h_t

    Parameters are `LSTMParams`, the carry is `LSTMCarry(h, c)`. With bfloat16 or float16 compute
    `c` stays float32.

    Attributes:
      hidden_size: H, the number of units.
      forget_bias: value that `init` gives to the forget gate's bias; a step adds nothing.
      param_dtype, dtype, w_x_init, w_h_init: see `PointwiseCell`.

    Raises:
      ValueError: an attribute is not of the kind above.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> cell = rj.LSTM(hidden_size=8)
      >>> params = cell.init(jax.random.key(0), in_size=3)
      >>> carry, ys = rj.unroll(cell, params, jnp.ones((10, 2, 3)))
      >>> ys.shape, carry.c.shape
      ((10, 2, 8), (2, 8))

    Source: Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9 (1997); the
    forget gate is of Gers, Schmidhuber and Cummins, "Learning to forget" (2000); its bias of 1 of
    Jozefowicz, Zaremba and Sutskever, "An empirical exploration of recurrent network architectures"
    (2015).
    """

    forget_bias: float = 1.0
    gates: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.forget_bias, bool) or not isinstance(self.forget_bias, (int, float, np.number)):
            raise ValueError(f"forget_bias: expected a number, got {self.forget_bias!r}")

    def init(self, key: Array, in_size: int) -> LSTMParams:
        """Draws `LSTMParams`: scaled input blocks, orthogonal recurrent blocks, `forget_bias` at f."""
        w_x, w_h = self.draw_weights(key, in_size)
        size = self.hidden_size
        return LSTMParams(w_x, w_h, b=self.zeros(4 * size).at[size : 2 * size].set(self.forget_bias))

    def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> LSTMCarry:
        """Returns `LSTMCarry` of zeros."""
        shape = (*batch_shape, self.hidden_size)
        exact = accumulator(self.compute_dtype)
        return LSTMCarry(h=jnp.zeros(shape, self.compute_dtype), c=jnp.zeros(shape, exact))

    def pointwise(self, params: Any, carry: LSTMCarry, z: Array, r: Array) -> tuple[LSTMCarry, Array]:
        """The gates i, f, g, o, and from them the next `c` and `h`."""
        i, f, g, o = jnp.split(z + r, 4, axis=-1)
        c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return LSTMCarry(h=h, c=c), h
