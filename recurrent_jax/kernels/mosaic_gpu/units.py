"""An elementwise function of one row, run on the units of a block and on many rows at once.

A kernel that owns some of the units holds each gate as an array of its own, of units by rows. `pointwise`
speaks of whole rows, and takes them apart by itself (`jnp.split` into gates, say). So it is traced on one
row, and what it does with vectors of k*H numbers is done with k pieces: slices and concatenations choose
pieces, everything else acts on each piece by itself. A number of the row (a flag, say) is an array that is
the same for all units.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import Literal

from recurrent_jax.kernels.structure import live_equations

# What acts on each number by itself, and what Mosaic knows of that.
ELEMENTWISE = frozenset(
    (
        *("add", "sub", "mul", "div", "neg", "abs", "sign", "square", "one_minus_square", "integer_pow", "max", "min"),
        *("exp", "exp2", "log", "logistic", "tanh", "sin", "cos", "sqrt", "rsqrt", "clamp", "select_n"),
        *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "not", "convert_element_type"),
    )
)
# Functions called by name, which are looked into.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


class Pieces(tuple[Any, ...]):
    """A vector of k*H numbers of each row as k arrays, each of some units by some rows."""


class UnitFunction:
    """A function of rows, pytrees of numbers and of vectors of k*H numbers, that treats all units alike.

    Attributes:
      refusal: why it can't be run by units, in words; None where it can.
    """

    def __init__(self, function: Callable[..., Any], units: int, *rows: Any) -> None:
        """Traces `function` on rows of these shapes; `units` is H."""
        traced, out = jax.make_jaxpr(function, return_shape=True)(*rows)
        self.units, self.traced, self.out = units, traced, jax.tree.structure(out)
        self.refusal = self._refusal()

    def __call__(self, *args: Any) -> Any:
        """Pytrees as in the trace, with `Pieces` for each vector, and of arrays that all have the same shape."""
        leaves = jax.tree.leaves(args)
        shape = next(leaf[0].shape for leaf in leaves if isinstance(leaf, Pieces))
        return jax.tree.unflatten(self.out, _Evaluation(self.units, shape).run(self.traced, leaves))

    def _refusal(self) -> str | None:
        """Runs it on pieces without values, to see whether that can be done."""
        jaxpr: Any = self.traced.jaxpr
        if self.units == 1:
            return "of a single unit gates can't be told from numbers"
        for shape in (var.aval.shape for var in (*jaxpr.invars, *jaxpr.outvars)):
            if len(shape) > 1 or (shape and shape[0] % self.units):
                return f"`pointwise` has an array {list(shape)} of each row, where {self.units} units have whole gates"

        def whole() -> None:
            args: list[Any] = []
            for var in jaxpr.invars:
                array = np.zeros((1,), var.aval.dtype)
                args.append(Pieces([array] * (var.aval.shape[0] // self.units)) if var.aval.shape else array)
            _Evaluation(self.units, (1,)).run(self.traced, args)

        try:
            jax.eval_shape(whole)
        except _MixesUnits as problem:
            return f"`pointwise` {problem}"
        return None


class _MixesUnits(Exception):
    """What a row's function does that can't be done by units."""


class _Evaluation:
    """A run on pieces of one shape."""

    def __init__(self, units: int, shape: tuple[int, ...]) -> None:
        self.units, self.shape = units, shape

    def run(self, closed: Any, args: list[Any]) -> list[Any]:
        """The results of a jaxpr of rows: pieces for vectors, arrays or numbers for numbers."""
        jaxpr: Any = closed.jaxpr
        if jaxpr.effects:
            raise _MixesUnits("has side effects")
        values: dict[Any, Any] = dict(zip(jaxpr.invars, args, strict=True))
        for var, const in zip(jaxpr.constvars, closed.consts, strict=True):
            if np.ndim(const) or isinstance(const, jax.core.Tracer):
                raise _MixesUnits(f"closes over an array {list(np.shape(const))}, which has to be a parameter")
            values[var] = np.asarray(const)

        def read(var: Any) -> Any:
            is_literal: bool = isinstance(var, Literal)
            return np.asarray(var.val, var.aval.dtype) if is_literal else values[var]

        for eqn in live_equations(jaxpr):
            values |= zip(eqn.outvars, self._equation(eqn, [read(var) for var in eqn.invars]), strict=True)
        return [read(var) for var in jaxpr.outvars]

    def _equation(self, eqn: Any, args: list[Any]) -> list[Any]:
        """The results of one equation."""
        name, params = eqn.primitive.name, eqn.params
        if not eqn.invars:
            raise _MixesUnits(f"has {name}, which makes something of nothing")
        if name in _CALLS:
            inner = params[_CALLS[name]]
            return self.run(inner, args)
        before, after = (var.aval.shape for var in (eqn.invars[0], eqn.outvars[0]))
        is_number = not isinstance(args[0], Pieces)
        vectors = {"slice": args[:1], "split": args[:1], "pad": args[:1], "concatenate": args}.get(name, ())
        if not all(isinstance(vector, Pieces) for vector in vectors):
            raise _MixesUnits(f"has {name} of a single number")
        match name:
            case "slice" if params["strides"] in (None, (1,)):
                (start,), (end,) = params["start_indices"], params["limit_indices"]
                return [Pieces(args[0][self._piece(start) : self._piece(end)])]
            case "split":
                ends = np.cumsum([0, *(self._piece(size) for size in params["sizes"])])
                return [Pieces(args[0][a:b]) for a, b in itertools.pairwise(ends)]
            case "concatenate":
                return [Pieces(piece for value in args for piece in value)]
            case "pad" if not params["padding_config"][0][2]:
                low, high = (self._piece(size) for size in params["padding_config"][0][:2])
                first, last = ([self._filled(args[1])] * max(count, 0) for count in (low, high))
                return [Pieces([*first, *args[0][max(-low, 0) : len(args[0]) - max(-high, 0)], *last])]
            case "stop_gradient":
                return [args[0]]
            case "broadcast_in_dim" | "reshape" | "squeeze" | "copy" if before == after or (
                is_number and math.prod(after) == 1
            ):
                return [args[0]]
            case "broadcast_in_dim" if is_number and len(after) == 1:
                return [Pieces([self._filled(args[0])] * self._piece(*after))]
            case "reshard":  # to what it is, within a mesh
                return [args[0]]
            case "add_any":
                return [self._each(lax.add, args)]
            case _ if name in ELEMENTWISE:
                return [self._each(_as_mosaic_has_it(eqn), args)]
        raise _MixesUnits(f"has {name}, which is not among the operations that are done to each unit by itself")

    def _each(self, operation: Callable[..., Any], args: list[Any]) -> Any:
        """An elementwise operation on each piece, where there are pieces."""
        counts = {len(a) for a in args if isinstance(a, Pieces)}
        if not counts and not any(np.ndim(a) for a in args):
            with jax.ensure_compile_time_eval():
                return np.asarray(operation(*args))
        every = [a if isinstance(a, Pieces) else [self._filled(a)] * max(counts, default=1) for a in args]
        results = Pieces(operation(*pieces) for pieces in zip(*every, strict=True))
        return results if counts else results[0]

    def _piece(self, place: int) -> int:
        """Which piece begins at this place of a vector."""
        if place % self.units:
            raise _MixesUnits(f"cuts a vector at {place}, within a gate of {self.units} units")
        return place // self.units

    def _filled(self, number: Any) -> Any:
        """The number everywhere, or the array."""
        return number if np.ndim(number) else lax.full(self.shape, number, number.dtype)


def _as_mosaic_has_it(eqn: Any) -> Callable[..., Any]:
    """An elementwise operation, in other words where Mosaic does not have these."""
    name, params, kind = eqn.primitive.name, eqn.params, eqn.invars[0].aval.dtype
    is_bool = lambda dtype: np.dtype(dtype).kind == "b"
    if name == "integer_pow" and params["y"] < -1:
        return lambda x: lax.div(lax.full_like(x, 1), lax.integer_pow(x, -params["y"]))
    if name == "not" and is_bool(kind):
        return lambda x: lax.bitwise_xor(x, lax.full_like(x, True))
    if name == "convert_element_type" and is_bool(params["new_dtype"]):
        return lambda x: lax.ne(x, lax.full_like(x, 0))
    if (name in ("max", "min", "clamp") and is_bool(kind)) or (name == "select_n" and len(eqn.invars) > 3):
        raise _MixesUnits(f"has {name} of {kind} with {len(eqn.invars)} operands, which Mosaic does not have")
    return lambda *args: eqn.primitive.bind(*args, **params)
