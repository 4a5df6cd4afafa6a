"""The loops of `mosaic_gpu`: arrays by units and rows as the kernels want them, and back."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrent_jax.cells.base import Array
from recurrent_jax.kernels.contract import Outputs, masked_step, select
from recurrent_jax.kernels.mesh import varies
from recurrent_jax.kernels.mosaic_gpu import kernels, portable
from recurrent_jax.kernels.mosaic_gpu.block import Program
from recurrent_jax.kernels.mosaic_gpu.tiling import Held, Tiling
from recurrent_jax.kernels.mosaic_gpu.units import UnitFunction
from recurrent_jax.kernels.pointwise import Pass, Saved, State


class Functions:
    """The elementwise halves of a step and of its reverse, by units."""

    def __init__(self, unrolled: Pass) -> None:
        cell, inputs = unrolled.cell, unrolled.inputs
        units, others = cell.hidden_size, lambda: [jnp.zeros(leaf.shape, leaf.dtype) for leaf in unrolled.others]
        row = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[-1:], a.dtype), tree)
        own = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, unrolled.exact), unrolled.own)
        carry, initial = row(inputs.carry), row(inputs.initial)
        z = row(jax.eval_shape(cell.project, inputs.params, inputs.xs))
        r = jax.ShapeDtypeStruct((cell.gates * units,), unrolled.exact)
        flag = lambda flags: None if flags is None else jax.ShapeDtypeStruct((), jnp.bool_)
        keep, reset = flag(inputs.mask), flag(inputs.resets)

        def advance(own: Any, start: Any, z: Array, r: Array, keep: Any, reset: Any, initial: Any) -> Any:
            params = unrolled.params(own, others())
            step = lambda carry, z: unrolled.advance(params, carry, z, r)
            _, new, (y, pre) = masked_step(step, inputs, start, z, keep, None)
            return new, (new if reset is None else select(reset, initial, new)), y, pre

        def pull_back(own: Any, state: State, start: Any, pre: Any, dy: Any, d_after: Any, keep: Any) -> Any:
            return unrolled.pull_back(own, others(), state, start, pre, dy, d_after, keep)

        self.advance = UnitFunction(advance, units, own, carry, z, r, keep, reset, initial)
        _, _, y, pre = jax.eval_shape(advance, own, carry, z, r, keep, reset, initial)
        exact = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, unrolled.exact), tree)
        state = State(exact(carry), own, exact(initial))
        d_after = carry if unrolled.options.return_carries else None
        self.rows = {"carry": carry, "z": z, "y": y, "pre": list(pre), "state": state}
        start = unrolled.read(carry)
        self.pull_back = UnitFunction(pull_back, units, own, state, start, list(pre), y, d_after, keep)
        half, _ = jax.eval_shape(pull_back, own, state, start, list(pre), y, d_after, keep)
        d_h = jax.ShapeDtypeStruct((units,), unrolled.exact)
        self.pull_start = UnitFunction(unrolled.pull_start, units, half, d_h, keep, reset)

    @property
    def refusal(self) -> str | None:
        """Why a half can't be run by units."""
        numbers = [leaf for leaf in jax.tree.leaves((self.rows["carry"], self.rows["y"])) if leaf.ndim != 1]
        if numbers:
            return f"`pointwise` gives each row an array {list(numbers[0].shape)}, where it takes vectors"
        return next((f.refusal for f in (self.advance, self.pull_back, self.pull_start) if f.refusal), None)


def sizes(unrolled: Pass, functions: Functions) -> tuple[Held, Held]:
    """What the two kernels hold in shared memory, where the forward one saves."""
    inputs, rows = unrolled.inputs, functions.rows

    def size(*trees: Any) -> int:
        """Bytes of rows, for each unit."""
        return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(trees)) // unrolled.cell.hidden_size

    flags = unrolled.cell.compute_dtype.itemsize * sum(flags is not None for flags in (inputs.mask, inputs.resets))
    carries = rows["carry"] if unrolled.options.return_carries else None
    initial = None if inputs.resets is None else rows["carry"]
    own, y, pre = rows["state"].own, rows["y"], rows["pre"]
    return (
        Held(size(rows["z"]) + flags, size(own, rows["carry"], initial, y, pre, carries)),
        Held(size(unrolled.read(rows["carry"]), pre, y, carries) + flags, size(own, rows["state"], pre[:-1])),
    )


