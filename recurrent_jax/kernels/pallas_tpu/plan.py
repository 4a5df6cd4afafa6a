"""How the arrays of a kernel over time are cut into blocks that fit VMEM, and the kernel around them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from recurrent_jax.kernels.mesh import result_like, varying_like

# Rows of a block where there are more: as many as fill the registers of the narrowest dtype, and not all of VMEM.
ROWS = (256, 128, 64, 32, 16)
# Steps in a chunk: enough that it takes longer than a transfer takes to begin.
STEPS = 32
# What the blocks may take of VMEM; the compiler needs the rest. Off a TPU, the least that one has.
SHARE = 0.75
LEAST_VMEM = 16 << 20


class Operand(NamedTuple):
    """An array that a kernel reads, or of what it writes shape and dtype.

    Attributes:
      axes: what its first axes are: "TB" steps and rows, "B" rows, "b" one for each block of rows, or nothing.
      over: for a result, the operand that it is written over.
    """

    array: Any
    axes: str = ""
    over: Any = None

    def padded_bytes(self, block: int) -> int:
        """What a block of it takes in VMEM, where the last two axes are padded to whole registers."""
        shape: list[int] = [*self.array.shape[self.axes == "TB" :]]
        if self.axes:
            shape[0] = block if self.axes != "b" else 1
        *lead, rows, lanes = [1, 1, *shape]
        size = self.array.dtype.itemsize
        return math.prod(lead) * _whole(rows, 32 // size) * _whole(lanes, 128) * size


def result(axes: str, shape: tuple[int, ...], dtype: Any) -> Operand:
    """What a kernel writes."""
    return Operand(jax.ShapeDtypeStruct(shape, dtype), axes)


def over(axes: str, tree: Any) -> Any:
    """Operands of the arrays of a pytree."""
    return jax.tree.map(lambda array: Operand(array, axes), tree)


def zeros(results: Any) -> Any:
    """Arrays of these results."""
    return jax.tree.map(
        lambda o: jnp.zeros(o.array.shape, o.array.dtype), results, is_leaf=lambda leaf: isinstance(leaf, Operand)
    )


def read(tree: Any, *at: Any) -> Any:
    """The values of references, at an index or all."""
    return jax.tree.map(lambda ref: ref[at or ...], tree)


def write(tree: Any, values: Any, *at: Any) -> None:
    """Puts values where references point, at an index or all."""
    jax.tree.map(lambda ref, value: ref.__setitem__(at or ..., value), tree, values)


def vmem() -> int:
    """Bytes of VMEM of a core."""
    return pltpu.get_tpu_info().vmem_capacity_bytes if jax.default_backend() == "tpu" else LEAST_VMEM


class Plan:
    """A kernel's operands and results, and how they are cut.

    Attributes:
      operands, results: pytrees of `Operand`.
      block: rows at a time.
      chunk: steps at a time; none where VMEM has no room for one.
      resident: bytes that stay in VMEM for all steps.
    """

    def __init__(self, operands: Any, results: Callable[[int], Any], steps: int, rows: int, reverse: bool) -> None:
        self.steps, self.rows, self.reverse = steps, rows, reverse
        self.block = next((size for size in ROWS if rows > ROWS[0] and rows % size == 0), rows)
        self.operands, self.results = operands, results(rows // self.block)
        everything = self._leaves(operands) + self._leaves(self.results)
        # The pipeline holds two blocks of each, but for what is the same in all of them.
        size = lambda o: (2 if o.axes else 1) * o.padded_bytes(self.block)
        streamed = sum(size(o) for o in everything if o.axes == "TB")
        self.resident = sum(size(o) for o in everything if o.axes != "TB")
        self.chunk = min(steps, STEPS, (int(SHARE * vmem()) - self.resident) // streamed)

    @staticmethod
    def _leaves(tree: Any) -> list[Operand]:
        return jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, Operand))

    def _spec(self, operand: Operand) -> pl.BlockSpec:
        """Which part of an operand is at hand in which block of rows and chunk of steps."""
        shape = operand.array.shape
        last = pl.cdiv(self.steps, self.chunk) - 1
        if operand.axes == "TB":
            zeros = (0,) * (len(shape) - 2)
            place = lambda b, t: (last - t if self.reverse else t, b, *zeros)
            return pl.BlockSpec((self.chunk, self.block, *shape[2:]), place)
        zeros = (0,) * (len(shape) - len(operand.axes))
        if operand.axes:
            size = self.block if operand.axes == "B" else None
            return pl.BlockSpec((size, *shape[1:]), lambda b, t: (b, *zeros))
        return pl.BlockSpec(shape, lambda b, t: zeros, pipeline_mode=pl.Buffered(1))

    def _aliases(self, given: list[Operand], wanted: list[Operand]) -> dict[int, int]:
        """Which operand lies where which result will."""
        if self.steps % self.chunk:
            return {}  # Pallas's interpreter takes no such arrays with a chunk that is cut off
        place = {id(operand): i for i, operand in enumerate(given)}
        return {place[id(result.over)]: i for i, result in enumerate(wanted) if result.over is not None}

    def run(self, begin: Callable[[Any, Any], None], step: Callable[[Any, Any, Any], None], interpret: Any) -> Any:
        """The results, after `begin(operands, results)` for each block of rows, then `step(operands, results, t)`s.

        Both see references to blocks; `t` is a step's place in its chunk. `interpret` is that of `pl.pallas_call`.
        """
        given, wanted = self._leaves(self.operands), self._leaves(self.results)
        is_leaf = lambda leaf: isinstance(leaf, Operand)
        structures = [jax.tree.structure(tree, is_leaf=is_leaf) for tree in (self.operands, self.results)]
        chunks = pl.cdiv(self.steps, self.chunk)

        def kernel(*refs: Any) -> None:
            ins = jax.tree.unflatten(structures[0], refs[: len(given)])
            outs = jax.tree.unflatten(structures[1], refs[len(given) :])
            turn = pl.program_id(1)
            pl.when(turn == 0)(lambda: begin(ins, outs))
            chunk = chunks - 1 - turn if self.reverse else turn
            count = jnp.minimum(self.chunk, self.steps - chunk * self.chunk)
            lax.fori_loop(0, count, lambda i, _: step(ins, outs, count - 1 - i if self.reverse else i), None)

        # What streams is made of the inputs, so that it varies over a mesh as all of them do.
        streamed = next(operand.array for operand in given if operand.axes == "TB")
        out = pl.pallas_call(
            kernel,
            grid=(self.rows // self.block, chunks),
            in_specs=[self._spec(operand) for operand in given],
            out_specs=[self._spec(operand) for operand in wanted],
            out_shape=[result_like(streamed, o.array.shape, o.array.dtype) for o in wanted],
            input_output_aliases=self._aliases(given, wanted),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=vmem()
            ),
            interpret=interpret,
        )(*[varying_like(operand.array, streamed) for operand in given])
        return jax.tree.unflatten(structures[1], out)


def _whole(size: int, unit: int) -> int:
    """The size, rounded up to a multiple of the unit."""
    return -(-size // unit) * unit
