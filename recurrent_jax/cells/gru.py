"""The gated recurrent unit, in both places of its reset gate."""

import dataclasses
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from recurrent_jax.cells.base import Array, PointwiseCell, RNNCarry, along_batch, exportable, matmul


@exportable
class GRUParams(NamedTuple):
    """Parameters `w_x [D, 3H]`, `w_h [H, 3H]`, `b [3H]`, `b_n [H]`; gates in the order r, z, n.

    `b_n`, the bias inside the reset gate's reach, exists with `reset="after"` only; else None.
    """

    w_x: Array
    w_h: Array
    b: Array
    b_n: Array | None


@dataclasses.dataclass(frozen=True)
class GRU(PointwiseCell):
    """Gated recurrent unit.

        r = sigmoid(x_t W_xr + h_{t-1} W_hr + b_r)
        z = sigmoid(x_t W_xz + h_{t-1} W_hz + b_z)
        n = tanh(x_t W_xn + b + r * (h_{t-1} W_hn + b_n))     reset="after"
        n = tanh(x_t W_xn + b + (r * h_{t-1}) W_hn)           reset="before"
        h_t = (1 - z) n + z h_{t-1}                           y_t = h_t

    "after" is what PyTorch and cuDNN compute, one matmul a step, and every kernel runs it.
    "before" is the unit of the first paper, h~ = tanh(W [r * h, x]), two matmuls one after the
    other; it runs in the plain scan. Parameters are `GRUParams`, the carry is `RNNCarry(h)`.

    Attributes:
      hidden_size: H, the number of units.
      reset: "after" or "before": where the reset gate acts.
      param_dtype, dtype, w_x_init, w_h_init: see `PointwiseCell`.

    Raises:
      ValueError: an attribute is not of the kind above.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> cell = rj.GRU(hidden_size=8, reset="before")
      >>> params = cell.init(jax.random.key(0), in_size=3)
      >>> carry, ys = rj.unroll(cell, params, jnp.ones((10, 2, 3)))
      >>> ys.shape, carry.h.shape
      ((10, 2, 8), (2, 8))

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder", arXiv:1406.1078
    (2014) for "before"; its first version and cuDNN for "after". Here z keeps the old state, as in
    cuDNN, PyTorch and ONNX.
    """

    reset: Literal["after", "before"] = "after"
    gates: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reset not in ("after", "before"):
            raise ValueError(f"reset: expected 'after' or 'before', got {self.reset!r}")

    @property
    def is_pointwise(self) -> bool:
        """True for `reset="after"`: "before" needs a second matmul behind the reset gate."""
        kind = type(self)
        return self.reset == "after" and kind.recur is GRU.recur and kind.step is GRU.step

    def init(self, key: Array, in_size: int) -> GRUParams:
        """Draws `GRUParams`: scaled input blocks, orthogonal recurrent blocks, zero biases."""
        w_x, w_h = self.draw_weights(key, in_size)
        b_n = self.zeros(self.hidden_size) if self.reset == "after" else None
        return GRUParams(w_x, w_h, b=self.zeros(3 * self.hidden_size), b_n=b_n)

    def pointwise(self, params: GRUParams, carry: RNNCarry, z: Array, r: Array) -> tuple[RNNCarry, Array]:
        """The gates r, z, n of `reset="after"`, and from them the next `h`."""
        z_r, z_z, z_n = jnp.split(z, 3, axis=-1)
        r_r, r_z, r_n = jnp.split(r, 3, axis=-1)
        assert params.b_n is not None  # `reset="before"` never comes here
        reset = jax.nn.sigmoid(z_r + r_r)
        candidate = jnp.tanh(z_n + reset * (r_n + along_batch(params.b_n, r_n)))
        h = _mix(jax.nn.sigmoid(z_z + r_z), candidate, carry.h)
        return RNNCarry(h=h), h

    def recur(self, params: GRUParams, carry: RNNCarry, z: Array) -> tuple[RNNCarry, Array]:
        """The half of a step that needs memory; returns the next carry and the output."""
        if self.reset == "after":
            return super().recur(params, carry, z)
        size = self.hidden_size
        w_h = self.recurrent_kernel(params)
        gates = jax.nn.sigmoid(z[..., : 2 * size] + matmul(carry.h, w_h[:, : 2 * size]))
        reset, update = jnp.split(gates, 2, axis=-1)
        old = carry.h.astype(z.dtype)
        candidate = jnp.tanh(z[..., 2 * size :] + matmul((reset * old).astype(carry.h.dtype), w_h[:, 2 * size :]))
        h = _mix(update, candidate, old).astype(carry.h.dtype)
        return RNNCarry(h=h), h


def _mix(update: Array, candidate: Array, old: Array) -> Array:
    """`(1 - z) n + z h`."""
    return (1 - update) * candidate + update * old
