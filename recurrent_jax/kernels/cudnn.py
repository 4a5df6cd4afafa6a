"""`cudnn`: the LSTM of NVIDIA's library, through `jax.experimental.rnn`; an oracle and a peer on a GPU.

cuDNN takes float32, batch first, weights in one vector, a second bias, and keeps no carry but the last.
"""

import importlib
import math
from typing import Any

import jax
import jax.numpy as jnp

from recurrent_jax.cells.base import Array
from recurrent_jax.cells.lstm import LSTM, LSTMCarry
from recurrent_jax.kernels import scan
from recurrent_jax.kernels.contract import Inputs, Options, Outputs
from recurrent_jax.kernels.derivative import with_backward
from recurrent_jax.kernels.structure import has_equations_of

NAME = "cudnn"


def refuses(cell: Any, inputs: Inputs, options: Options) -> str | None:
    """Refuses all but a float32 LSTM over whole sequences on an NVIDIA GPU."""
    # First what no other device changes.
    if not has_equations_of(cell, LSTM):
        return f"{cell!r} is not the LSTM"
    dtypes = {a.dtype.name for a in (*jax.tree.leaves((inputs.params, inputs.carry)), inputs.xs)}
    if dtypes != {"float32"} or cell.compute_dtype != jnp.float32:
        return f"dtypes {', '.join(sorted(dtypes))}, computed in {cell.compute_dtype}: it takes float32 only"
    if inputs.mask is not None or inputs.resets is not None:
        return "it knows neither masks nor resets"
    if options.return_carries:
        return "it keeps no carry but the last"
    if not _on_nvidia():
        return f"it runs on an NVIDIA GPU, and the default device is a {jax.default_backend()}"
    try:
        _library()
    except ImportError as error:
        return f"JAX {jax.__version__} has no cuDNN that it knows: {error}"
    return None


def run(cell: LSTM, inputs: Inputs, options: Options) -> Outputs:
    """Unrolls an LSTM."""
    if not inputs.xs.size:
        return scan.run(cell, inputs, options)  # no step, no difference

    def reference(args: Any, _: Any) -> Outputs:
        return scan.run(cell, Inputs(*args), options)

    def forward(args: Any, _: Any) -> tuple[Outputs, Any]:
        return jax.vjp(lambda args: _unrolled(args, options.reverse), args)

    def backward(args: Any, _: Any, saved: Any, cotangent: Outputs) -> Any:
        return saved(cotangent)[0]

    primal = lambda args, _: _unrolled(args, options.reverse)
    return with_backward(reference, forward, backward, primal)((inputs.params, inputs.xs, inputs.carry), ())


def _on_nvidia() -> bool:
    try:
        return jax.devices("cuda") == jax.devices()
    except RuntimeError:
        return False


def _library() -> Any:
    return importlib.import_module("jax.experimental.rnn")


def _unrolled(args: tuple[Any, Array, LSTMCarry], reverse: bool) -> Outputs:
    params, xs, carry = args
    steps, *batch, features = xs.shape
    rows, units = math.prod(batch), params.w_h.shape[0]
    # Kernels [4H, D] and [4H, H], then the biases of inputs and of h; the gates are in our order.
    weights = jnp.concatenate([params.w_x.T.ravel(), params.w_h.T.ravel(), params.b, jnp.zeros_like(params.b)])
    # From the last step to the first: the same sequence the other way round.
    ordered = lambda array: jnp.flip(array, 0) if reverse else array
    ys, h, c = _library().lstm(
        _as_it_lies(ordered(xs).reshape(steps, rows, features).swapaxes(0, 1)),
        *(_as_it_lies(leaf.reshape(1, rows, units)) for leaf in carry),
        weights,
        jnp.full((rows,), steps, jnp.int32),
        input_size=features,
        hidden_size=units,
        num_layers=1,
        dropout=0.0,
        bidirectional=False,
    )
    ys, h, c = map(_as_it_lies, (ys, h, c))
    last = LSTMCarry(*(leaf.reshape(*batch, units) for leaf in (h, c)))
    return Outputs(last, ordered(ys.swapaxes(0, 1).reshape(steps, *batch, units)))


def _as_it_lies(array: Array) -> Array:
    """The array, its last axis next to each other in memory.

    JAX's call of cuDNN does not tell XLA so, which then leaves it to the call to read what was transposed.
    """
    return jax.lax.optimization_barrier(array.ravel()).reshape(array.shape)
