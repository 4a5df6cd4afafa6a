"""The two kernels over time in Pallas's Mosaic GPU: all that names it is here, since it changes with each JAX.

A cluster of thread blocks owns some rows of the batch for all steps; each of its blocks owns some units, and
keeps its slice of the recurrent weights in shared memory. All arrays are `[..., k, units, rows]`: weights are
the left operand of `wgmma`, whose tile has at least 64 rows, and the batch is the right one, which can be narrow.

Forward, a step: r = W_h h for the block's units and all gates; `pointwise`; the new h goes through global memory
to all blocks of the cluster, which a barrier of the cluster separates from the next step.

Backward, a step: the cotangents of the pre-activations of the block's units; their part of W_h^T dr for all units
goes through global memory; after the barrier each block adds up all parts for its own units.

What a step reads comes ahead of time by TMA, and what it gives leaves by TMA.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.mosaic.gpu.core import LoweringSemantics
from jax.experimental.pallas import mosaic_gpu

from recurrent_jax.cells.base import Array
from recurrent_jax.kernels.mesh import varying_like
from recurrent_jax.kernels.mosaic_gpu.tiling import MATMUL, SLOTS, UNITS, Tiling
from recurrent_jax.kernels.mosaic_gpu.units import Pieces

plgpu: Any = mosaic_gpu  # whose types are other ones with each JAX
InterpretParams = getattr(plgpu, "InterpretGPUParams", None)  # which JAX 0.10 does not have

# Names of the grid that no user gives to an axis.
_TILES, _BLOCKS = "mosaic_gpu tiles", "mosaic_gpu blocks"
# Sums of a matmul in registers at a time: 32 in each of 128 threads.
SUMS = 32 * 128


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


def forward(program: Program, advance: Callable[..., Any], operands: Any, results: Any) -> Any:
    """The outputs, and where `results` has them the carries that each step consumed and the pre-activations.

    Args:
      advance: `(own, start, z, r, keep, reset, initial) -> (new, following, y, pre)` by units.
      operands: `w [P, rows of a block's matmul, H]`, `own`, `carry`, `initial`, and of `steps` `z`, `keep` and
        `reset`, the last one that of the step to come.
      results: shapes of `last`, `ys`, `pre`, `carries` and `starts`; one of these may be None.
    """
    tiling, dtype = program.tiling, program.dtype
    saves, alone = results["starts"] is not None, tiling.blocks == 1
    # Where the new h of a step meets those of other blocks; without `starts`, two steps by turns.
    if not saves and not alone:
        ring = jax.ShapeDtypeStruct((2, 1, tiling.all_units, program.rows), dtype)
        results = results | {"exchange": ring}
    staged = {name: results[name] for name in ("ys", "pre", "carries")}
    scratch = {
        "w": _operand(tiling.matmul_rows, tiling.all_units, program),
        "h": _operand(tiling.all_units, tiling.rows, program),
        "r": plgpu.SMEM((tiling.matmul_rows, tiling.rows), program.exact),
        "own": _resident(operands["own"], program),
        "start": _resident(operands["carry"], program),
        "initial": _resident(operands["initial"], program),
        "steps": _slots(operands["steps"], program),
        "staged": _resident(staged, program, lead=1),
        "arrived": plgpu.Barrier(num_arrivals=1 + _copies(operands, "own", "carry", "initial")),
        "step_arrived": plgpu.Barrier(num_arrivals=_copies(operands, "steps", lead=1), num_barriers=SLOTS),
        "h_arrived": plgpu.Barrier(),
    }

    def body(ins: Any, outs: Any, own: Any) -> None:
        block = _Block(program, own["cluster"])
        fetch = lambda turn: block.fetch_step(ins["steps"], own["steps"], own["step_arrived"], turn)
        plgpu.copy_gmem_to_smem(ins["w"].at(block.number), own["w"], own["arrived"])
        for source, target in (("own", "own"), ("carry", "start"), ("initial", "initial")):
            block.fetch(ins[source], own[target], own["arrived"])
        for turn in range(min(SLOTS, program.steps)):
            fetch(turn)
        plgpu.barrier_wait(own["arrived"])

        def publish(turn: Any) -> None:
            """Sends out what the step of a turn will consume."""
            if saves:
                block.send(own["start"], outs["starts"], program.at(turn))
            elif not alone:
                block.send(own["start"].h, outs["exchange"], turn % 2)

        def gather(turn: Any, others: int) -> None:
            """Waits until all blocks have published, but not for so many groups of copies after that; fetches h."""
            plgpu.wait_smem_to_gmem(others, wait_read_only=False)
            block.meet()
            where, at = (outs["starts"].h, program.at(turn)) if saves else (outs["exchange"], turn % 2)
            plgpu.copy_gmem_to_smem(where.at(at, 0, rows=block.rows), own["h"], own["h_arrived"])

        publish(0)
        if alone:
            own["h"][...] = _read(own["start"].h)[0]
            plgpu.commit_smem()
        else:
            gather(0, others=0)

        def step(turn: Any, _: Any) -> None:
            slot, goes_on = turn % SLOTS, turn + 1 < program.steps
            if not alone:
                plgpu.barrier_wait(own["h_arrived"])
            _matmul(own["w"], own["h"], own["r"], program)
            plgpu.commit_smem()
            plgpu.barrier_wait(own["step_arrived"].at[slot])
            gates = [pl.ds(gate * tiling.block_units, tiling.block_units) for gate in range(tiling.gates)]
            r = Pieces(_load(own["r"].at[gate]) for gate in gates)
            keep, reset = (_flag(own["steps"][name], slot) for name in ("keep", "reset"))
            params, start, initial = (_read(own[name]) for name in ("own", "start", "initial"))
            z = _read(own["steps"]["z"], slot)
            new, following, y, pre = advance(params, start, z, r, keep, reset, initial)
            # The last ones have to have left shared memory before it is written anew.
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            _write(own["start"], following)
            if alone:
                own["h"][...] = _stored(following.h[0], program.dtype)
            carries = None if staged["carries"] is None else new
            _write(own["staged"], {"ys": y, "pre": None if staged["pre"] is None else pre, "carries": carries})
            plgpu.commit_smem()
            pl.when(goes_on)(lambda: publish(turn + 1))
            block.send(own["staged"], {name: outs[name] for name in staged}, program.at(turn))
            pl.when(turn + SLOTS < program.steps)(lambda: fetch(turn + SLOTS))
            if not alone:
                pl.when(goes_on)(lambda: gather(turn + 1, others=1))

        lax.fori_loop(0, program.steps, step, None)
        block.send(own["start"], outs["last"])
        plgpu.wait_smem_to_gmem(0)

    return _run(program, body, operands, results, scratch)


def backward(
    program: Program, pull_back: Callable[..., Any], pull_start: Callable[..., Any], operands: Any, results: Any
) -> Any:
    """The last state, and the cotangents of the pre-activations.

    Args:
      pull_back: `(own, state, start, pre, d_y, d_after, keep) -> (half, d_pre)` by units.
      pull_start: `(half, d_h, keep, reset) -> state` by units.
      operands: `w [P, H, rows of a block's matmul]`, `own`, `d_last`, and of `steps` `starts`, `pre`, `d_ys`,
        `d_carries`, `keep` and `reset`.
      results: shapes of `state` and `d_pre`.
    """
    tiling = program.tiling
    gates = tiling.gates * tiling.block_units
    # What each block has for each other one of W_h^T dr, of two steps by turns.
    parts = (program.tiles, 2, tiling.blocks, tiling.blocks, tiling.block_units, tiling.rows)
    blocks = [pl.ds(start, tiling.block_units) for start in range(0, tiling.all_units, tiling.block_units)]
    alone = tiling.blocks == 1
    if not alone:
        results = results | {"parts": jax.ShapeDtypeStruct(parts, program.exact)}
    *others, _ = results["d_pre"]
    scratch = {
        "w": _operand(tiling.all_units, tiling.matmul_rows, program),
        "d_r": _operand(tiling.matmul_rows, tiling.rows, program),
        "parts": plgpu.SMEM((tiling.all_units, tiling.rows), program.exact),
        "own": _resident(operands["own"], program),
        "state": _resident(results["state"], program),
        "steps": _slots(operands["steps"], program),
        "others": _resident(others, program, lead=1),
        "arrived": plgpu.Barrier(num_arrivals=1 + _copies(operands, "own", "d_last")),
        "step_arrived": plgpu.Barrier(num_arrivals=_copies(operands, "steps", lead=1), num_barriers=SLOTS),
        "parts_arrived": plgpu.Barrier(),
    }

    def body(ins: Any, outs: Any, own: Any) -> None:
        block = _Block(program, own["cluster"])
        fetch = lambda turn: block.fetch_step(ins["steps"], own["steps"], own["step_arrived"], turn)
        plgpu.copy_gmem_to_smem(ins["w"].at(block.number), own["w"], own["arrived"])
        block.fetch(ins["own"], own["own"], own["arrived"])
        block.fetch(ins["d_last"], own["state"].carry, own["arrived"])
        for turn in range(min(SLOTS, program.steps)):
            fetch(turn)
        shape = (tiling.block_units, tiling.rows)
        zeros = plgpu.layout_cast(jnp.zeros(shape, program.exact), _layout())
        for ref in jax.tree.leaves((own["state"].own, own["state"].initial)):
            _write(ref, Pieces([zeros] * ref.shape[0]))
        for row in range(gates, tiling.matmul_rows, UNITS):
            own["d_r"][pl.ds(row, UNITS)] = zeros[:UNITS].astype(program.dtype)
        plgpu.barrier_wait(own["arrived"])

        def step(turn: Any, _: Any) -> None:
            slot = turn % SLOTS
            plgpu.barrier_wait(own["step_arrived"].at[slot])
            steps = own["steps"]
            keep, reset = (_flag(steps[name], slot) for name in ("keep", "reset"))
            start, pre, d_y, d_after = (_read(steps[name], slot) for name in ("starts", "pre", "d_ys", "d_carries"))
            params, state = _read(own["own"]), _read(own["state"])
            half, d_pre = pull_back(params, state, start, pre, d_y, d_after, keep)
            # The last ones have to have left shared memory before it is written anew.
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            for gate, piece in enumerate(d_pre[-1]):
                own["d_r"][pl.ds(gate * tiling.block_units, tiling.block_units)] = _stored(piece, program.dtype)
            _write(own["others"], d_pre[:-1])
            plgpu.commit_smem()
            block.send(own["others"], outs["d_pre"][:-1], program.at(turn), commit=False)
            block.send_rows(own["d_r"], outs["d_pre"][-1], program.at(turn))
            _matmul(own["w"], own["d_r"], own["parts"], program)
            plgpu.commit_smem()
            if not alone:
                for other, units in enumerate(blocks):
                    target = outs["parts"].at(block.tile, turn % 2, other, block.number)
                    plgpu.copy_smem_to_gmem(own["parts"].at[units], target, commit_group=False)
                plgpu.commit_smem_to_gmem_group()
            pl.when(turn + SLOTS < program.steps)(lambda: fetch(turn + SLOTS))
            if not alone:
                plgpu.wait_smem_to_gmem(0, wait_read_only=False)
                block.meet()
                source = outs["parts"].at(block.tile, turn % 2, block.number)
                plgpu.copy_gmem_to_smem(source, own["parts"], own["parts_arrived"])
                plgpu.barrier_wait(own["parts_arrived"])
            d_h = functools.reduce(jnp.add, [_load(own["parts"].at[units]) for units in blocks])
            _write(own["state"], pull_start(half, Pieces([d_h]), keep, reset))

        lax.fori_loop(0, program.steps, step, None)
        plgpu.commit_smem()
        block.send(own["state"], outs["state"])
        plgpu.wait_smem_to_gmem(0)

    return _run(program, body, operands, results, scratch)


class _Array:
    """An array `[..., units, rows]` in global memory. It lies there as a matrix: copies know few dimensions."""

    def __init__(self, ref: Any, shape: tuple[int, ...]) -> None:
        self.ref, self.shape = ref, shape

    def at(self, *index: Any, units: Any = None, rows: Any = None) -> Any:
        """Some units and rows, at an index of the axes before these; without all of its numbers, all that follow."""
        *lead, size, _ = self.shape
        place: Any = 0
        for number, length in zip(index, lead, strict=False):
            place = place * length + number
        following = math.prod(lead[len(index) :]) * size
        start, size = (0, following) if units is None else (units.start, units.size)
        return self.ref.at[pl.ds(place * following + start, size), slice(None) if rows is None else rows]


class _Block:
    """A block as it runs: which it is, and how its part of arrays comes and goes."""

    def __init__(self, program: Program, cluster: Any) -> None:
        self.program, self.cluster = program, cluster
        self.tile, self.number = lax.axis_index(_TILES), lax.axis_index(_BLOCKS)
        tiling = program.tiling
        self.units = pl.ds(self.number * tiling.block_units, tiling.block_units)
        self.rows = pl.ds(self.tile * tiling.rows, tiling.rows)

    def _part(self, array: "_Array", *at: Any) -> Any:
        """The block's part of an array; what is the same for all units or rows has only a block's."""
        units = self.units if array.shape[-2] == self.program.tiling.all_units else None
        rows = self.rows if array.shape[-1] == self.program.rows else None
        return array.at(*at, units=units, rows=rows)

    def fetch(self, sources: Any, targets: Any, barrier: Any, at: Any = (), slot: Any = ()) -> None:
        """Begins copies into shared memory."""

        def one(source: Any, target: Any) -> None:
            for piece in range(target.shape[-3]):
                plgpu.copy_gmem_to_smem(self._part(source, *at, piece), target.at[(*slot, piece)], barrier)

        jax.tree.map(one, sources, targets)

    def fetch_step(self, sources: Any, targets: Any, barriers: Any, turn: Any) -> None:
        """Begins copies of what a step reads."""
        slot = turn % SLOTS
        self.fetch(sources, targets, barriers.at[slot], (self.program.at(turn),), (slot,))

    def send(self, sources: Any, targets: Any, *at: Any, commit: bool = True) -> None:
        """Begins copies out of shared memory, one group where `commit` closes it."""

        def one(source: Any, target: Any) -> None:
            for piece in range(source.shape[0]):
                plgpu.copy_smem_to_gmem(source.at[piece], self._part(target, *at, piece), commit_group=False)

        jax.tree.map(one, sources, targets)
        if commit:
            plgpu.commit_smem_to_gmem_group()

    def send_rows(self, source: Any, target: Any, at: Any) -> None:
        """Begins copies of pieces that lie one below the other as an operand of a matmul, and closes the group."""
        units = self.program.tiling.block_units
        for piece in range(target.shape[1]):
            rows = source.at[pl.ds(piece * units, units)]
            plgpu.copy_smem_to_gmem(rows, self._part(target, at, piece), commit_group=False)
        plgpu.commit_smem_to_gmem_group()

    def meet(self) -> None:
        """Waits for the other blocks of the cluster."""
        if self.cluster is not None:
            meet(self.cluster, self.program.interpret is None)


def meet(cluster: Any, fenced: bool) -> None:
    """Waits for the other blocks of the cluster; `fenced`, what they have copied to global memory can be fetched then.

    PTX orders the barrier's arrival only within a block, and copies only within one block's own.
    """
    if fenced:
        _fence("fence.proxy.async.global; fence.acq_rel.cluster;")
    plgpu.barrier_arrive(cluster)
    plgpu.barrier_wait(cluster)
    if fenced:
        _fence("fence.acq_rel.cluster; fence.proxy.async.global;")


def _fence(instructions: str) -> None:
    """What Pallas has no name for; its interpreter neither."""
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import llvm

    @plgpu.inline_mgpu()
    def inline(_: Any) -> None:
        llvm.inline_asm(ir.Type.parse("!llvm.void"), [], instructions, "", has_side_effects=True)

    inline()


def _run(program: Program, body: Callable[..., None], operands: Any, results: Any, scratch: Any) -> Any:
    """The results of `body(operands, results, scratch)`, pytrees of `_Array` and of shared memory."""
    given, given_structure = jax.tree.flatten(operands)
    wanted, wanted_structure = jax.tree.flatten(results)
    shapes = [leaf.shape for leaf in (*given, *wanted)]
    as_matrix = lambda shape: (math.prod(shape[:-1]), shape[-1])

    def flat(*refs: Any, **own: Any) -> None:
        arrays = [_Array(*each) for each in zip(refs, shapes, strict=True)]
        ins = jax.tree.unflatten(given_structure, arrays[: len(given)])
        outs = jax.tree.unflatten(wanted_structure, arrays[len(given) :])
        body(ins, outs, own)

    blocks = program.tiling.blocks
    kernel = plgpu.kernel(
        flat,
        out_type=[jax.ShapeDtypeStruct(as_matrix(leaf.shape), leaf.dtype) for leaf in wanted],
        scratch_types=scratch | {"cluster": plgpu.ClusterBarrier(collective_axes=(_BLOCKS,)) if blocks > 1 else None},
        grid=(program.tiles,),
        grid_names=(_TILES,),
        cluster=(blocks,),
        cluster_names=(_BLOCKS,),
        compiler_params=plgpu.CompilerParams(lowering_semantics=LoweringSemantics.Warpgroup),
        **({} if program.interpret is None else {"interpret": program.interpret}),
    )
    out = kernel(*[leaf.reshape(as_matrix(leaf.shape)) for leaf in given])
    # Mosaic says of no result that it varies over a mesh: as the steps do, which are made of the inputs.
    steps = jax.tree.leaves(operands["steps"])[0]
    out = [varying_like(a.reshape(leaf.shape), steps) for a, leaf in zip(out, wanted, strict=True)]
    return jax.tree.unflatten(wanted_structure, out)


def _matmul(left: Any, right: Any, target: Any, program: Program) -> None:
    """The product of two operands in shared memory, as many rows at a time as leave registers for the rest."""
    rows, columns = left.shape[0], program.tiling.rows
    some = max(SUMS // columns // MATMUL * MATMUL, MATMUL)
    for start in range(0, rows, some):
        size = min(some, rows - start)
        tile = pl.ds(start, size)

        def multiply(sums: Any, tile: Any = tile) -> Array:
            plgpu.wgmma(sums, left.at[tile], right)
            return sums[...]

        target[tile] = pl.run_scoped(multiply, plgpu.ACC((size, columns), program.exact))


def _swizzle(program: Program) -> int:
    """Bytes of a row of the tiles in which matmul operands lie: no more than a row of the batch operand."""
    return min(128, program.tiling.rows * jnp.dtype(program.dtype).itemsize)


def _operand(rows: int, columns: int, program: Program) -> Any:
    """Shared memory for an operand of a matmul."""
    swizzle = _swizzle(program)
    tiles = plgpu.TilingTransform((8, swizzle // jnp.dtype(program.dtype).itemsize))
    return plgpu.SMEM((rows, columns), program.dtype, transforms=(tiles, plgpu.SwizzleTransform(swizzle)))


def _layout() -> Any:
    """That of units by rows in registers which can be stored as rows of an operand of a matmul.

    Each thread has four numbers in a row: 16 bytes of float32, as many as it loads or stores at a time.
    """
    return plgpu.Layout.SMEM_GMEM_COPY((UNITS, 16), jnp.bfloat16, 32)


def _resident(tree: Any, program: Program, lead: int = 0) -> Any:
    """Shared memory for a block's part of arrays `[..., k, units, rows]`, without so many first axes."""
    tiling = program.tiling
    return jax.tree.map(lambda a: plgpu.SMEM((*a.shape[lead:-2], tiling.block_units, tiling.rows), a.dtype), tree)


