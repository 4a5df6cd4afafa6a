"""Arrays of a program that is spread over a mesh, and results of calls that JAX can't see into."""

from typing import Any

import jax
import jax.numpy as jnp

from recurrent_jax.cells.base import Array


def result_like(array: Array, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """A result of this shape and dtype that varies over a mesh as `array` does."""
    kind: Any = jax.typeof(array)
    mesh = kind.sharding.mesh
    sharding = None if mesh.empty else jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    result: Any = jax.ShapeDtypeStruct
    return result(shape, dtype, sharding=sharding, **{_name(kind): _variation(array)})


def spread(inputs: Any) -> str | None:
    """Why a kernel of its own derivative does not take these arrays: one lies over explicit axes of a mesh."""
    for name, tree in inputs._asdict().items():
        for leaf in jax.tree.leaves(tree):
            spec = jax.typeof(leaf).sharding.spec
            if any(axes is not None for axes in spec):
                return f"{name} is spread over a mesh as {spec}; within jax.shard_map each device has its part"
    return None


def spread_alike(carry: Any, xs: Array) -> Any:
    """A carry, leaves `[batch..., n]`, that lies over explicit axes of a mesh as the batch of `xs [T, batch..., D]`."""
    lies: Any = jax.typeof(xs).sharding
    batch = lies.spec[1:-1]
    if all(axes is None for axes in batch):
        return carry
    given: Any = lies if isinstance(xs, jax.core.Tracer) else xs.sharding

    def one(leaf: Array) -> Array:
        rest = leaf.ndim - len(batch)
        spec = jax.sharding.PartitionSpec(*batch, *[None] * rest)
        return jax.reshard(leaf, jax.sharding.NamedSharding(given.mesh, spec)) if rest >= 0 else leaf

    return jax.tree.map(one, carry)


def vary_alike(tree: Any) -> Any:
    """Within `jax.shard_map`, makes every leaf vary over the mesh axes that any of them varies over.

    A scan wants its carry to vary from the beginning as it will at the end, and a gradient to a leaf
    that does not vary, such as parameters, to be summed over the mesh, which this cast's transpose does.
    """
    axes = frozenset[str]().union(*map(_varying, jax.tree.leaves(tree)))
    if not axes:
        return tree

    def cast(leaf: Array) -> Array:
        missing = tuple(axes - _varying(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree)


def varying_like(array: Array, other: Array) -> Array:
    """The same array, which varies over a mesh as `other` does too."""
    if _variation(array) == _variation(other):
        return array
    return array + other.reshape(-1)[:0].sum().astype(array.dtype)


def varies(array: Array) -> bool:
    """Whether it lies within `jax.shard_map`, and differs from one part of the mesh to the next."""
    return _variation(array) != _variation(jnp.zeros(()))


def _name(kind: Any) -> str:
    return "manual_axis_type" if hasattr(kind, "manual_axis_type") else "vma"  # as JAX called it at first


def _variation(array: Array) -> Any:
    """The axes of a mesh over which the array varies."""
    kind = jax.typeof(array)
    return getattr(kind, _name(kind))


def _varying(array: Array) -> frozenset[str]:
    """The names of these axes."""
    variation = _variation(array)
    return getattr(variation, "varying", variation)