def forward(unrolled: Pass, tiling: Tiling, save: bool, interpret: Any) -> tuple[Outputs, Saved]:
    """The outputs, and with `save` what the backward pass needs, in the layout of the kernels."""
    cell, inputs, options = unrolled.cell, unrolled.inputs, unrolled.options
    layout, functions = _Layout(unrolled, tiling), Functions(unrolled)
    keep, reset = layout.flags()
    carry = inputs.carry
    if reset is not None:
        # What a step consumes is ready when the step before it ends.
        first, none = (-1, 0) if options.reverse else (0, -1)
        carry = select(reset[first], inputs.initial, carry)
        reset = jnp.roll(reset, 1 if options.reverse else -1, 0).at[none].set(False)
    operands = {
        "w": layout.weights(cell.recurrent_kernel(inputs.params)),
        "own": layout.own(unrolled.up(unrolled.own)),
        "carry": layout.by_units(carry),
        "initial": layout.by_units(inputs.initial) if reset is not None else None,
        "steps": {
            "z": layout.steps_by_units(cell.project(inputs.params, inputs.xs)),
            "keep": layout.filled(keep),
            "reset": layout.filled(reset),
        },
    }
    rows = functions.rows
    results = {
        "last": layout.shapes(rows["carry"]),
        "ys": layout.shapes(rows["y"], steps=True),
        "starts": layout.shapes(rows["carry"], steps=True) if save else None,
        "pre": tuple(layout.shapes(rows["pre"], steps=True)) if save else None,
        "carries": layout.shapes(rows["carry"], steps=True) if options.return_carries else None,
    }
    program = layout.program(unrolled, options.reverse, interpret)
    out = _run("forward", program, functions.advance, operands=operands, results=results)
    outputs = Outputs(layout.rows(out["last"]), layout.steps(out["ys"]), layout.steps(out["carries"]))
    return outputs, Saved(out["starts"], out["pre"])


def backward(
    unrolled: Pass, tiling: Tiling, saved: Saved, cotangent: Outputs, interpret: Any
) -> tuple[Array, State, list[Array]]:
    """The `h` that each step consumed, the last state, and the cotangents of the pre-activations."""
    cell, inputs, options = unrolled.cell, unrolled.inputs, unrolled.options
    layout, functions = _Layout(unrolled, tiling), Functions(unrolled)
    keep, reset = layout.flags()
    state = unrolled.last_state(cotangent)
    operands = {
        "w": layout.weights(cell.recurrent_kernel(inputs.params)).swapaxes(1, 2),
        "own": layout.own(unrolled.up(unrolled.own)),
        "d_last": layout.by_units(state.carry, zeros=True),
        "steps": {
            "starts": unrolled.read(saved.starts),
            "pre": list(saved.pre),
            "d_ys": layout.steps_by_units(cotangent.ys, zeros=True),
            "d_carries": layout.steps_by_units(cotangent.carries, zeros=True),
            "keep": layout.filled(keep),
            "reset": layout.filled(reset),
        },
    }
    results = {
        "state": layout.shapes(functions.rows["state"]),
        "d_pre": layout.shapes(functions.rows["pre"], steps=True),
    }
    program = layout.program(unrolled, not options.reverse, interpret)
    out = _run("backward", program, functions.pull_back, functions.pull_start, operands=operands, results=results)
    of_units = out["state"]
    own = jax.tree.map(lambda leaf: leaf.sum(tuple(range(leaf.ndim - 1))), layout.rows(of_units.own))
    state = State(layout.rows(of_units.carry), own, layout.rows(of_units.initial))
    return layout.steps(saved.starts.h), state, layout.steps(out["d_pre"])


def _run(direction: str, program: Program, *functions: Any, operands: Any, results: Any) -> Any:
    """A kernel, or what it computes where a program is lowered for another device."""
    kernel = lambda operands: getattr(kernels, direction)(program, *functions, operands, results)
    # Within `shard_map` it was asked for by its name, over GPUs.
    if program.interpret is not None or varies(jax.tree.leaves(operands["steps"])[0]):
        return kernel(operands)
    other = lambda operands: getattr(portable, direction)(program, *functions, operands, results)
    return lax.platform_dependent(operands, cuda=kernel, default=other)


