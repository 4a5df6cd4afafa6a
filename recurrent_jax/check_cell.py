"""`check_cell`: does a cell keep the contract?"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrent_jax.arguments import check_cell_methods, check_positive, same_structure
from recurrent_jax.cells.base import PointwiseCell
from recurrent_jax.unroll import explain, unroll

_BATCH = 3
_STEPS = 4


@dataclasses.dataclass(frozen=True, repr=False)
class CellReport:
    """Result of `check_cell`: each law's name and what broke it (None where it holds)."""

    laws: tuple[tuple[str, str | None], ...]

    @property
    def ok(self) -> bool:
        """Whether every law holds."""
        return all(problem is None for _, problem in self.laws)

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.laws)
        lines, told = [], set()
        for name, problem in self.laws:
            # One mistake in a cell may break most laws in the same words.
            words = "holds" if problem is None else f"BROKEN: {'as above' if problem in told else problem}"
            lines.append(f"{name:<{width}}  {words}")
            told.add(problem)
        return "\n".join(lines)

    __repr__ = __str__


def check_cell(cell: Any, in_size: int = 5) -> CellReport:
    """Tells the author of a cell whether it keeps the contract that `unroll` relies on.

    Args:
      cell: the cell.
      in_size: D, the number of input features to try it with.

    Returns:
      A `CellReport`: prints as a table; `ok` says whether every law holds.

    Raises:
      TypeError: `cell` lacks `init`, `initial_carry` or `step`.

    Example:
      >>> import recurrent_jax as rj
      >>> rj.check_cell(rj.LSTM(hidden_size=4)).ok
      True
    """
    check_cell_methods(cell)
    check_positive("in_size", in_size)
    laws: list[tuple[str, Callable[[Any, int], None]]] = [
        ("equal cells hash alike", _hash),
        ("init is pure", _pure_init),
        ("a step keeps the carry's structure, shapes and dtypes", _stable_carry),
        ("a step is pure", _pure_step),
        ("jit changes nothing", _jit),
        ("vmap over rows is a batch", _vmap),
        ("rows of a batch are independent", _independent_rows),
    ]
    if hasattr(cell, "project") and hasattr(cell, "recur"):
        laws.append(("step is recur after project", _split))
    if isinstance(cell, PointwiseCell) and cell.is_pointwise:
        laws.append(("recur is pointwise after one matmul", _pointwise_recur))
        if _takes_fused(cell, in_size):
            laws.append(("fused has the outputs and gradients of scan", _fused))
    return CellReport(tuple((name, _problem(law, cell, in_size)) for name, law in laws))


class _Broken(Exception):
    """A law does not hold; the message says how."""


def _problem(law: Callable[[Any, int], None], cell: Any, in_size: int) -> str | None:
    """Runs one law; whatever it raises, the cell's own errors too, is the finding."""
    try:
        law(cell, in_size)
    except _Broken as broken:
        return str(broken)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _example(cell: Any, in_size: int) -> tuple[Any, Any, jax.Array]:
    """Parameters, a carry that is not the initial one, and an input, each with a batch of rows."""
    params = cell.init(jax.random.key(0), in_size)
    dtype = next((a.dtype for a in jax.tree.leaves(params) if jnp.issubdtype(a.dtype, jnp.floating)), jnp.float32)
    first, second = jax.random.normal(jax.random.key(1), (2, _BATCH, in_size)).astype(dtype)
    carry, _ = cell.step(params, cell.initial_carry(params, (_BATCH,)), first)
    return params, carry, second


