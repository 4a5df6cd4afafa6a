"""A block of a kernel in Pallas's Mosaic GPU: how it is started, its memory, its copies, its matmuls, its meetings.

Arrays are `[..., k, units, rows]`, but for right operands of matmuls in float32. In registers units by rows have
one layout, in which they can be stored as rows of an operand. Mosaic changes with each JAX: it is named here, in
kernels.py, hidden.py and exchange.py alone.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.mosaic.gpu import fragmented_array
from jax.experimental.mosaic.gpu.core import LoweringSemantics
from jax.experimental.pallas import mosaic_gpu

from recurrent_jax.cells.base import Array
from recurrent_jax.kernels.mesh import varying_like
from recurrent_jax.kernels.mosaic_gpu.tiling import SLOTS, UNITS, Tiling
from recurrent_jax.kernels.mosaic_gpu.units import Pieces

plgpu: Any = mosaic_gpu  # whose types are other ones with each JAX
InterpretParams = getattr(plgpu, "InterpretGPUParams", None)  # which JAX 0.10 does not have

# Names of the grid that no user gives to an axis.
TILES, BLOCKS = "mosaic_gpu tiles", "mosaic_gpu blocks"


class Program(NamedTuple):
    """What both kernels are made for.

    Attributes:
      tiling: how units and rows are cut.
      steps, rows: T, and B with what fills the last cluster.
      reverse: whether it goes from the last step to the first.
      dtype, exact: of the operands of a matmul, and of its result.
      interpret: None to compile, or `InterpretParams` to imitate a GPU.
    """

    tiling: Tiling
    steps: int
    rows: int
    reverse: bool
    dtype: Any
    exact: Any
    interpret: Any

    @property
    def tiles(self) -> int:
        """Clusters."""
        return self.rows // self.tiling.rows

    def at(self, turn: Any) -> Any:
        """The step of a turn of the loop."""
        return self.steps - 1 - turn if self.reverse else turn


class GlobalArray:
    """An array `[..., units, rows]` or `[..., rows, units]` in global memory.

    It lies there as a matrix: copies know few dimensions.
    """

    def __init__(self, ref: Any, shape: tuple[int, ...]) -> None:
        self.ref, self.shape = ref, shape

    def at(self, *index: Any, down: Any = None, across: Any = None) -> Any:
        """A part of the last two axes, at an index of those before; without all of its numbers, all that follow."""
        *lead, size, _ = self.shape
        place: Any = 0
        for number, length in zip(index, lead, strict=False):
            place = place * length + number
        following = math.prod(lead[len(index) :]) * size
        start, size = (0, following) if down is None else (down.start, down.size)
        return self.ref.at[pl.ds(place * following + start, size), slice(None) if across is None else across]


class Block:
    """A block as it runs: which it is, and how its part of arrays comes and goes."""

    def __init__(self, program: Program, cluster: Any) -> None:
        self.program, self.cluster = program, cluster
        self.tile, self.number = lax.axis_index(TILES), lax.axis_index(BLOCKS)
        tiling = program.tiling
        self.units = pl.ds(self.number * tiling.block_units, tiling.block_units)
        self.rows = pl.ds(self.tile * tiling.rows, tiling.rows)

    def _part(self, array: GlobalArray, *at: Any) -> Any:
        """The block's part of an array; what is the same for all units or rows has only a block's."""
        units = self.units if array.shape[-2] == self.program.tiling.all_units else None
        rows = self.rows if array.shape[-1] == self.program.rows else None
        return array.at(*at, down=units, across=rows)

    def fetch(self, sources: Any, targets: Any, barrier: Any, at: Any = (), slot: Any = ()) -> None:
        """Begins copies into shared memory."""

        def one(source: Any, target: Any) -> None:
            for piece in range(target.shape[-3]):
                plgpu.copy_gmem_to_smem(self._part(source, *at, piece), target.at[(*slot, piece)], barrier)

        jax.tree.map(one, sources, targets)

    def fetch_step(self, ins: Any, own: Any, turn: Any) -> None:
        """Begins copies of what a step reads."""
        slot = turn % SLOTS
        self.fetch(ins["steps"], own["steps"], own["step_arrived"].at[slot], (self.program.at(turn),), (slot,))

    def begin(self, ins: Any, own: Any, *resident: tuple[Any, Any]) -> None:
        """Begins copies of the weights, of what stays, pairs of whence and whither, and of the first steps."""
        plgpu.copy_gmem_to_smem(ins["w"].at(self.number), own["w"], own["arrived"])
        for source, target in resident:
            self.fetch(source, target, own["arrived"])
        for turn in range(min(SLOTS, self.program.steps)):
            self.fetch_step(ins, own, turn)

    def send(self, sources: Any, targets: Any, *at: Any, commit: bool = True) -> None:
        """Begins copies out of shared memory, one group where `commit` closes it."""

        def one(source: Any, target: Any) -> None:
            for piece in range(source.shape[0]):
                plgpu.copy_smem_to_gmem(source.at[piece], self._part(target, *at, piece), commit_group=False)

        jax.tree.map(one, sources, targets)
        if commit:
            plgpu.commit_smem_to_gmem_group()

    def send_rows(self, source: Any, target: Any, at: Any) -> None:
        """Begins copies of pieces that lie one below the other as an operand of a matmul."""
        units = self.program.tiling.block_units
        for piece in range(target.shape[1]):
            rows = source.at[pl.ds(piece * units, units)]
            plgpu.copy_smem_to_gmem(rows, self._part(target, at, piece), commit_group=False)

    def of_operand(self, array: GlobalArray, *at: Any, units: Any = None) -> Any:
        """The cluster's rows of an array that lies as the right operand of a matmul, of all units or some."""
        down, across = (self.rows, units) if self.program.tiling.by_rows else (units, self.rows)
        return array.at(*at, down=down, across=across)

    def gather(self, source: Any, target: Any, barrier: Any) -> None:
        """Begins to fetch what all blocks of the cluster have sent to global memory, each its part of `source`.

        A copy for all blocks of the cluster is shared out among them by rows of the operand: each sends the others what
        it has written itself, and its own copies are in order. Otherwise they have to meet before.
        """
        if self.program.tiling.collective and self.program.interpret is None:
            plgpu.copy_gmem_to_smem(source, target, barrier, collective_axes=(BLOCKS,))
        else:
            self.meet()
            plgpu.copy_gmem_to_smem(source, target, barrier)

    def meet(self) -> None:
        """Waits for the other blocks of the cluster."""
        meet(self.cluster, self.program.interpret is None)

    def laid_out(self, piece: Array) -> Array:
        """Units by rows in registers, in the one layout that suits operands of a matmul."""
        return plgpu.layout_cast(piece, layout(self.program))

    def load(self, ref: Any) -> Array:
        """Units by rows of shared memory, in registers."""
        return self.laid_out(ref[...])

    def read(self, tree: Any, *slot: Any) -> Any:
        """The pieces in shared memory."""
        one = lambda ref: Pieces(self.load(ref.at[(*slot, piece)]) for piece in range(ref.shape[-3]))
        return jax.tree.map(one, tree)

    def flag(self, ref: Any, slot: Any) -> Array | None:
        """A mask or resets of a step in shared memory, the same for all units; None where there are none."""
        return None if ref is None else self.load(ref.at[slot, 0]) != 0

    def write(self, tree: Any, values: Any) -> None:
        """Puts pieces into shared memory."""

        def one(ref: Any, pieces: Pieces) -> None:
            for number, piece in enumerate(pieces):
                ref[number] = self.laid_out(piece.astype(ref.dtype))

        jax.tree.map(one, tree, values)

    def write_operand(self, ref: Any, start: int, piece: Array) -> None:
        """Puts units by rows into the right operand of a matmul, from this unit on."""
        program = self.program
        rounded = to_tf32(piece) if program.dtype == jnp.float32 else piece.astype(program.dtype)
        right(ref, program).at[pl.ds(start, piece.shape[0])][...] = self.laid_out(rounded)


