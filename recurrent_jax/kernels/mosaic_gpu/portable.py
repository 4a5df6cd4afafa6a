"""What the two kernels compute as programs of JAX, from the same arrays: for devices other than the one chosen for.

A program is traced where the default device is a Hopper GPU, and lowered, or exported, for another one as well.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrent_jax.cells.base import Array, accumulator
from recurrent_jax.kernels.mosaic_gpu.block import Program
from recurrent_jax.kernels.mosaic_gpu.units import Pieces


def forward(program: Program, advance: Callable[..., Any], operands: Any, results: Any) -> Any:
    """As in kernels.py."""
    w, own, initial = _gates(program, operands["w"]), _own(program, operands), _pieces(operands["initial"])

    def step(start: Any, now: Any) -> tuple[Any, Any]:
        r = Pieces(_product(gate, start.h[0]) for gate in w)
        keep, reset = (_flag(program, now[name]) for name in ("keep", "reset"))
        new, following, y, pre = advance(own, _pieces(start), _pieces(now["z"]), r, keep, reset, initial)
        of_step = {"ys": y, "pre": list(pre), "carries": new}
        given = {name: _stacked(tree) for name, tree in of_step.items() if results[name] is not None}
        return _like(_stacked(following), start), given | {"starts": start}

    last, given = lax.scan(step, operands["carry"], operands["steps"], reverse=program.reverse)
    out = {"last": last} | {name: given[name] for name in ("ys", "pre", "carries", "starts") if name in given}
    return {name: _like(out[name], like) if like is not None else None for name, like in results.items()}


def backward(
    program: Program, pull_back: Callable[..., Any], pull_start: Callable[..., Any], operands: Any, results: Any
) -> Any:
    """As in kernels.py."""
    w, own = _gates(program, operands["w"].swapaxes(1, 2)), _own(program, operands)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), results["state"])

    def step(state: Any, now: Any) -> tuple[Any, Any]:
        keep, reset = (_flag(program, now[name]) for name in ("keep", "reset"))
        start, pre, d_y, d_after = (_pieces(now[name]) for name in ("starts", "pre", "d_ys", "d_carries"))
        half, d_pre = pull_back(own, _pieces(state), start, pre, d_y, d_after, keep)
        d_r = [piece.astype(program.dtype) for piece in d_pre[-1]]
        d_h = sum(_product(gate.T, piece) for gate, piece in zip(w, d_r, strict=True))
        return _like(_stacked(pull_start(half, Pieces([d_h]), keep, reset)), state), _stacked(list(d_pre))

    first = zeros._replace(carry=_like(operands["d_last"], zeros.carry))
    state, d_pre = lax.scan(step, first, operands["steps"], reverse=program.reverse)
    return {"state": state, "d_pre": _like(d_pre, results["d_pre"])}


def _product(w: Array, batch: Array) -> Array:
    """`[units, units]` times `[units, rows]`, with at least float32 accumulation."""
    return jnp.matmul(w, batch, preferred_element_type=accumulator(w.dtype))


def _gates(program: Program, w: Array) -> list[Array]:
    """Each gate's `[units, units]` of `[blocks, rows of a block's matmul, units]`."""
    tiling = program.tiling
    w = w[:, : tiling.gates * tiling.block_units].reshape(tiling.blocks, tiling.gates, tiling.block_units, -1)
    return list(w.swapaxes(0, 1).reshape(tiling.gates, tiling.all_units, -1))


def _own(program: Program, operands: Any) -> Any:
    """Parameters, which operands have for the rows of one cluster, for all rows."""
    return [Pieces(jnp.tile(leaf, (1, 1, program.tiles))) for leaf in operands["own"]]


def _flag(program: Program, numbers: Array | None) -> Array | None:
    """Flags of rows, which operands have for the units of one block, for all units."""
    return None if numbers is None else jnp.tile(numbers[0], (program.tiling.blocks, 1)) != 0


def _pieces(tree: Any) -> Any:
    """Each array `[k, units, rows]` as pieces."""
    return jax.tree.map(Pieces, tree)


def _stacked(tree: Any) -> Any:
    """Each `Pieces` as an array."""
    return jax.tree.map(lambda pieces: jnp.stack(pieces), tree, is_leaf=lambda leaf: isinstance(leaf, Pieces))


def _like(tree: Any, like: Any) -> Any:
    """Arrays in the dtypes of others, and in their structure."""
    leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True)
    return jax.tree.unflatten(jax.tree.structure(like), [a.astype(leaf.dtype) for a, leaf in leaves])
