"""What kernels of any pointwise cell share: which cells they take, one step, its reverse, and the matmuls around loops.

Forward, for reverse mode: the loop saves what `pointwise` read, that is, each step's carry and the
pre-activations (z and r, or their sum where the cell uses nothing else).

Backward: a reverse loop carries only the cotangent of the carry; each step calls `jax.vjp` of
`pointwise` and one matmul, dh += dr W_h^T. All weight gradients and dx are then one large matmul each.

A kernel is two loops over these steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recurrent_jax.cells.base import Array, PointwiseCell, accumulator, apply_pointwise, matmul
from recurrent_jax.cells.shapes import shapes_of
from recurrent_jax.kernels import scan
from recurrent_jax.kernels.contract import Inputs, Options, Outputs, select
from recurrent_jax.kernels.derivative import with_backward
from recurrent_jax.kernels.mesh import spread
from recurrent_jax.kernels.structure import Structure, analyse, closes_over_tracers


class Saved(NamedTuple):
    """What the backward loop reads: the carry that each step consumed, and its pre-activations, one array or two."""

    starts: Any
    pre: tuple[Array, ...]


class State(NamedTuple):
    """What the backward loop carries: cotangents in at least float32.

    Attributes:
      carry: of the carry.
      own: of the parameters that `pointwise` reads.
      initial: of the carry that a reset restores; None where there are no resets.
    """

    carry: Any
    own: list[Array]
    initial: Any


class Half(NamedTuple):
    """What the backward loop holds while the matmul of a step runs.

    Attributes:
      start: cotangents of the carry that the step consumed, without what the matmul adds to that of `h`.
      held: what goes past a masked step; None where there is no mask.
      own, initial: as in `State`.
    """

    start: Any
    held: Any
    own: list[Array]
    initial: Any


class Loops(NamedTuple):
    """The two loops of a kernel.

    Attributes:
      forward: from a pass to the outputs and what is saved.
      backward: from a pass, what was saved and the cotangent of the outputs to the `h` that each step consumed, the
        last state, and the cotangents of the pre-activations of every step.
      primal: from a pass to the outputs, where nothing is differentiated.
    """

    forward: Callable[["Pass"], tuple[Outputs, Saved]]
    backward: Callable[["Pass", Saved, Outputs], tuple[Array, State, list[Array]]]
    primal: Callable[["Pass"], Outputs]


class Pass:
    """One unrolling of a pointwise cell, and its steps."""

    def __init__(self, cell: PointwiseCell, inputs: Inputs, options: Options) -> None:
        self.cell, self.inputs, self.options = cell, inputs, options
        self.additive, self.used, self.carried, self.constants = _structure(cell, inputs)
        self.exact = accumulator(cell.compute_dtype)

        leaves = list(zip(jax.tree.leaves(inputs.params), self.used, strict=True))
        # The parameters that `pointwise` reads, and those that it does not.
        self.own = [leaf for leaf, is_used in leaves if is_used]
        self.others = [leaf for leaf, is_used in leaves if not is_used]

    def params(self, own: list[Array], others: list[Array]) -> Any:
        """All parameters: those that `pointwise` reads, and for the rest these."""
        supplied, rest = iter(own), iter(others)
        leaves = [next(supplied if is_used else rest) for is_used in self.used]
        return jax.tree.unflatten(jax.tree.structure(self.inputs.params), leaves)

    def read(self, starts: Any) -> Any:
        """The leaves of carries that `pointwise` reads; None for others, whose values a reverse step can do without."""
        leaves = zip(jax.tree.leaves(starts), self.carried, strict=True)
        return jax.tree.unflatten(jax.tree.structure(starts), [leaf if is_read else None for leaf, is_read in leaves])

    def step(self, params: Any, w_h: Array, carry: Any, z: Array) -> tuple[Any, Any]:
        """The next carry, and the output with what is saved of the pre-activations."""
        return self.advance(params, carry, z, matmul(carry.h, w_h))

    def advance(self, params: Any, carry: Any, z: Array, r: Array) -> tuple[Any, Any]:
        """The elementwise half of a step."""
        small = lambda a: a.astype(self.cell.compute_dtype)
        new, y = apply_pointwise(self.cell, params, carry, z, r)
        return new, (y, (small(z + r),) if self.additive else (small(z), small(r)))

    def reverse_step(
        self,
        own: list[Array],
        others: list[Array],
        w_h_transposed: Array,
        state: State,
        start: Any,
        pre: list[Array],
        dy: Any,
        d_after: Any,
        keep: Array | None,
        reset: Array | None,
    ) -> tuple[State, list[Array]]:
        """The state before a step, and the cotangents of its pre-activations.

        Args:
          start, pre: what was saved of the step, of the carry what is `read`.
          dy, d_after: the cotangents of its output, and of the carry after it, None where that was not returned.
        """
        half, d_pre = self.pull_back(own, others, state, start, pre, dy, d_after, keep)
        return self.pull_start(half, matmul(d_pre[-1], w_h_transposed), keep, reset), d_pre

    def pull_back(
        self,
        own: list[Array],
        others: list[Array],
        state: State,
        start: Any,
        pre: list[Array],
        dy: Any,
        d_after: Any,
        keep: Array | None,
    ) -> tuple[Half, list[Array]]:
        """The half of a reverse step before its matmul, which the second half and the matmul need."""

        def pointwise(own: list[Array], carry: Any, *pre: Array) -> Any:
            z, r = (pre[0], jnp.zeros_like(pre[0])) if self.additive else pre
            return apply_pointwise(self.cell, self.params(own, others), carry, z, r)

        d_new = state.carry
        if d_after is not None:
            d_new = jax.tree.map(jnp.add, d_new, self.up(d_after))
        held = None
        if keep is not None:
            zeros = jax.tree.map(jnp.zeros_like, (d_new, dy))
            (d_new, dy), held = select(keep, (d_new, dy), zeros), select(keep, zeros[0], d_new)

        d_new = jax.tree.map(lambda d, c: d.astype(c.dtype), d_new, self.inputs.carry)
        # What nobody reads has a cotangent all the same: it may be anything that lies over a mesh as the carry does.
        start = jax.tree.map(lambda d, leaf: d if leaf is None else leaf, d_new, start)
        _, vjp = jax.vjp(pointwise, own, start, *self.up(pre))
        d_own, d_start, *d_pre = vjp((d_new, dy))
        d_own = jax.tree.map(jnp.add, state.own, self.up(d_own))
        return Half(self.up(d_start), held, d_own, state.initial), [d.astype(self.cell.compute_dtype) for d in d_pre]

    def pull_start(self, half: Half, d_h: Array, keep: Array | None, reset: Array | None) -> State:
        """The half of a reverse step after its matmul; `d_h` is what that gave."""
        d_start, d_initial = half.start._replace(h=half.start.h + d_h), half.initial
        if reset is not None:
            zeros = jax.tree.map(jnp.zeros_like, d_start)
            acts = reset if keep is None else reset & keep
            d_initial = jax.tree.map(jnp.add, d_initial, select(acts, d_start, zeros))
            d_start = select(reset, zeros, d_start)
        d_carry = d_start if half.held is None else jax.tree.map(jnp.add, d_start, half.held)
        return State(d_carry, half.own, d_initial)

    def up(self, tree: Any) -> Any:
        """In at least float32."""
        return jax.tree.map(lambda a: a.astype(self.exact), tree)

    def last_state(self, cotangent: Outputs) -> State:
        """What the backward loop begins with."""
        d_final = self.up(cotangent.carry)
        no_initial = None if self.inputs.initial is None else jax.tree.map(jnp.zeros_like, d_final)
        return State(d_final, [jnp.zeros_like(leaf, self.exact) for leaf in self.own], no_initial)


def refuses(cell: Any, inputs: Inputs) -> str | None:
    """Refuses cells that are not pointwise, or whose parts are not of the shapes and dtypes that takes."""
    if not isinstance(cell, PointwiseCell):
        name = type(cell).__name__
        hint = f"; {name}.apply may run its cells by other kernels: explain them one by one"
        return f"{name} is not a PointwiseCell{hint if hasattr(cell, 'apply') else ''}"
    if not cell.is_pointwise:
        return f"{cell!r} is more than one recurrent matmul and an elementwise function"
    if any(isinstance(value, jax.core.Tracer) for value in jax.tree.leaves(vars(cell))):
        return "a field of the cell is a traced array; make it a parameter"
    kind = type(cell)
    if closes_over_tracers(kind.pointwise, kind.project, kind.recurrent_kernel, *vars(cell).values()):
        return "the cell closes over a traced array; make it a parameter"
    if not (hasattr(inputs.carry, "_replace") and hasattr(inputs.carry, "h")):
        return f"the carry {type(inputs.carry).__name__} is not a NamedTuple with a field h"
    for name in ("params", "carry"):
        dtypes = {a.dtype for a in jax.tree.leaves(getattr(inputs, name))}
        others = sorted(str(dtype) for dtype in dtypes if not jnp.issubdtype(dtype, jnp.floating))
        if others:
            return f"{name} of dtype {', '.join(others)}: its backward pass carries floating cotangents only"
    reason = spread(inputs)
    if reason is not None:
        return reason
    z, r = _pre_activations(cell, inputs)
    if getattr(z, "shape", None) != r.shape:
        return f"project gives {getattr(z, 'shape', type(z).__name__)} where h W_h is {r.shape}"
    return None


def run(cell: PointwiseCell, inputs: Inputs, options: Options, loops: Loops) -> Outputs:
    """Unrolls a pointwise cell by these loops."""
    if not inputs.xs.size:
        return scan.run(cell, inputs, options)  # no step, no difference

    def reference(args: Any, flags: Any) -> Outputs:
        return scan.run(cell, Inputs(**args, **flags), options)

    def forward(args: Any, flags: Any) -> tuple[Outputs, Saved]:
        return loops.forward(Pass(cell, Inputs(**args, **flags), options))

    def backward(args: Any, flags: Any, saved: Saved, cotangent: Outputs) -> Any:
        unrolled = Pass(cell, Inputs(**args, **flags), options)
        return _gradients(unrolled, *loops.backward(unrolled, saved, cotangent))

    def primal(args: Any, flags: Any) -> Outputs:
        return loops.primal(Pass(cell, Inputs(**args, **flags), options))

    given = inputs._asdict()
    flags = {name: given.pop(name) for name in ("mask", "resets")}
    return with_backward(reference, forward, backward, primal)(given, flags)


def _pre_activations(cell: PointwiseCell, inputs: Inputs) -> tuple[Any, Any]:
    """Shapes and dtypes of `z` and `r` of one step."""
    x = jax.ShapeDtypeStruct(inputs.xs.shape[1:], inputs.xs.dtype)
    return shapes_of(_both, (cell,), inputs.params, x, inputs.carry.h)


def _both(cell: PointwiseCell, params: Any, x: Array, h: Array) -> tuple[Any, Array]:
    return cell.project(params, x), matmul(h, cell.recurrent_kernel(params))


def _structure(cell: PointwiseCell, inputs: Inputs) -> Structure:
    """What `pointwise` does with its arguments, at the shapes of this call."""
    return analyse(cell, inputs.params, inputs.carry, *_pre_activations(cell, inputs))


def _project_vjp(cell: PointwiseCell, params: Any, xs: Array, d_z: Array) -> tuple[Any, Array]:
    """The cotangents of params and xs `[rows, D]` that those of z `[rows, G*H]` give, multiplied as they were saved."""
    if type(cell).project is not PointwiseCell.project:
        z, vjp = jax.vjp(cell.project, params, xs)
        return vjp(d_z.astype(z.dtype))
    # By hand: z is of float32 at least, and JAX would multiply cotangents of that dtype, which tensor cores do slowly.
    whole = lambda params: (params.w_x.astype(cell.compute_dtype), jnp.broadcast_to(params.b, d_z.shape[-1:]))
    (w_x, b), vjp = jax.vjp(whole, params)
    d_w_x = matmul(xs.astype(w_x.dtype).T, d_z).astype(w_x.dtype)
    (d_params,) = vjp((d_w_x, d_z.sum(0, dtype=accumulator(d_z.dtype)).astype(b.dtype)))
    return d_params, matmul(d_z, w_x.T).astype(xs.dtype)


def _gradients(unrolled: Pass, hs: Array, state: State, d_pre: list[Array]) -> Any:
    """The cotangents of params, xs, carry and initial, of what the backward loop left."""
    cell, inputs = unrolled.cell, unrolled.inputs
    params = inputs.params
    w_h, kernel_vjp = jax.vjp(cell.recurrent_kernel, params)
    # Rows first: a matmul over two contracted axes would make the compiler copy both operands.
    rows = lambda a: a.reshape(-1, a.shape[-1])
    d_w_h = matmul(rows(hs).T, rows(d_pre[-1]))
    d_params, d_xs = _project_vjp(cell, params, rows(inputs.xs), rows(d_pre[0]))
    (d_params_kernel,) = kernel_vjp(d_w_h.astype(w_h.dtype))
    d_own = [d.astype(leaf.dtype) for d, leaf in zip(state.own, unrolled.own, strict=True)]
    d_params_own = unrolled.params(d_own, [jnp.zeros_like(leaf) for leaf in unrolled.others])
    down = lambda tree, like: jax.tree.map(lambda d, a: d.astype(a.dtype), tree, like)
    return {
        "params": jax.tree.map(lambda *d: sum(d[1:], d[0]), d_params, d_params_kernel, d_params_own),
        "xs": d_xs.reshape(inputs.xs.shape),
        "carry": down(state.carry, inputs.carry),
        "initial": down(state.initial, inputs.initial),
    }
