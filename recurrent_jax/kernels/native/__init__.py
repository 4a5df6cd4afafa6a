"""`native`: compiled C++ behind `jax.ffi` for the cells of this library on a CPU.

The weights are packed once a call into panels that fit the caches; each thread owns rows of the batch,
or units where rows are few, for all steps. The forward pass projects the inputs of a step or of a few,
so that they never travel through memory, and takes the elementwise half from sums that are still in the
first cache. The backward pass writes the gradients of the pre-activations over the gates, in place; the
weights' gradients, and those of peepholes, come from a pass of their own after that, which skips
padding too, and dx is a matmul of JAX. Padded steps cost nearly nothing.

src/ has the C++: recurrence.cc the loops, cells.h the equations, simd.h the vectors, gang.cc the threads,
handlers.cc what XLA calls. It is compiled once for each instruction set and chosen when it runs.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrent_jax.cells.base import Array, RNNCarry, matmul
from recurrent_jax.cells.gru import GRU
from recurrent_jax.cells.lstm import LSTM, CoupledLSTM, LSTMCarry, PeepholeLSTM
from recurrent_jax.cells.rnn import RNN
from recurrent_jax.kernels import scan
from recurrent_jax.kernels.contract import Inputs, Options, Outputs
from recurrent_jax.kernels.derivative import with_backward
from recurrent_jax.kernels.native import calls, library

NAME = "native"

_TANH = calls.Cell(0, gates=1)
_RELU = calls.Cell(1, gates=1)
_LSTM = calls.Cell(2, gates=4, has_c=True)
_GRU = calls.Cell(3, gates=3, has_extra=True)
_PEEPHOLE_LSTM = calls.Cell(4, gates=4, has_c=True, has_peepholes=True)
_COUPLED_LSTM = calls.Cell(5, gates=3, has_c=True)
# The parameters that are rows of `calls.Weights.peepholes`.
_PEEPHOLES = ("p_i", "p_f", "p_o")
# What a subclass must not change to be the same cell.
_EQUATIONS = ("project", "recurrent_kernel", "pointwise", "recur", "step")


def refuses(cell: Any, inputs: Inputs, options: Options) -> str | None:
    """Refuses where it is not built, devices other than CPUs, cells of users, and half precision."""
    problem = library.load().problem
    if problem is not None:
        return problem
    if jax.default_backend() != "cpu":
        return f"it runs on a CPU, and the default device is a {jax.default_backend()}"
    compiled = _compiled(cell)
    if compiled is None:
        cells = "RNN (tanh, relu), LSTM, PeepholeLSTM, CoupledLSTM, GRU(reset='after')"
        return f"{cell!r} is not among its cells: {cells}"
    if cell.compute_dtype not in (np.float32, np.float64):
        return f"dtype {cell.compute_dtype}: it computes in float32 and float64"
    features, units, columns = inputs.xs.shape[-1], cell.hidden_size, compiled.gates * cell.hidden_size
    expected = {"w_x": (features, columns), "w_h": (units, columns), "b": (columns,)}
    if compiled.has_extra:
        expected["b_n"] = (units,)
    if compiled.has_peepholes:
        expected |= dict.fromkeys(_PEEPHOLES, (units,))
    if not hasattr(inputs.params, "_replace"):
        return f"the parameters {type(inputs.params).__name__} are not a NamedTuple"
    for name, shape in expected.items():
        if getattr(getattr(inputs.params, name, None), "shape", None) != shape:
            return f"params.{name} is not an array {list(shape)}"
    carry = LSTMCarry if compiled.has_c else RNNCarry
    if not isinstance(inputs.carry, carry) or any(a.dtype != cell.compute_dtype for a in inputs.carry):
        return f"the carry is not {carry.__name__} of {cell.compute_dtype}"
    return None


def run(cell: Any, inputs: Inputs, options: Options) -> Outputs:
    """Unrolls a cell of this library."""
    if not inputs.xs.size:
        return scan.run(cell, inputs, options)  # no step, no difference

    def reference(args: Any, flags: Any) -> Outputs:
        return scan.run(cell, Inputs(**args, **flags), options)

    def primal(args: Any, flags: Any) -> Outputs:
        return _forward(cell, Inputs(**args, **flags), options, save=False)[0]

    def forward(args: Any, flags: Any) -> tuple[Outputs, Any]:
        return _forward(cell, Inputs(**args, **flags), options, save=True)

    def backward(args: Any, flags: Any, saved: Any, cotangent: Outputs) -> Any:
        return _backward(cell, Inputs(**args, **flags), options, saved, cotangent)

    given = inputs._asdict()
    flags = {name: given.pop(name) for name in ("mask", "resets")}
    return with_backward(reference, forward, backward, primal)(given, flags)


def _compiled(cell: Any) -> calls.Cell | None:
    """The cell in the compiled code; None where its equations are not there."""
    is_a = lambda family: (
        isinstance(cell, family)
        and all(getattr(type(cell), method) is getattr(family, method) for method in _EQUATIONS)
    )
    if is_a(RNN) and isinstance(cell.activation, str):
        return {"tanh": _TANH, "relu": _RELU}[cell.activation]
    for family, compiled in ((LSTM, _LSTM), (PeepholeLSTM, _PEEPHOLE_LSTM), (CoupledLSTM, _COUPLED_LSTM)):
        if is_a(family):
            return compiled
    return _GRU if is_a(GRU) and cell.is_pointwise else None


def _kind(cell: Any, options: Options) -> calls.Kind:
    compiled = _compiled(cell)
    assert compiled is not None
    return calls.Kind(compiled, options.reverse)


def _peepholes(kind: calls.Kind, params: Any, dtype: np.dtype) -> Array | None:
    """Those of i, f and o, one below the other."""
    if not kind.cell.has_peepholes:
        return None
    return jnp.stack([getattr(params, name).astype(dtype) for name in _PEEPHOLES])


def _carries(cell: Any, inputs: Inputs) -> calls.Carries:
    """The carry and the initial one, `[B, H]` each."""
    flat = lambda carry, field: _shaped(getattr(carry, field, None), -1, cell.hidden_size)
    return calls.Carries(*(flat(carry, field) for carry in (inputs.carry, inputs.initial) for field in ("h", "c")))


def _flags(inputs: Inputs) -> calls.Flags:
    """Mask and resets, `[T, B]` each."""
    steps = len(inputs.xs)
    return calls.Flags(_shaped(inputs.mask, steps, -1), _shaped(inputs.resets, steps, -1))


def _carry_of(h: Any, c: Any) -> Any:
    return RNNCarry(h) if c is None else LSTMCarry(h, c)


def _shaped(array: Array | None, *shape: int) -> Any:
    """The array in another shape, where there is one."""
    return None if array is None else array.reshape(shape)


def _forward(cell: Any, inputs: Inputs, options: Options, save: bool) -> tuple[Outputs, calls.Saved]:
    """The outputs, and with `save` what the backward pass needs."""
    params, kind, dtype = inputs.params, _kind(cell, options), cell.compute_dtype
    time, *batch, features = inputs.xs.shape
    small = lambda array: array.astype(dtype)
    b_n = small(params.b_n) if kind.cell.has_extra else None
    peepholes = _peepholes(kind, params, dtype)
    weights = calls.Weights(small(params.w_x), small(params.b), cell.recurrent_kernel(params), b_n, peepholes)
    xs = small(inputs.xs).reshape(time, math.prod(batch), features)
    saved, c_last = calls.forward(kind, save, options.return_carries)(
        weights, (xs, _flags(inputs)), _carries(cell, inputs)
    )
    h_last = saved.hs[0 if options.reverse else -1]
    hs, cs = (_shaped(array, *inputs.xs.shape[:-1], cell.hidden_size) for array in (saved.hs, saved.cs))
    h_last, c_last = (_shaped(array, *batch, cell.hidden_size) for array in (h_last, c_last))
    ys = hs if inputs.mask is None else jnp.where(inputs.mask[..., jnp.newaxis], hs, jnp.zeros_like(hs))
    return Outputs(_carry_of(h_last, c_last), ys, _carry_of(hs, cs) if options.return_carries else None), saved


def _backward(cell: Any, inputs: Inputs, options: Options, saved: calls.Saved, cotangent: Outputs) -> Any:
    """The cotangents of params, xs, carry and initial."""
    params, kind, dtype = inputs.params, _kind(cell, options), cell.compute_dtype
    time, *_, features = inputs.xs.shape
    flags, carries = _flags(inputs), _carries(cell, inputs)
    of = lambda carry, field, *lead: _shaped(getattr(carry, field, None), *lead, -1, cell.hidden_size)
    (d_gates, d_extra), d_carries = calls.backward(kind)(
        (cell.recurrent_kernel(params), _peepholes(kind, params, dtype)),
        (
            saved,
            flags,
            cotangent.ys.reshape(time, -1, cell.hidden_size),
            of(cotangent.carries, "h", time),
            of(cotangent.carries, "c", time),
        ),
        (carries, of(cotangent.carry, "h"), of(cotangent.carry, "c")),
    )

    xs = inputs.xs.astype(dtype).reshape(time, -1, features)
    cs = saved.cs if kind.cell.has_peepholes else None
    d_weights = calls.gradient(kind)((xs, saved.hs, cs, flags, d_gates, d_extra), carries)._asdict()
    d_peepholes = d_weights.pop("peepholes")
    if d_peepholes is not None:
        d_weights |= zip(_PEEPHOLES, d_peepholes, strict=True)
    d_params = params._replace(
        **{name: d.astype(getattr(params, name).dtype) for name, d in d_weights.items() if d is not None}
    )
    # Rows first: a matmul over more axes would make the compiler copy its operands.
    d_xs = matmul(d_gates.reshape(-1, d_gates.shape[-1]), params.w_x.astype(dtype).T)

    def like(h: Array | None, c: Array | None, carry: Any) -> Any:
        return None if carry is None else jax.tree.map(lambda d, a: d.reshape(a.shape), _carry_of(h, c), carry)

    return {
        "params": d_params,
        "xs": d_xs.reshape(inputs.xs.shape).astype(inputs.xs.dtype),
        "carry": like(d_carries.h, d_carries.c, inputs.carry),
        "initial": like(d_carries.initial_h, d_carries.initial_c, inputs.initial),
    }
