"""`check_cell`: does a cell keep the contract?"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrent_jax.arguments import check_cell_methods, check_inputs, check_positive, same_structure
from recurrent_jax.attentive import AttentiveCell
from recurrent_jax.cells.base import PointwiseCell
from recurrent_jax.cells.shapes import describe
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


def check_cell(cell: Any, in_size: int = 5, params: Any = None) -> CellReport:
    """Tells the author of a cell whether it keeps the contract that `unroll` relies on.

    Args:
      cell: the cell.
      in_size: D, the number of input features to try it with.
      params: parameters for inputs of D features to try it with; by default those of `cell.init`. All rows share them:
        the memory of an `AttentiveCell` is to be one of no batch axis.

    Returns:
      A `CellReport`: prints as a table; `ok` says whether every law holds.

    Raises:
      TypeError: `cell` lacks `init`, `initial_carry` or `step`.
      ValueError: `in_size` is not a positive integer, or `params` do not fit, or lack a memory that the cell needs.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> rj.check_cell(rj.LSTM(hidden_size=4)).ok
      True
      >>> cell = rj.AttentiveCell(rj.LSTM(hidden_size=4), memory_size=4)
      >>> params = cell.remember(cell.init(jax.random.key(0), in_size=5), jnp.ones((10, 4)))
      >>> rj.check_cell(cell, params=params).ok
      True
    """
    check_cell_methods(cell)
    check_positive("in_size", in_size)
    if params is not None and isinstance(cell, PointwiseCell):
        check_inputs(cell, params, jnp.zeros((_STEPS, in_size)))
    memory = getattr(params, "memory", None)
    if isinstance(cell, AttentiveCell) and getattr(getattr(memory, "values", None), "ndim", None) != 2:
        raise ValueError(
            "params: expected what cell.remember returns for values [S, M], one memory for all rows, "
            f"got {'no memory' if memory is None else describe(memory)}"
        )
    trial = _Trial(in_size, params)
    laws: list[tuple[str, Callable[[Any, _Trial], None]]] = [
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
        if _takes_fused(cell, trial):
            laws.append(("fused has the outputs and gradients of scan", _fused))
    return CellReport(tuple((name, _problem(law, cell, trial)) for name, law in laws))


class _Trial(NamedTuple):
    """What to try a cell with: the number of input features, and parameters, None for those of `init`."""

    in_size: int
    params: Any


class _Broken(Exception):
    """A law does not hold; the message says how."""


def _problem(law: Callable[[Any, _Trial], None], cell: Any, trial: _Trial) -> str | None:
    """Runs one law; whatever it raises, the cell's own errors too, is the finding."""
    try:
        law(cell, trial)
    except _Broken as broken:
        return str(broken)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _example(cell: Any, trial: _Trial) -> tuple[Any, Any, jax.Array]:
    """Parameters, a carry that is not the initial one, and an input, each with a batch of rows."""
    params = _params(cell, trial)
    dtype = next((a.dtype for a in jax.tree.leaves(params) if jnp.issubdtype(a.dtype, jnp.floating)), jnp.float32)
    first, second = jax.random.normal(jax.random.key(1), (2, _BATCH, trial.in_size)).astype(dtype)
    carry, _ = cell.step(params, cell.initial_carry(params, (_BATCH,)), first)
    return params, carry, second


def _params(cell: Any, trial: _Trial) -> Any:
    return cell.init(jax.random.key(0), trial.in_size) if trial.params is None else trial.params


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
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        for word, test in (("NaN", np.isnan), ("infinite", np.isinf)):
            if test(a).any() or test(b).any():
                raise _Broken(f"{name}: values are {word}")
        # The order of a sum may differ: some dozen roundings of the largest value.
        bound = 64 * eps * max(1.0, float(np.abs(b).max(initial=0)))
        error = float(np.abs(a - b).max(initial=0))
        if error > bound:
            raise _Broken(f"{name}: differs by {error:.2g}, more than rounding ({bound:.2g})")


def _hash(cell: Any, trial: _Trial) -> None:
    if hash(cell) != hash(cell) or cell != cell:
        raise _Broken("the cell is not equal to itself")
    if hasattr(cell, "__dataclass_fields__"):
        fresh = dataclasses.replace(cell)
        if fresh != cell or hash(fresh) != hash(cell):
            raise _Broken("a fresh cell with equal fields is not equal, so it would compile again")


def _pure_init(cell: Any, trial: _Trial) -> None:
    _compare("params", cell.init(jax.random.key(7), trial.in_size), cell.init(jax.random.key(7), trial.in_size))


def _stable_carry(cell: Any, trial: _Trial) -> None:
    params, carry, x = _example(cell, trial)
    want = cell.initial_carry(params, (_BATCH,))
    new, _ = cell.step(params, carry, x)
    spec = lambda tree: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), tree)
    _compare("carry", spec(new), spec(want))


def _pure_step(cell: Any, trial: _Trial) -> None:
    params, carry, x = _example(cell, trial)
    _compare("step", cell.step(params, carry, x), cell.step(params, carry, x))


def _jit(cell: Any, trial: _Trial) -> None:
    params, carry, x = _example(cell, trial)
    _compare("step", jax.jit(cell.step)(params, carry, x), cell.step(params, carry, x))


def _vmap(cell: Any, trial: _Trial) -> None:
    params, carry, x = _example(cell, trial)
    _compare("step", jax.vmap(cell.step, (None, 0, 0))(params, carry, x), cell.step(params, carry, x))


def _independent_rows(cell: Any, trial: _Trial) -> None:
    params, carry, x = _example(cell, trial)
    first = lambda tree: jax.tree.map(lambda a: a[:1], tree)
    _compare("step", first(cell.step(params, carry, x.at[1:].set(9.0))), first(cell.step(params, carry, x)))


def _split(cell: Any, trial: _Trial) -> None:
    params, carry, x = _example(cell, trial)
    _compare("step", cell.recur(params, carry, cell.project(params, x)), cell.step(params, carry, x))


def _pointwise_recur(cell: Any, trial: _Trial) -> None:
    params, carry, x = _example(cell, trial)
    z = cell.project(params, x)
    _compare("recur", cell.recur(params, carry, z), PointwiseCell.recur(cell, params, carry, z))


def _takes_fused(cell: Any, trial: _Trial) -> bool:
    """Whether `fused` would run this cell; where it can't say, the law that asks it shall."""
    try:
        params = _params(cell, trial)
        xs = jnp.zeros((_STEPS, _BATCH, trial.in_size), cell.compute_dtype)
        return explain(cell, params, xs, implementation=("fused", "scan")).chosen == "fused"
    except Exception:
        return True


def _fused(cell: Any, trial: _Trial) -> None:
    params, carry, _ = _example(cell, trial)
    xs = jax.random.normal(jax.random.key(2), (_STEPS, _BATCH, trial.in_size)).astype(carry.h.dtype)

    def loss(params: Any, xs: Any, carry: Any, implementation: str) -> Any:
        last, ys = unroll(cell, params, xs, carry, implementation=implementation)
        total = sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves((last, ys)))
        return total, (last, ys)

    scan, fused = (
        jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, xs, carry, name) for name in ("scan", "fused")
    )
    _compare("outputs", fused[1], scan[1])
    _compare("gradients", fused[0], scan[0], rounding=carry)
