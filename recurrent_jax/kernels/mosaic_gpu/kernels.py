"""The two kernels over time in Pallas's Mosaic GPU.

A cluster of thread blocks owns some rows of the batch for all steps; each of its blocks owns some units, and
keeps its slice of the recurrent weights in shared memory. Arrays are `[..., k, units, rows]`: weights are the
left operand of `wgmma`, whose tile has at least 64 rows, and the batch is the right one, which can be narrow. In
float32 that one lies as `[rows, units]`.

Forward, a step: r = W_h h for the block's units and all gates; `pointwise`; the new h goes through global memory
to all blocks of the cluster.

Backward, a step: the cotangents of the pre-activations of the block's units; their part of W_h^T dr for all units
goes to the blocks that own these; each block adds up all parts for its own units.

What a step reads comes ahead of time by TMA, and what it gives leaves by TMA. What threads of a block give each other
through shared memory (r, the state) needs nothing said here: Mosaic has them meet around each such store.
"""

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
from recurrent_jax.kernels.mosaic_gpu.exchange import exchange_of
from recurrent_jax.kernels.mosaic_gpu.hidden import Hidden
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
    tiling, saves = program.tiling, results["starts"] is not None
    staged = {name: results[name] for name in ("ys", "pre", "carries")}
    scratch = Hidden.scratch(program, saves) | {
        "w": left_operand(tiling.matmul_rows, tiling.all_units, program),
        "r": plgpu.SMEM((tiling.matmul_rows, tiling.rows), program.exact),
        "own": resident(operands["own"], program),
        "start": resident(operands["carry"], program),
        "initial": resident(operands["initial"], program),
        "steps": slots(operands["steps"], program),
        "staged": resident(staged, program, lead=1),
        "arrived": plgpu.Barrier(num_arrivals=1 + copies(operands, "own", "carry", "initial")),
        "step_arrived": plgpu.Barrier(num_arrivals=copies(operands, "steps", lead=1), num_barriers=SLOTS),
    }

    def body(ins: Any, outs: Any, own: Any) -> None:
        block = Block(program, own["cluster"])
        hidden = Hidden(block, own, outs)
        places = (("own", "own"), ("carry", "start"), ("initial", "initial"))
        block.begin(ins, own, *((ins[source], own[target]) for source, target in places))
        plgpu.barrier_wait(own["arrived"])

        def follow(turn: Any) -> None:
            """Sends out the rest of what the step of a turn will consume."""
            if saves:
                block.send(hidden.rest(own["start"]), hidden.rest(outs["starts"]), program.at(turn))

        if hidden.mine is not None:
            hidden.write(block.read(own["start"].h)[0])
            plgpu.commit_smem()
        hidden.publish(0)
        hidden.gather(0)
        follow(0)

        def step(turn: Any, _: Any) -> None:
            slot, goes_on = turn % SLOTS, turn + 1 < program.steps
            plgpu.barrier_wait(own["step_arrived"].at[slot])
            keep, reset = (block.flag(own["steps"][name], slot) for name in ("keep", "reset"))
            params, start, initial = (block.read(own[name]) for name in ("own", "start", "initial"))
            z = block.read(own["steps"]["z"], slot)
            matmul(own["w"], hidden.operand(turn), own["r"], program)
            gates = [pl.ds(gate * tiling.block_units, tiling.block_units) for gate in range(tiling.gates)]
            r = Pieces(block.load(own["r"].at[gate]) for gate in gates)
            new, following, y, pre = advance(params, start, z, r, keep, reset, initial)
            # The last ones have to have left shared memory before it is written anew.
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            # First what others wait for.
            block.write(own["start"].h, following.h)
            hidden.write(following.h[0])
            plgpu.commit_smem()
            hidden.publish(turn + 1, goes_on)
            block.write(own["start"]._replace(h=None), following._replace(h=None))
            carries = None if staged["carries"] is None else new
            block.write(own["staged"], {"ys": y, "pre": None if staged["pre"] is None else pre, "carries": carries})
            plgpu.commit_smem()
            hidden.gather(turn + 1, goes_on)
            pl.when(goes_on)(lambda: follow(turn + 1))
            block.send(own["staged"], {name: outs[name] for name in staged}, program.at(turn))
            pl.when(turn + SLOTS < program.steps)(lambda: block.fetch_step(ins, own, turn + SLOTS))

        lax.fori_loop(0, program.steps, step, None)
        block.send(own["start"], outs["last"])
        plgpu.wait_smem_to_gmem(0)

    return run(program, body, operands, results, scratch, Hidden.between(program, saves))


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
    tiling, exchange = program.tiling, exchange_of(program)
    gates = tiling.gates * tiling.block_units
    # The cotangents that do not leave from where the matmul reads them.
    others = results["d_pre"] if tiling.by_rows else results["d_pre"][:-1]
    scratch = exchange.scratch(program) | {
        "w": left_operand(tiling.all_units, tiling.matmul_rows, program),
        "d_r": right_operand(tiling.matmul_rows, program),
        "own": resident(operands["own"], program),
        "state": resident(results["state"], program),
        "steps": slots(operands["steps"], program),
        "others": resident(others, program, lead=1),
        "arrived": plgpu.Barrier(num_arrivals=1 + copies(operands, "own", "d_last")),
        "step_arrived": plgpu.Barrier(num_arrivals=copies(operands, "steps", lead=1), num_barriers=SLOTS),
    }

    def body(ins: Any, outs: Any, own: Any) -> None:
        block = Block(program, own["cluster"])
        parts = exchange(block, own, outs)
        block.begin(ins, own, (ins["own"], own["own"]), (ins["d_last"], own["state"].carry))
        parts.begin()
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
            # First what others wait for.
            parts.send(turn)
            block.send(own["others"], outs["d_pre"][: len(others)], program.at(turn), commit=False)
            for pieces in outs["d_pre"][len(others) :]:
                block.send_rows(own["d_r"], pieces, program.at(turn))
            plgpu.commit_smem_to_gmem_group()
            pl.when(turn + SLOTS < program.steps)(lambda: block.fetch_step(ins, own, turn + SLOTS))
            block.write(own["state"], pull_start(half, Pieces([parts.sums(turn)]), keep, reset))

        lax.fori_loop(0, program.steps, step, None)
        plgpu.commit_smem()
        block.send(own["state"], outs["state"])
        plgpu.wait_smem_to_gmem(0)

    return run(program, body, operands, results, scratch, exchange.between(program))