def meet(cluster: Any, fenced: bool) -> None:
    """Waits for the other blocks of the cluster; `fenced`, what they have copied to global memory can be fetched then.

    PTX orders the barrier's arrival only within a block. Copies are ordered by waiting for them, which the block has
    done: their end is a fence of their own between what they write and what follows.
    """
    if fenced:
        _fence()
    plgpu.barrier_arrive(cluster)
    plgpu.barrier_wait(cluster)
    if fenced:
        _fence()


def _fence() -> None:
    """Orders a thread's reads and writes with those of other blocks of the cluster."""
    ptx("fence.acq_rel.cluster;")


def ptx(text: str, *refs: Any, number: Any = None, lie: Any = ()) -> None:
    """What Pallas has no name for, its interpreter neither: instructions of each thread.

    Args:
      refs, number: operands, addresses in shared memory and a number.
      lie: transforms of all of `refs` but the last, which is a barrier.
    """
    from jax.experimental.mosaic.gpu.utils import memref_ptr
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import llvm

    numbers = () if number is None else (number,)
    types = [*[plgpu.RefType(transforms=lie)] * (len(refs) - 1), *[plgpu.RefType()] * bool(refs)]

    @plgpu.inline_mgpu(arg_types=(*types, *[plgpu.Layout.WG_SPLAT] * len(numbers)))
    def inline(_: Any, *given: Any) -> None:
        word = ir.IntegerType.get_signless(32)
        operands = [llvm.ptrtoint(word, memref_ptr(ref)) for ref in given[: len(refs)]]
        operands += [each.registers.item() for each in given[len(refs) :]]
        constraints = ",".join(["r"] * len(operands) + ["~{memory}"])
        void = ir.Type.parse("!llvm.void")
        llvm.inline_asm(void, operands, f"{{{text}}}", constraints, has_side_effects=True)

    inline(*refs, *numbers)