def _compare(what: str, got: Any, expected: Any, rounding: Any = None) -> None:
    """Raises unless two pytrees agree in structure, shape, dtype and, up to rounding, value.

    The rounding is that of the coarsest dtype among `expected` and `rounding`, a pytree as well.
    """
    floats = [a.dtype for a in jax.tree.leaves((expected, rounding)) if jnp.issubdtype(a.dtype, jnp.floating)]
    eps = max((float(jnp.finfo(dtype).eps) for dtype in floats), default=0.0)
    if not same_structure(got, expected):
        raise _Broken(f"{what}: structure {jax.tree.structure(got)} is not {jax.tree.structure(expected)}")
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        name = what + jax.tree_util.keystr(path)
        a, b = jnp.asarray(a), jnp.asarray(b)
        if a.shape != b.shape or a.dtype != b.dtype:
            raise _Broken(f"{name}: {a.dtype}{list(a.shape)} is not {b.dtype}{list(b.shape)}")
        if not jnp.issubdtype(a.dtype, jnp.floating):
            if not (np.asarray(a) == np.asarray(b)).all():
                raise _Broken(f"{name}: values differ")
            continue
        # The order of a sum may differ: some dozen roundings of the largest value.
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        bound = 64 * eps * max(1.0, float(np.abs(b).max(initial=0)))
        error = float(np.abs(a - b).max(initial=0))
        if not error <= bound:
            raise _Broken(f"{name}: differs by {error:.2g}, more than rounding ({bound:.2g})")


def _hash(cell: Any, in_size: int) -> None:
    if hash(cell) != hash(cell) or cell != cell:
        raise _Broken("the cell is not equal to itself")
    if hasattr(cell, "__dataclass_fields__"):
        fresh = dataclasses.replace(cell)
        if fresh != cell or hash(fresh) != hash(cell):
            raise _Broken("a fresh cell with equal fields is not equal, so it would compile again")


def _pure_init(cell: Any, in_size: int) -> None:
    _compare("params", cell.init(jax.random.key(7), in_size), cell.init(jax.random.key(7), in_size))


def _stable_carry(cell: Any, in_size: int) -> None:
    params, carry, x = _example(cell, in_size)
    want = cell.initial_carry(params, (_BATCH,))
    new, _ = cell.step(params, carry, x)
    spec = lambda tree: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), tree)
    _compare("carry", spec(new), spec(want))


def _pure_step(cell: Any, in_size: int) -> None:
    params, carry, x = _example(cell, in_size)
    _compare("step", cell.step(params, carry, x), cell.step(params, carry, x))


def _jit(cell: Any, in_size: int) -> None:
    params, carry, x = _example(cell, in_size)
    _compare("step", jax.jit(cell.step)(params, carry, x), cell.step(params, carry, x))


def _vmap(cell: Any, in_size: int) -> None:
    params, carry, x = _example(cell, in_size)
    _compare("step", jax.vmap(cell.step, (None, 0, 0))(params, carry, x), cell.step(params, carry, x))


def _independent_rows(cell: Any, in_size: int) -> None:
    params, carry, x = _example(cell, in_size)
    first = lambda tree: jax.tree.map(lambda a: a[:1], tree)
    _compare("step", first(cell.step(params, carry, x.at[1:].set(9.0))), first(cell.step(params, carry, x)))


def _split(cell: Any, in_size: int) -> None:
    params, carry, x = _example(cell, in_size)
    _compare("step", cell.recur(params, carry, cell.project(params, x)), cell.step(params, carry, x))


def _pointwise_recur(cell: Any, in_size: int) -> None:
    params, carry, x = _example(cell, in_size)
    z = cell.project(params, x)
    _compare("recur", cell.recur(params, carry, z), PointwiseCell.recur(cell, params, carry, z))


def _takes_fused(cell: Any, in_size: int) -> bool:
    """Whether `fused` would run this cell; where it can't say, the law that asks it shall."""
    try:
        params = cell.init(jax.random.key(0), in_size)
        xs = jnp.zeros((_STEPS, _BATCH, in_size), cell.compute_dtype)
        return explain(cell, params, xs, implementation=("fused", "scan")).chosen == "fused"
    except Exception:
        return True


def _fused(cell: Any, in_size: int) -> None:
    params, carry, _ = _example(cell, in_size)
    xs = jax.random.normal(jax.random.key(2), (_STEPS, _BATCH, in_size)).astype(carry.h.dtype)

    def loss(params: Any, xs: Any, carry: Any, implementation: str) -> Any:
        last, ys = unroll(cell, params, xs, carry, implementation=implementation)
        total = sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves((last, ys)))
        return total, (last, ys)

    scan, fused = (
        jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, xs, carry, name) for name in ("scan", "fused")
    )
    _compare("outputs", fused[1], scan[1])
    _compare("gradients", fused[0], scan[0], rounding=carry)
