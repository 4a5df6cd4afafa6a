"""The two kernels over time in Pallas's Mosaic GPU.

A cluster of thread blocks owns some rows of the batch for all steps; each of its blocks owns some units, and
keeps its slice of the recurrent weights in shared memory. Arrays are `[..., k, units, rows]`: weights are the
left operand of `wgmma`, whose tile has at least 64 rows, and the batch is the right one, which can be narrow. In
float32 that one lies as `[rows, units]`.

Forward, a step: r = W_h h for the block's units and all gates; `pointwise`; the new h goes through global memory
to all blocks of the cluster, which a barrier of the cluster separates from the next step.

Backward, a step: the cotangents of the pre-activations of the block's units; their part of W_h^T dr for all units
goes through global memory; after the barrier each block adds up all parts for its own units.

What a step reads comes ahead of time by TMA, and what it gives leaves by TMA.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from recurrent_jax.kernels.mosaic_gpu.block import (
    Block,
    Program,
    copies,
    left_operand,
    matmul,
    plgpu,
    resident,
    right_operand,
    run,
    slots,
)
from recurrent_jax.kernels.mosaic_gpu.tiling import SLOTS, UNITS
from recurrent_jax.kernels.mosaic_gpu.units import Pieces


def forward(program: Program, advance: Callable[..., Any], operands: Any, results: Any) -> Any:
    """The outputs, and where `results` has them the carries that each step consumed and the pre-activations.

    Args:
      advance: `(own, start, z, r, keep, reset, initial) -> (new, following, y, pre)` by units.
      operands: `w [P, rows of a block's matmul, H]`, `own`, `carry`, `initial`, and of `steps` `z`, `keep` and
        `reset`, the last one that of the step to come.
      results: shapes of `last`, `ys`, `pre`, `carries` and `starts`; one of these may be None.
    """
    tiling = program.tiling
    saves, alone = results["starts"] is not None, tiling.blocks == 1
    # Where the new h of a step meets those of other blocks: in `starts`, or by itself, two steps by turns.
    apart = not alone and (tiling.by_rows or not saves)
    if apart:
        ring = (program.rows, tiling.all_units) if tiling.by_rows else (tiling.all_units, program.rows)
        results = results | {"exchange": jax.ShapeDtypeStruct((2, *ring), program.dtype)}
    staged = {name: results[name] for name in ("ys", "pre", "carries")}
    scratch = {
        "w": left_operand(tiling.matmul_rows, tiling.all_units, program),
        "h": right_operand(tiling.all_units, program),
        "own_h": right_operand(tiling.block_units, program) if apart else None,
        "r": plgpu.SMEM((tiling.matmul_rows, tiling.rows), program.exact),
        "own": resident(operands["own"], program),
        "start": resident(operands["carry"], program),
        "initial": resident(operands["initial"], program),
        "steps": slots(operands["steps"], program),
        "staged": resident(staged, program, lead=1),
        "arrived": plgpu.Barrier(num_arrivals=1 + copies(operands, "own", "carry", "initial")),
        "step_arrived": plgpu.Barrier(num_arrivals=copies(operands, "steps", lead=1), num_barriers=SLOTS),
        "h_arrived": plgpu.Barrier(),
    }

    def body(ins: Any, outs: Any, own: Any) -> None:
        block = Block(program, own["cluster"])
        places = (("own", "own"), ("carry", "start"), ("initial", "initial"))
        block.begin(ins, own, *((ins[source], own[target]) for source, target in places))
        plgpu.barrier_wait(own["arrived"])

        # Where a step leaves its part of h as an operand; None where h goes out to the others from `start`.
        mine = own["h"] if alone else own["own_h"]

        def publish(turn: Any) -> None:
            """Sends out what the step of a turn will consume, first what other blocks wait for."""
            if apart:
                plgpu.copy_smem_to_gmem(mine, block.of_operand(outs["exchange"], turn % 2, units=block.units))
            if saves:
                block.send(own["start"], outs["starts"], program.at(turn))

        def gather(turn: Any, others: int) -> None:
            """Waits until all blocks have published, but not for so many groups of copies after that; fetches h."""
            plgpu.wait_smem_to_gmem(others, wait_read_only=False)
            block.meet()
            where = (outs["exchange"], turn % 2) if apart else (outs["starts"].h, program.at(turn), 0)
            plgpu.copy_gmem_to_smem(block.of_operand(*where), own["h"], own["h_arrived"])

        if mine is not None:
            block.write_operand(mine, 0, block.read(own["start"].h)[0])
            plgpu.commit_smem()
        publish(0)
        if not alone:
            gather(0, others=0)

        def step(turn: Any, _: Any) -> None:
            slot, goes_on = turn % SLOTS, turn + 1 < program.steps
            if not alone:
                plgpu.barrier_wait(own["h_arrived"])
            matmul(own["w"], own["h"], own["r"], program)
            plgpu.commit_smem()
            plgpu.barrier_wait(own["step_arrived"].at[slot])
            gates = [pl.ds(gate * tiling.block_units, tiling.block_units) for gate in range(tiling.gates)]
            r = Pieces(block.load(own["r"].at[gate]) for gate in gates)
            keep, reset = (block.flag(own["steps"][name], slot) for name in ("keep", "reset"))
            params, start, initial = (block.read(own[name]) for name in ("own", "start", "initial"))
            z = block.read(own["steps"]["z"], slot)
            new, following, y, pre = advance(params, start, z, r, keep, reset, initial)
            # The last ones have to have left shared memory before it is written anew.
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            block.write(own["start"], following)
            if mine is not None:
                block.write_operand(mine, 0, following.h[0])
            carries = None if staged["carries"] is None else new
            block.write(own["staged"], {"ys": y, "pre": None if staged["pre"] is None else pre, "carries": carries})
            plgpu.commit_smem()
            pl.when(goes_on)(lambda: publish(turn + 1))
            block.send(own["staged"], {name: outs[name] for name in staged}, program.at(turn))
            pl.when(turn + SLOTS < program.steps)(lambda: block.fetch_step(ins, own, turn + SLOTS))
            if not alone:
                # What others wait for was sent first, before `starts` or as part of it; `staged` was the last group.
                pl.when(goes_on)(lambda: gather(turn + 1, others=2 if apart and saves else 1))

        lax.fori_loop(0, program.steps, step, None)
        block.send(own["start"], outs["last"])
        plgpu.wait_smem_to_gmem(0)

    return run(program, body, operands, results, scratch)


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
    # The cotangents that do not leave from where the matmul reads them.
    others = results["d_pre"] if tiling.by_rows else results["d_pre"][:-1]
    scratch = {
        "w": left_operand(tiling.all_units, tiling.matmul_rows, program),
        "d_r": right_operand(tiling.matmul_rows, program),
        "parts": plgpu.SMEM((tiling.all_units, tiling.rows), program.exact),
        "own": resident(operands["own"], program),
        "state": resident(results["state"], program),
        "steps": slots(operands["steps"], program),
        "others": resident(others, program, lead=1),
        "arrived": plgpu.Barrier(num_arrivals=1 + copies(operands, "own", "d_last")),
        "step_arrived": plgpu.Barrier(num_arrivals=copies(operands, "steps", lead=1), num_barriers=SLOTS),
        "parts_arrived": plgpu.Barrier(),
    }

    def body(ins: Any, outs: Any, own: Any) -> None:
        block = Block(program, own["cluster"])
        block.begin(ins, own, (ins["own"], own["own"]), (ins["d_last"], own["state"].carry))
        zeros = jnp.zeros((tiling.block_units, tiling.rows), program.exact)
        for ref in jax.tree.leaves((own["state"].own, own["state"].initial)):
            block.write(ref, Pieces([zeros] * ref.shape[0]))
        for row in range(gates, tiling.matmul_rows, UNITS):
            block.write_operand(own["d_r"], row, zeros[:UNITS])
        plgpu.barrier_wait(own["arrived"])

        def step(turn: Any, _: Any) -> None:
            slot = turn % SLOTS
            plgpu.barrier_wait(own["step_arrived"].at[slot])
            steps = own["steps"]
            keep, reset = (block.flag(steps[name], slot) for name in ("keep", "reset"))
            names = ("starts", "pre", "d_ys", "d_carries")
            start, pre, d_y, d_after = (block.read(steps[name], slot) for name in names)
            params, state = block.read(own["own"]), block.read(own["state"])
            half, d_pre = pull_back(params, state, start, pre, d_y, d_after, keep)
            # The last ones have to have left shared memory before it is written anew.
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            for gate, piece in enumerate(d_pre[-1]):
                block.write_operand(own["d_r"], gate * tiling.block_units, piece)
            block.write(own["others"], d_pre[: len(others)])
            plgpu.commit_smem()
            block.send(own["others"], outs["d_pre"][: len(others)], program.at(turn), commit=False)
            for pieces in outs["d_pre"][len(others) :]:
                block.send_rows(own["d_r"], pieces, program.at(turn))
            plgpu.commit_smem_to_gmem_group()
            matmul(own["w"], own["d_r"], own["parts"], program)
            plgpu.commit_smem()
            if not alone:
                for other, units in enumerate(blocks):
                    target = outs["parts"].at(block.tile, turn % 2, other, block.number)
                    plgpu.copy_smem_to_gmem(own["parts"].at[units], target, commit_group=False)
                plgpu.commit_smem_to_gmem_group()
            pl.when(turn + SLOTS < program.steps)(lambda: block.fetch_step(ins, own, turn + SLOTS))
            if not alone:
                plgpu.wait_smem_to_gmem(0, wait_read_only=False)
                block.meet()
                source = outs["parts"].at(block.tile, turn % 2, block.number)
                plgpu.copy_gmem_to_smem(source, own["parts"], own["parts_arrived"])
                plgpu.barrier_wait(own["parts_arrived"])
            d_h = functools.reduce(jnp.add, [block.load(own["parts"].at[units]) for units in blocks])
            block.write(own["state"], pull_start(half, Pieces([d_h]), keep, reset))

        lax.fori_loop(0, program.steps, step, None)
        plgpu.commit_smem()
        block.send(own["state"], outs["state"])
        plgpu.wait_smem_to_gmem(0)

    return run(program, body, operands, results, scratch)