def run(
    program: Program, body: Callable[..., None], operands: Any, results: Any, scratch: Any, between: dict[str, Any]
) -> Any:
    """The results of `body(operands, results, scratch)`, pytrees of `GlobalArray` and of shared memory.

    Args:
      between: more results, which only blocks read.
    """
    if program.dtype == jnp.float32:
        operands = operands | {"w": to_tf32(operands["w"])}
    given, given_structure = jax.tree.flatten(operands)
    wanted, wanted_structure = jax.tree.flatten(results | between)
    shapes = [leaf.shape for leaf in (*given, *wanted)]
    as_matrix = lambda shape: (math.prod(shape[:-1]), shape[-1])

    def flat(*refs: Any, **own: Any) -> None:
        arrays = [GlobalArray(*each) for each in zip(refs, shapes, strict=True)]
        ins = jax.tree.unflatten(given_structure, arrays[: len(given)])
        outs = jax.tree.unflatten(wanted_structure, arrays[len(given) :])
        body(ins, outs, own)

    blocks = program.tiling.blocks
    kernel = plgpu.kernel(
        flat,
        out_type=[jax.ShapeDtypeStruct(as_matrix(leaf.shape), leaf.dtype) for leaf in wanted],
        scratch_types=scratch | {"cluster": plgpu.ClusterBarrier(collective_axes=(BLOCKS,)) if blocks > 1 else None},
        grid=(program.tiles,),
        grid_names=(TILES,),
        cluster=(blocks,),
        cluster_names=(BLOCKS,),
        compiler_params=plgpu.CompilerParams(lowering_semantics=LoweringSemantics.Warpgroup),
        **({} if program.interpret is None else {"interpret": program.interpret}),
    )
    out = kernel(*[leaf.reshape(as_matrix(leaf.shape)) for leaf in given])
    # Mosaic says of no result that it varies over a mesh: as the steps do, which are made of the inputs.
    steps = jax.tree.leaves(operands["steps"])[0]
    out = [varying_like(a.reshape(leaf.shape), steps) for a, leaf in zip(out, wanted, strict=True)]
    out = jax.tree.unflatten(wanted_structure, out)
    return {name: out[name] for name in results}