class _Layout:
    """Arrays `[..., k, units, rows]`, with what fills the last block and the last cluster, and back."""

    def __init__(self, unrolled: Pass, tiling: Tiling) -> None:
        self.inputs, self.tiling, self.dtype = unrolled.inputs, tiling, unrolled.cell.compute_dtype
        self.time, *self.batch, _ = unrolled.inputs.xs.shape
        self.size = math.prod(self.batch)
        self.all_rows = tiling.all_rows(self.size)

    def program(self, unrolled: Pass, reverse: bool, interpret: Any) -> Program:
        """What a kernel is made for."""
        return Program(self.tiling, self.time, self.all_rows, reverse, self.dtype, unrolled.exact, interpret)

    def by_units(self, tree: Any, zeros: bool = False) -> Any:
        """`[batch..., k*H]` as `[k, units, rows]`, where units too many are copies of the last, or zeros."""
        return jax.tree.map(lambda a: self._turned(a.reshape(1, self.size, -1), zeros)[0], tree)

    def steps_by_units(self, tree: Any, zeros: bool = False) -> Any:
        """`[T, batch..., k*H]` as `[T, k, units, rows]`."""
        return jax.tree.map(lambda a: self._turned(a.reshape(self.time, self.size, -1), zeros), tree)

    def own(self, leaves: list[Array]) -> list[Array]:
        """Parameters `[k*H]` as `[k, units, rows of a cluster]`."""
        units = lambda a: self._filled_up(a.reshape(-1, self.tiling.units), axis=1)
        return [jnp.repeat(units(leaf)[..., jnp.newaxis], self.tiling.rows, -1) for leaf in leaves]

    def weights(self, w_h: Array) -> Array:
        """`W_h [H, G*H]` as `[blocks, rows of a block's matmul, H]`.

        Units too many are copies of the last that nobody reads.
        """
        tiling = self.tiling
        w = w_h.reshape(tiling.units, tiling.gates, tiling.units).transpose(1, 2, 0)
        w = self._filled_up(self._filled_up(w, axis=1), axis=2, zeros=True)
        w = w.reshape(tiling.gates, tiling.blocks, tiling.block_units, tiling.all_units).swapaxes(0, 1)
        w = w.reshape(tiling.blocks, tiling.gates * tiling.block_units, tiling.all_units)
        return jnp.pad(w, ((0, 0), (0, tiling.matmul_rows - w.shape[1]), (0, 0)))

    def flags(self) -> tuple[Array | None, Array | None]:
        """The mask, and the resets that act: not those of masked steps."""
        mask, resets = self.inputs.mask, self.inputs.resets
        return mask, resets if resets is None or mask is None else resets & mask

    def filled(self, flags: Array | None) -> Array | None:
        """`[T, batch...]` as numbers `[T, 1, units of a block, rows]`, the same for all units."""
        if flags is None:
            return None
        numbers = flags.reshape(self.time, 1, 1, self.size).astype(self.dtype)
        numbers = jnp.pad(numbers, ((0, 0), (0, 0), (0, 0), (0, self.all_rows - self.size)))
        return jnp.repeat(numbers, self.tiling.block_units, 2)

    def shapes(self, rows: Any, steps: bool = False) -> Any:
        """Of results, from those of a row."""
        lead = (self.time,) if steps else ()

        def one(row: Any) -> Any:
            pieces = row.shape[0] // self.tiling.units
            return jax.ShapeDtypeStruct((*lead, pieces, self.tiling.all_units, self.all_rows), row.dtype)

        return jax.tree.map(one, rows)

    def rows(self, tree: Any) -> Any:
        """`[k, units, rows]` as `[batch..., k*H]`."""
        return jax.tree.map(lambda a: self._turned_back(a).reshape(*self.batch, -1), tree)

    def steps(self, tree: Any) -> Any:
        """`[T, k, units, rows]` as `[T, batch..., k*H]`."""
        return jax.tree.map(lambda a: self._turned_back(a).reshape(self.time, *self.batch, -1), tree)

    def _turned(self, array: Array, zeros: bool) -> Array:
        """`[T, B, k*H]` as `[T, k, units, rows]`."""
        by_units = array.reshape(*array.shape[:2], -1, self.tiling.units).transpose(0, 2, 3, 1)
        by_units = self._filled_up(by_units, axis=2, zeros=zeros)
        return jnp.pad(by_units, ((0, 0), (0, 0), (0, 0), (0, self.all_rows - self.size)))

    def _turned_back(self, array: Array) -> Array:
        """`[..., k, units, rows]` as `[..., rows, k, units]`, without what was filled up."""
        return jnp.moveaxis(array[..., : self.tiling.units, : self.size], -1, -3)

    def _filled_up(self, array: Array, axis: int, zeros: bool = False) -> Array:
        """As many units as all blocks have."""
        missing = [(0, 0)] * array.ndim
        missing[axis] = (0, self.tiling.all_units - self.tiling.units)
        return jnp.pad(array, missing, mode="constant" if zeros else "edge")
