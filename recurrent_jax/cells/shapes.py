"""What can be said of a cell and its arrays without computing anything."""

from collections.abc import Callable
from typing import Any

import jax


def describe(tree: Any) -> str:
    """A pytree in one line: `LSTMCarry(h float32[8,16], c float32[8,16])`."""
    if hasattr(tree, "_fields"):
        parts = (f"{name} {describe(getattr(tree, name))}" for name in tree._fields)
        return f"{type(tree).__name__}({', '.join(parts)})"
    if isinstance(tree, (tuple, list)):
        return f"{type(tree).__name__}({', '.join(map(describe, tree))})"
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        return f"{tree.dtype}[{','.join(map(str, tree.shape))}]"
    return type(tree).__name__ if tree is not None else "None"


def hashable(cell: Any) -> bool:
    """Whether a cell is told from others by its values, so that jit may take it as a static argument.

    A cell that holds arrays is not, nor one with the hash of its identity: it could change unseen.
    """
    if type(cell).__hash__ in (None, object.__hash__):
        return False
    try:
        hash(cell)
    except TypeError:
        return False
    return True


def shapes_of(function: Callable[..., Any], static: tuple[Any, ...], *arrays: Any) -> Any:
    """Shapes and dtypes of `function(*static, *arrays)`, traced once for each cell `static[0]` that is `hashable`.

    It is jit that remembers them, which knows of all that a trace depends on: x64, meshes, strict promotion.
    """
    if hashable(static[0]):
        return _jitted.eval_shape(function, static, *arrays)
    return jax.eval_shape(lambda *arrays: function(*static, *arrays), *arrays)


_jitted = jax.jit(lambda function, static, *arrays: function(*static, *arrays), static_argnums=(0, 1))