def _slots(tree: Any, program: Program) -> Any:
    """Shared memory for a few steps of arrays `[T, k, units, rows]`."""
    tiling = program.tiling
    return jax.tree.map(lambda a: plgpu.SMEM((SLOTS, a.shape[1], tiling.block_units, tiling.rows), a.dtype), tree)


def _copies(operands: Any, *names: str, lead: int = 0) -> int:
    """How many copies fetch a block's part of these: one for each piece."""
    return sum(leaf.shape[lead] for leaf in jax.tree.leaves([operands[name] for name in names]))


def _load(ref: Any) -> Array:
    """Units by rows of shared memory, in registers: all pieces in the one layout that suits operands of a matmul."""
    return plgpu.layout_cast(ref[...], _layout())


def _read(tree: Any, *slot: Any) -> Any:
    """The pieces in shared memory."""
    one = lambda ref: Pieces(_load(ref.at[(*slot, piece)]) for piece in range(ref.shape[-3]))
    return jax.tree.map(one, tree)


def _flag(ref: Any, slot: Any) -> Array | None:
    return None if ref is None else _load(ref.at[slot, 0]) != 0


def _stored(piece: Array, dtype: Any) -> Array:
    """A piece as it is stored: in the one layout, which a constant would have the compiler search for."""
    return plgpu.layout_cast(piece.astype(dtype), _layout())


def _write(tree: Any, values: Any) -> None:
    """Puts pieces into shared memory."""

    def one(ref: Any, pieces: Pieces) -> None:
        for number, piece in enumerate(pieces):
            ref[number] = _stored(piece, ref.dtype)

    jax.tree.map(one, tree, values)
