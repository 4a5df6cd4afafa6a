"""What a cell's `pointwise` does with its arguments, read off its jaxpr, so that no author has to say it."""

import contextlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recurrent_jax.cells.base import Array, PointwiseCell, apply_pointwise


class Structure(NamedTuple):
    """Facts about one `pointwise`.

    Attributes:
      additive: `z` and `r` are used as `z + r` only, so one sum can be saved instead of both.
      used: for each leaf of the parameters, whether `pointwise` reads it.
      carried: the same for each leaf of the carry.
      constants: shapes of the arrays that it closes over.
    """

    additive: bool
    used: tuple[bool, ...]
    carried: tuple[bool, ...]
    constants: tuple[tuple[int, ...], ...] = ()


def analyse(cell: PointwiseCell, params: Any, carry: Any, z: Array, r: Array) -> Structure:
    """Traces `pointwise` on arguments of these shapes (nothing is computed)."""
    closed = jax.make_jaxpr(lambda *args: apply_pointwise(cell, *args))(params, carry, z, r)
    jaxpr = closed.jaxpr
    readers = live_equations(jaxpr)
    *leaves, z_var, r_var = jaxpr.invars
    returned = {id(v) for v in jaxpr.outvars}

    def reads(var: Any) -> list[Any]:
        return [eqn for eqn in readers if any(v is var for v in eqn.invars)]

    count = len(jax.tree.leaves(params))
    used = tuple(bool(reads(var)) or id(var) in returned for var in leaves)
    sums = reads(z_var) + reads(r_var)
    additive = not {id(z_var), id(r_var)} & returned and all(
        eqn.primitive.name in ("add", "add_any") and {id(v) for v in eqn.invars} == {id(z_var), id(r_var)}
        for eqn in sums
    )
    constants = tuple(tuple(jnp.shape(const)) for const in closed.consts)
    return Structure(bool(sums) and additive, used[:count], used[count:], constants)


# What a subclass must not change to be the same cell.
_EQUATIONS = ("project", "recurrent_kernel", "pointwise", "recur", "step")


def has_equations_of(cell: Any, family: type) -> bool:
    """Whether the cell is one of this class, and not of a subclass that computes something else."""
    return isinstance(cell, family) and all(getattr(type(cell), name) is getattr(family, name) for name in _EQUATIONS)


def closes_over_tracers(*functions: Any) -> bool:
    """Whether a function, or one that it closes over, closes over a traced array; what is no function does not."""
    seen: set[int] = set()

    def one(function: Any) -> bool:
        if id(function) in seen:
            return False
        seen.add(id(function))
        for cell in getattr(function, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # a cell that nothing is in yet
                leaves = jax.tree.leaves(cell.cell_contents)
                if any(isinstance(leaf, jax.core.Tracer) or one(leaf) for leaf in leaves):
                    return True
        return False

    return any(map(one, functions))


def live_equations(jaxpr: Any) -> list[Any]:
    """The equations on which the outputs depend, in their order."""
    live = {id(v) for v in jaxpr.outvars}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if any(id(v) in live for v in eqn.outvars):
            kept.append(eqn)
            live.update(id(v) for v in eqn.invars)
    return kept[::-1]