def matmul(left: Any, batch: Any, target: Any, program: Program) -> None:
    """The product of two operands in shared memory, as many rows at a time as leave registers for the rest."""
    batch = right(batch, program)
    rows, columns = left.shape[0], program.tiling.rows
    for start in range(0, rows, program.tiling.sums_at_a_time):
        size = min(program.tiling.sums_at_a_time, rows - start)
        tile = pl.ds(start, size)

        def multiply(sums: Any, tile: Any = tile) -> Array:
            plgpu.wgmma(sums, left.at[tile], batch)
            return sums[...]

        target[tile] = pl.run_scoped(multiply, plgpu.ACC((size, columns), program.exact))


def to_tf32(numbers: Array) -> Array:
    """Float32 rounded to the 10 bits behind the point that `wgmma` reads: it would cut the others off."""
    bits = lax.bitcast_convert_type(numbers, jnp.int32)
    rounded = lax.bitcast_convert_type((bits + 0x1000) & ~0x1FFF, jnp.float32)
    return jnp.where(numbers == numbers, rounded, jnp.nan)  # which might be rounded to a number


def left_operand(rows: int, columns: int, program: Program) -> Any:
    """Shared memory for the left operand of a matmul."""
    return _operand((rows, columns), program)


def right_operand(units: int, program: Program, *lead: int) -> Any:
    """Shared memory for the right operand of a matmul, or some of them; `right` has it as units by rows."""
    rows = program.tiling.rows
    return _operand((*lead, rows, units) if program.tiling.by_rows else (*lead, units, rows), program)


def _operand(shape: tuple[int, ...], program: Program) -> Any:
    """Both have the same swizzle: no more bytes than a row of the right one."""
    tiling, itemsize = program.tiling, jnp.dtype(program.dtype).itemsize
    swizzle = 128 if tiling.by_rows else min(128, tiling.rows * itemsize)
    return plgpu.SMEM(shape, program.dtype, transforms=swizzled(swizzle, itemsize))


def swizzled(size: int, itemsize: int) -> tuple[Any, Any]:
    """Tiles of eight rows of so many bytes, without conflicts of banks."""
    return plgpu.TilingTransform((8, size // itemsize)), plgpu.SwizzleTransform(size)


def right(ref: Any, program: Program) -> Any:
    """The right operand of a matmul as units by rows, however it lies."""
    return ref.transpose((1, 0)) if program.tiling.by_rows else ref


def layout(program: Program) -> Any:
    """That of units by rows in registers which can be stored as rows of an operand of a matmul.

    Each thread has four numbers in a row: 16 bytes of float32, as many as it loads or stores at a time. What is stored
    by rows as well leaves a thread one number at a time: 16 rows of two units are what 32 threads have.
    """
    if program.tiling.by_rows:
        tiles = fragmented_array.Tiling(((UNITS, 16), (8, 16), (2, 16), (1,)))
        return plgpu.Layout.TILED(tiles, warp_dims=(-7,), lane_dims=(-3, -2), vector_dim=-1)
    return plgpu.Layout.SMEM_GMEM_COPY((UNITS, 16), jnp.bfloat16, 32)


def resident(tree: Any, program: Program, lead: int = 0) -> Any:
    """Shared memory for a block's part of arrays `[..., k, units, rows]`, without so many first axes."""
    tiling = program.tiling
    return jax.tree.map(lambda a: plgpu.SMEM((*a.shape[lead:-2], tiling.block_units, tiling.rows), a.dtype), tree)


def slots(tree: Any, program: Program) -> Any:
    """Shared memory for a few steps of arrays `[T, k, units, rows]`."""
    tiling = program.tiling
    return jax.tree.map(lambda a: plgpu.SMEM((SLOTS, a.shape[1], tiling.block_units, tiling.rows), a.dtype), tree)


def copies(operands: Any, *names: str, lead: int = 0) -> int:
    """How many copies fetch a block's part of these: one for each piece."""
    return sum(leaf.shape[lead] for leaf in jax.tree.leaves([operands[name] for name in names]))
