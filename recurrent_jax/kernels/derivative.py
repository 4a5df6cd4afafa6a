"""How a kernel brings its own backward pass and keeps every other derivative.

`jax.custom_vjp` would take forward mode away, and with it Hessian-vector products of one kind and
`jax.jacfwd`. A JVP of its own keeps both, but then JAX derives the backward pass by itself. What is
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
    return _with_push(primal or reference, push, save)


# A custom JVP would do, but where JAX before 0.12 differentiates a scan, it keeps of one the function alone: whoever
# differentiates that again meets code that has other derivatives than it should, or none.
_call = Primitive("with_backward")
_call.multiple_results = True


def _with_push(function: Function, push: Callable[..., Any], save: Function | None = None) -> Function:
    """A function of which `push(args, flags, saved, tangent)` is the derivative of `out`.

    The function returns `out`, where `save` is another that returns `(out, saved)`, or both by itself, of which what is
    saved counts as constant: `push` states in full how J depends on `args`.
    """

    def call(args: Any, flags: Any) -> Any:
        leaves, given = jax.tree.flatten((args, flags))
        traced, result = jax.make_jaxpr(function, return_shape=True)(args, flags)
        structure: Any = jax.tree.structure(result)
        results = _call.bind(*leaves, traced=traced, push=push, save=save, structures=(given, structure))
        return jax.tree.unflatten(structure, results)

    return call


@_call.def_impl
def _evaluate(*leaves: Any, traced: Any, **_: Any) -> Any:
    return jaxpr_as_fun(traced)(*leaves)


@_call.def_effectful_abstract_eval
def _shapes(*_: Any, traced: Any, **__: Any) -> Any:
    return traced.out_avals, traced.effects


def _lower(ctx: Any, *leaves: Any, traced: Any, **_: Any) -> Any:
    return mlir.lower_fun(jaxpr_as_fun(traced))(ctx, *leaves)


def _jvp(primals: Any, tangents: Any, **fixed: Any) -> Any:
    push, save, (given, result) = (fixed[name] for name in ("push", "save", "structures"))
    args, flags = jax.tree.unflatten(given, primals)
    out, saved = save(args, flags) if save else jax.tree.unflatten(result, _call.bind(*primals, **fixed))
    count = len(jax.tree.leaves(args))
    tangent = jax.tree.unflatten(jax.tree.structure(args), map(ad.instantiate_zeros, tangents[:count]))
    pushed = jax.tree.leaves(push(args, flags, saved, tangent))
    if save:
        return jax.tree.leaves(out), pushed
    constant = lambda leaf: ad.Zero(jax.typeof(leaf).to_tangent_aval())
    return jax.tree.leaves((out, saved)), [*pushed, *map(constant, jax.tree.leaves(saved))]


def _batch(leaves: Any, axes: Any, *, traced: Any, push: Any, save: Any, structures: Any) -> Any:
    given, result = structures
    args, flags = axes = jax.tree.unflatten(given, axes)
    function = lambda *both: jax.tree.unflatten(result, jaxpr_as_fun(traced)(*jax.tree.leaves(both)))
    many = lambda one: jax.vmap(one, axes)
    mapped = _with_push(many(function), jax.vmap(push, (args, flags, 0, args)), save and many(save))
    results = jax.tree.leaves(mapped(*jax.tree.unflatten(given, leaves)))
    return results, [0] * len(results)


mlir.register_lowering(_call, _lower)
ad.primitive_jvps[_call] = _jvp
batching.primitive_batchers[_call] = _batch


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
