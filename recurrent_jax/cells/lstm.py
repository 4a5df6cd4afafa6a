"""Long short-term memory: as it is, with peepholes, and with coupled gates."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrent_jax.cells.base import Array, PointwiseCell, accumulator, along_batch, exportable


@exportable
class LSTMParams(NamedTuple):
    """Parameters `w_x [D, 4H]`, `w_h [H, 4H]`, `b [4H]`; gates in the order i, f, g, o."""

    w_x: Array
    w_h: Array
    b: Array


@exportable
class PeepholeLSTMParams(NamedTuple):
    """Those of an LSTM, and what the gates i, f and o see of the cell state, `p_i [H]`, `p_f [H]`, `p_o [H]`."""

    w_x: Array
    w_h: Array
    b: Array
    p_i: Array
    p_f: Array
    p_o: Array


@exportable
class CoupledLSTMParams(NamedTuple):
    """Parameters `w_x [D, 3H]`, `w_h [H, 3H]`, `b [3H]`; gates in the order f, g, o."""

    w_x: Array
    w_h: Array
    b: Array


@exportable
class LSTMCarry(NamedTuple):
    """The hidden state `h [..., H]` and the cell state `c [..., H]`, the latter never below float32."""

    h: Array
    c: Array


@dataclasses.dataclass(frozen=True)
class _ForgetGated(PointwiseCell):
    """What all of them share: a carry with a cell state, and a forget gate with a bias."""

    forget_bias: float = 1.0
    # The place of f among the gates.
    forget_gate: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.forget_bias, bool) or not isinstance(self.forget_bias, (int, float, np.number)):
            raise ValueError(f"forget_bias: expected a number, got {self.forget_bias!r}")

    def _first_bias(self) -> Array:
        """`b [G*H]`: `forget_bias` at f, zero at the other gates."""
        size = self.hidden_size
        forget = slice(self.forget_gate * size, (self.forget_gate + 1) * size)
        return self.zeros(self.gates * size).at[forget].set(self.forget_bias)

    def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> LSTMCarry:
        """Returns `LSTMCarry` of zeros."""
        shape = (*batch_shape, self.hidden_size)
        exact = accumulator(self.compute_dtype)
        return LSTMCarry(h=jnp.zeros(shape, self.compute_dtype), c=jnp.zeros(shape, exact))


@dataclasses.dataclass(frozen=True)
class LSTM(_ForgetGated):
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

    gates: ClassVar[int] = 4

    def init(self, key: Array, in_size: int) -> LSTMParams:
        """Draws `LSTMParams`: scaled input blocks, orthogonal recurrent blocks, `forget_bias` at f."""
        return LSTMParams(*self.draw_weights(key, in_size), b=self._first_bias())

    def pointwise(self, params: Any, carry: LSTMCarry, z: Array, r: Array) -> tuple[LSTMCarry, Array]:
        """The gates i, f, g, o, and from them the next `c` and `h`."""
        i, f, g, o = jnp.split(z + r, 4, axis=-1)
        c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return LSTMCarry(h=h, c=c), h


@dataclasses.dataclass(frozen=True)
class PeepholeLSTM(_ForgetGated):
    """Long short-term memory whose gates see the cell state.

        i, f, g, o = split(x_t W_x + h_{t-1} W_h + b)
        c_t = sigmoid(f + p_f c_{t-1}) c_{t-1} + sigmoid(i + p_i c_{t-1}) tanh(g)
        h_t = sigmoid(o + p_o c_t) tanh(c_t)                y_t = h_t

    The peepholes `p_i`, `p_f`, `p_o` are vectors: each unit sees its own cell state, i and f the one before the step,
    o the one after it. It can count and keep time where an LSTM, whose `h` a closed output gate blots out, can't see
    what it remembers. Parameters are `PeepholeLSTMParams`, the carry is `LSTMCarry(h, c)`. With bfloat16 or float16
    compute `c` stays float32, and what the gates see of it is float32 too.

    Peepholes start at zero, so that what `init` draws is an LSTM, to the last bit that of `rj.LSTM` with the same key.
    Gradients go through the peepholes as through all else; in the paper they are cut off there.

    Attributes:
      hidden_size: H, the number of units.
      forget_bias: value that `init` gives to the forget gate's bias; a step adds nothing.
      param_dtype, dtype, w_x_init, w_h_init: see `PointwiseCell`.

    Raises:
      ValueError: an attribute is not of the kind above.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> cell = rj.PeepholeLSTM(hidden_size=8)
      >>> params = cell.init(jax.random.key(0), in_size=3)
      >>> carry, ys = rj.unroll(cell, params, jnp.ones((10, 2, 3)))
      >>> ys.shape, carry.c.shape, params.p_o.shape
      ((10, 2, 8), (2, 8), (8,))

    Source: Gers, Schraudolph and Schmidhuber, "Learning precise timing with LSTM recurrent networks", Journal of
    Machine Learning Research 3 (2002); with tanh of `c_t`, and with the names of the peepholes, in Greff et al., "LSTM:
    a search space odyssey", arXiv:1503.04069 (2017). ONNX's LSTM with an input P.
    """

    gates: ClassVar[int] = 4

    def init(self, key: Array, in_size: int) -> PeepholeLSTMParams:
        """Draws `PeepholeLSTMParams`: those of an LSTM, and peepholes of zero."""
        w_x, w_h = self.draw_weights(key, in_size)
        p_i, p_f, p_o = (self.zeros(self.hidden_size) for _ in range(3))
        return PeepholeLSTMParams(w_x, w_h, self._first_bias(), p_i, p_f, p_o)

    def pointwise(self, params: PeepholeLSTMParams, carry: LSTMCarry, z: Array, r: Array) -> tuple[LSTMCarry, Array]:
        """The gates i, f and g, from them the next `c`, and from that o and the next `h`."""
        i, f, g, o = jnp.split(z + r, 4, axis=-1)
        seen = lambda peephole, c: along_batch(peephole, c) * c
        forget = jax.nn.sigmoid(f + seen(params.p_f, carry.c))
        c = forget * carry.c + jax.nn.sigmoid(i + seen(params.p_i, carry.c)) * jnp.tanh(g)
        h = jax.nn.sigmoid(o + seen(params.p_o, c)) * jnp.tanh(c)
        return LSTMCarry(h=h, c=c), h


@dataclasses.dataclass(frozen=True)
class CoupledLSTM(_ForgetGated):
    """Long short-term memory that takes in as much as it forgets: coupled input and forget gates, "CIFG".

        f, g, o = split(x_t W_x + h_{t-1} W_h + b)
        c_t = sigmoid(f) c_{t-1} + (1 - sigmoid(f)) tanh(g)
        h_t = sigmoid(o) tanh(c_t)                          y_t = h_t

    A gate and a quarter of the weights less than an LSTM has, and a cell state that never leaves [-1, 1]. Of the two
    gates it is f that is kept, so that `forget_bias` means what it means elsewhere. The paper, and ONNX's attribute
    `input_forget`, keep i and have f = 1 - i: the same function, with all weights and the bias of that gate negated.
    Parameters are `CoupledLSTMParams`, the carry is `LSTMCarry(h, c)`. With bfloat16 or float16 compute `c` stays
    float32.

    Attributes:
      hidden_size: H, the number of units.
      forget_bias: value that `init` gives to the forget gate's bias; a step adds nothing.
      param_dtype, dtype, w_x_init, w_h_init: see `PointwiseCell`.

    Raises:
      ValueError: an attribute is not of the kind above.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> cell = rj.CoupledLSTM(hidden_size=8)
      >>> params = cell.init(jax.random.key(0), in_size=3)
      >>> carry, ys = rj.unroll(cell, params, jnp.ones((10, 2, 3)))
      >>> ys.shape, carry.c.shape, params.w_h.shape
      ((10, 2, 8), (2, 8), (8, 24))

    Source: Greff, Srivastava, Koutník, Steunebrink and Schmidhuber, "LSTM: a search space odyssey", IEEE Transactions
    on Neural Networks and Learning Systems 28 (2017), arXiv:1503.04069, their variant CIFG.
    """

    gates: ClassVar[int] = 3
    forget_gate: ClassVar[int] = 0

    def init(self, key: Array, in_size: int) -> CoupledLSTMParams:
        """Draws `CoupledLSTMParams`: scaled input blocks, orthogonal recurrent blocks, `forget_bias` at f."""
        return CoupledLSTMParams(*self.draw_weights(key, in_size), b=self._first_bias())

    def pointwise(self, params: Any, carry: LSTMCarry, z: Array, r: Array) -> tuple[LSTMCarry, Array]:
        """The gates f, g, o, and from them the next `c` and `h`."""
        f, g, o = jnp.split(z + r, 3, axis=-1)
        forget = jax.nn.sigmoid(f)
        c = forget * carry.c + (1 - forget) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return LSTMCarry(h=h, c=c), h
