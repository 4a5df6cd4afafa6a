"""`native`: compiled C++ behind `jax.ffi` for the cells of this library on a CPU.

The weights are packed once a call into panels that fit the caches; each thread owns rows of the batch,
or units where rows are few, for all steps. The forward pass projects the inputs of a step or of a few,
so that they never travel through memory, and takes the elementwise half from sums that are still in the
first cache. The backward pass writes the gradients of the pre-activations over the gates, in place; the
gradients of the weights and of the inputs are products of their own after that. All of them skip padded
steps, which cost nearly nothing.

src/ has the C++: forward.h, backward.h, inputs.h and gradient.h one pass each, single.h a single step,
product.h the products, cells.h the equations, simd.h the vectors, gang.cc the threads, handlers.cc what XLA
calls. It is compiled once for each instruction set and chosen when it runs. Where a program is exported, or
lowered for another device, portable.py stands for it.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from recurrent_jax.cells.base import Array, RNNCarry, accumulator
from recurrent_jax.cells.gru import GRU
from recurrent_jax.cells.lstm import LSTM, CoupledLSTM, LSTMCarry, PeepholeLSTM
from recurrent_jax.cells.rnn import RNN
from recurrent_jax.kernels import scan
from recurrent_jax.kernels.contract import Inputs, Options, Outputs
from recurrent_jax.kernels.derivative import with_backward
from recurrent_jax.kernels.mesh import spread
from recurrent_jax.kernels.native import calls, library, problem
from recurrent_jax.kernels.native.problem import Carries, Cell, Flags, Kind, Saved, Weights
from recurrent_jax.kernels.structure import has_equations_of

NAME = "native"

_LSTMS = {LSTM: problem.LSTM, PeepholeLSTM: problem.PEEPHOLE_LSTM, CoupledLSTM: problem.COUPLED_LSTM}
# The parameters that are rows of `Weights.peepholes`.
_PEEPHOLES = ("p_i", "p_f", "p_o")


def refuses(cell: Any, inputs: Inputs, options: Options) -> str | None:
    """Refuses where it is not built, devices other than CPUs, cells of users, and half precision."""
    missing = library.load().problem
    if missing is not None:
        return missing
    if jax.default_backend() != "cpu":
        return f"it runs on a CPU, and the default device is a {jax.default_backend()}"
    known = _known(cell)
    if known is None:
        cells = "RNN (tanh, relu), LSTM, PeepholeLSTM, CoupledLSTM, GRU(reset='after')"
        return f"{cell!r} is not among its cells: {cells}"
    if cell.compute_dtype.name not in library.DTYPES:
        return f"dtype {cell.compute_dtype}: it computes in {', '.join(library.DTYPES)}"
    reason = spread(inputs)
    if reason is not None:
        return reason
    features, units, columns = inputs.xs.shape[-1], cell.hidden_size, cell.gates * cell.hidden_size
    expected = {"w_x": (features, columns), "w_h": (units, columns), "b": (columns,)}
    if known.has_extra:
        expected["b_n"] = (units,)
    if known.has_peepholes:
        expected |= dict.fromkeys(_PEEPHOLES, (units,))
    if not hasattr(inputs.params, "_replace"):
        return f"the parameters {type(inputs.params).__name__} are not a NamedTuple"
    for name, shape in expected.items():
        if getattr(getattr(inputs.params, name, None), "shape", None) != shape:
            return f"params.{name} is not an array {list(shape)}"
    carry = LSTMCarry if known.has_c else RNNCarry
    exact = {"h": cell.compute_dtype, "c": accumulator(cell.compute_dtype)}
    if not isinstance(inputs.carry, carry) or any(a.dtype != exact[k] for k, a in inputs.carry._asdict().items()):
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


def _known(cell: Any) -> Cell | None:
    """Which of the cells of the compiled code it is; None where its equations are not there."""
    is_a = lambda family: has_equations_of(cell, family)
    if is_a(RNN) and isinstance(cell.activation, str):
        return {"tanh": problem.TANH, "relu": problem.RELU}[cell.activation]
    for family, known in _LSTMS.items():
        if is_a(family):
            return known
    return problem.GRU if is_a(GRU) and cell.is_pointwise else None


def _kind(cell: Any, options: Options) -> Kind:
    known = _known(cell)
    assert known is not None
    return Kind(known, options.reverse)


def _peepholes(kind: Kind, params: Any, exact: Any) -> Array | None:
    """Those of i, f and o, one below the other."""
    if not kind.cell.has_peepholes:
        return None
    return jnp.stack([getattr(params, name).astype(exact) for name in _PEEPHOLES])


def _carries(cell: Any, inputs: Inputs) -> Carries:
    """The carry and the initial one, `[B, H]` each."""
    flat = lambda carry, field: _shaped(getattr(carry, field, None), -1, cell.hidden_size)
    return Carries(*(flat(carry, field) for carry in (inputs.carry, inputs.initial) for field in ("h", "c")))


def _flags(inputs: Inputs) -> Flags:
    """Mask and resets, `[T, B]` each."""
    steps = inputs.xs.shape[0]
    return Flags(_shaped(inputs.mask, steps, -1), _shaped(inputs.resets, steps, -1))


def _carry_of(h: Any, c: Any) -> Any:
    return RNNCarry(h) if c is None else LSTMCarry(h, c)


def _shaped(array: Array | None, *shape: int) -> Any:
    """The array in another shape, where there is one."""
    return None if array is None else array.reshape(shape)


def _forward(cell: Any, inputs: Inputs, options: Options, save: bool) -> tuple[Outputs, Saved]:
    """The outputs, and with `save` what the backward pass needs."""
    params, kind, dtype = inputs.params, _kind(cell, options), cell.compute_dtype
    time, *batch, features = inputs.xs.shape
    exact = accumulator(dtype)
    weights = Weights(
        params.w_x.astype(dtype),
        params.b.astype(exact),
        cell.recurrent_kernel(params),
        params.b_n.astype(exact) if kind.cell.has_extra else None,
        _peepholes(kind, params, exact),
    )
    xs = inputs.xs.astype(dtype).reshape(time, math.prod(batch), features)
    saved, c_last = calls.forward(kind, save, options.return_carries)(
        weights, (xs, _flags(inputs)), _carries(cell, inputs)
    )
    h_last = saved.hs[0 if options.reverse else -1]
    hs, cs = (_shaped(array, *inputs.xs.shape[:-1], cell.hidden_size) for array in (saved.hs, saved.cs))
    h_last, c_last = (_shaped(array, *batch, cell.hidden_size) for array in (h_last, c_last))
    ys = hs if inputs.mask is None else jnp.where(inputs.mask[..., jnp.newaxis], hs, jnp.zeros_like(hs))
    return Outputs(_carry_of(h_last, c_last), ys, _carry_of(hs, cs) if options.return_carries else None), saved


def _backward(cell: Any, inputs: Inputs, options: Options, saved: Saved, cotangent: Outputs) -> Any:
    """The cotangents of params, xs, carry and initial."""
    params, kind, dtype = inputs.params, _kind(cell, options), cell.compute_dtype
    time, *_, features = inputs.xs.shape
    exact = accumulator(dtype)
    flags, carries = _flags(inputs), _carries(cell, inputs)
    of = lambda carry, field, *lead: _shaped(getattr(carry, field, None), *lead, -1, cell.hidden_size)
    (d_gates, d_extra), d_carries = calls.backward(kind)(
        (cell.recurrent_kernel(params), _peepholes(kind, params, exact)),
        (
            saved,
            flags,
            cotangent.ys.reshape(time, -1, cell.hidden_size),
            of(cotangent.carries, "h", time),
            of(cotangent.carries, "c", time),
        ),
        (carries, of(cotangent.carry, "h").astype(exact), of(cotangent.carry, "c")),
    )
    d_xs, _ = calls.inputs(kind)(params.w_x.astype(dtype), (d_gates, flags), ())
    xs = inputs.xs.astype(dtype).reshape(time, -1, features)
    cs = saved.cs if kind.cell.has_peepholes else None
    d_weights = calls.gradient(kind)((xs, saved.hs, cs, flags, d_gates, d_extra), carries)._asdict()
    d_peepholes = d_weights.pop("peepholes")
    if d_peepholes is not None:
        d_weights |= zip(_PEEPHOLES, d_peepholes, strict=True)
    d_params = {name: d.astype(getattr(params, name).dtype) for name, d in d_weights.items() if d is not None}

    def like(h: Array | None, c: Array | None, carry: Any) -> Any:
        """The cotangents of a carry, as it is."""
        if carry is None:
            return None
        return jax.tree.map(lambda d, a: d.reshape(a.shape).astype(a.dtype), _carry_of(h, c), carry)

    return {
        "params": params._replace(**d_params),
        "xs": d_xs.reshape(inputs.xs.shape).astype(inputs.xs.dtype),
        "carry": like(d_carries.h, d_carries.c, inputs.carry),
        "initial": like(d_carries.initial_h, d_carries.initial_c, inputs.initial),
    }
