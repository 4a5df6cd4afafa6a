"""How a kernel brings its own backward pass and keeps every other derivative.

`jax.custom_vjp` would take forward mode away, and with it Hessian-vector products of one kind and
`jax.jacfwd`. A custom JVP keeps both, but then JAX derives the backward pass by itself. What is
wanted is a tangent map J whose transpose is given by hand. The public primitive with a transpose of
its own is `lax.custom_linear_solve`, so J is written as the solution of a linear system:

    [  I  0 ] [v]   [v]
    [ -J  I ] [y] = [0]        whence y = J v,

and its transpose, where the kernel's backward pass stands for the product with J^T, as

    [ I  -J^T ] [p]   [cv]
    [ 0    I  ] [q] = [cy]     whence q = cy, p = cv + J^T cy.

The matrix itself is stated by means of the reference, so forward mode runs the reference, reverse
mode runs the kernel's own pair of passes, and derivatives of second and higher order are those of
the reference, without a word from the user. No linear system is solved at run time.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from recurrent_jax.cells.base import Array

Function = Callable[[Any, Any], Any]


def with_backward(
    reference: Function,
    forward: Callable[[Any, Any], tuple[Any, Any]],
    backward: Callable[[Any, Any, Any, Any], Any],
    primal: Function | None = None,
) -> Function:
    """A function equal to `reference` whose reverse-mode derivative is `forward`, then `backward`.

    Args:
      reference: a function `(args, flags) -> out`, differentiable by JAX with respect to `args`, a
        pytree of floating arrays; `flags` is a pytree of arrays of any other dtype.
      forward: the same function for reverse mode; returns `(out, saved)`.
      backward: from `(args, flags, saved, cotangent of out)` to the cotangent of `args`.
      primal: the same function where nothing is differentiated; None takes `reference`.

    Returns:
      A function of `(args, flags)`, differentiable in both modes and to any order. None of the
      functions may close over traced arrays: the derivative rules are traced later than they are.
    """

    def push(args: Any, flags: Any, saved: Any, tangent: Any) -> Any:
        """`J tangent`, the derivative of `reference` at `args`."""
        jvp = lambda v: jax.jvp(lambda a: reference(a, flags), (args,), (v,))[1]

        def matvec(x: Any) -> Any:
            v, y = _times_one(x, args)
            return v, jax.tree.map(jnp.subtract, y, jvp(v))

        def solve(_: Any, b: Any) -> Any:
            v, y = b
            return v, jax.tree.map(jnp.add, y, jvp(v))

        def transpose_solve(_: Any, b: Any) -> Any:
            v, y = b
            return jax.tree.map(jnp.add, v, backward(args, flags, saved, y)), y

        out = jax.eval_shape(reference, args, flags)
        right_side = _plus_zero((tangent, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), out)), tangent)
        solution = lax.custom_linear_solve(matvec, right_side, solve, transpose_solve)
        return _plus_zero(solution, solution)[1]

    save = _with_push(forward, push)

    @jax.custom_jvp
    def run(args: Any, flags: Any) -> Any:
        return (primal or reference)(args, flags)

    @run.defjvp
    def run_jvp(primals: Any, tangents: Any) -> Any:
        (out, _), (tangent_out, _) = jax.jvp(save, primals, tangents)
        return out, tangent_out

    return run


# The pair (out, saved) of `forward`, which may be code that JAX can't see into, is itself differentiated in derivatives
# of second order. What is saved counts as constant: `push` states in full how J depends on `args`. A custom JVP would
# say so too, but where JAX before 0.12 differentiates a scan, it keeps of a custom JVP the function alone.
_save = Primitive("forward_with_saved")
_save.multiple_results = True


def _with_push(forward: Function, push: Callable[..., Any]) -> Function:
    """`forward`, of which `push(args, flags, saved, tangent)` is the derivative of `out`."""

    def save(args: Any, flags: Any) -> Any:
        leaves, given = jax.tree.flatten((args, flags))
        traced, result = jax.make_jaxpr(forward, return_shape=True)(args, flags)
        structures = given, jax.tree.structure(result)
        return jax.tree.unflatten(structures[1], _save.bind(*leaves, traced=traced, push=push, structures=structures))

    return save


@_save.def_impl
def _evaluate(*leaves: Any, traced: Any, push: Any, structures: Any) -> Any:
    return jaxpr_as_fun(traced)(*leaves)


@_save.def_effectful_abstract_eval
def _shapes(*leaves: Any, traced: Any, push: Any, structures: Any) -> Any:
    return traced.out_avals, traced.effects


def _lower(ctx: Any, *leaves: Any, traced: Any, push: Any, structures: Any) -> Any:
    return mlir.lower_fun(jaxpr_as_fun(traced))(ctx, *leaves)


def _jvp(primals: Any, tangents: Any, **fixed: Any) -> Any:
    given, result = fixed["structures"]
    results = _save.bind(*primals, **fixed)
    args, flags = jax.tree.unflatten(given, primals)
    _, saved = jax.tree.unflatten(result, results)
    count = len(jax.tree.leaves(args))
    tangent = jax.tree.unflatten(jax.tree.structure(args), map(ad.instantiate_zeros, tangents[:count]))
    pushed = jax.tree.leaves(fixed["push"](args, flags, saved, tangent))
    constant = lambda leaf: ad.Zero(jax.typeof(leaf).to_tangent_aval())
    return results, [*pushed, *map(constant, jax.tree.leaves(saved))]


def _batch(leaves: Any, axes: Any, *, traced: Any, push: Any, structures: Any) -> Any:
    given, result = structures
    args, flags = axes = jax.tree.unflatten(given, axes)
    forward = lambda *both: jax.tree.unflatten(result, jaxpr_as_fun(traced)(*jax.tree.leaves(both)))
    many = _with_push(jax.vmap(forward, axes), jax.vmap(push, (args, flags, 0, args)))
    results = jax.tree.leaves(many(*jax.tree.unflatten(given, leaves)))
    return results, [0] * len(results)


mlir.register_lowering(_save, _lower)
ad.primitive_jvps[_save] = _jvp
batching.primitive_batchers[_save] = _batch


# JAX transposes a `custom_linear_solve` only if every leaf of its right side is linear in what is
# differentiated. That holds for some leaves in one use and for others in another, so all of them are
# tied together: by a zero made of every leaf of the right side (and, for its transpose, of the
# solution), and, for the derivative of the matrix, by a one made of every leaf it depends on. Zero
# and one are made from empty slices: they cost nothing once compiled, and no NaN travels in them.


def _plus_zero(tree: Any, source: Any) -> Any:
    """`tree`, each leaf of it depending linearly on all leaves of `source`."""
    zero = _zero(source)
    return jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype), tree)


def _times_one(tree: Any, source: Any) -> Any:
    """`tree`, each leaf of it multiplied by a one that depends on all leaves of `source`."""
    zero = _zero(source)
    return jax.tree.map(lambda leaf: leaf * (1 + zero).astype(leaf.dtype), tree)


def _zero(source: Any) -> Array:
    """A zero that depends on every leaf: the sum of no elements of each."""
    # A number has no empty slice.
    arrays = [leaf.reshape(leaf.shape or (1,)) for leaf in jax.tree.leaves(source)]
    none = lambda array: lax.slice(array, (0,) * array.ndim, (0,) * array.ndim)
    total: Any = sum(jnp.sum(none(array)).astype(jnp.float32) for array in arrays)
    return total
