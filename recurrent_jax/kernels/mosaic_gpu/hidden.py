"""How the blocks of a cluster give each other h: each computes it for its own units, and multiplies all of it."""

from typing import Any

import jax
from jax.experimental import pallas as pl

from recurrent_jax.cells.base import Array
from recurrent_jax.kernels.mosaic_gpu.block import Block, Program, plgpu, right_operand


class Hidden:
    """The h that each step consumes.

    It goes through global memory: where carries are saved, through `starts`, as a part of them. Else, and where the
    operand of a matmul lies otherwise than they do, apart from them, in a ring of two steps. A cluster of one block
    sends nothing.

    Attributes:
      block, own, outs: where the kernel runs, its shared memory and its results.
    """

    def __init__(self, block: Block, own: Any, outs: Any) -> None:
        self.program, self.block, self.own, self.outs = block.program, block, own, outs
        self.alone, self.apart = block.program.tiling.blocks == 1, own["own_h"] is not None
        # Where a step leaves its part as an operand; None where it goes out from `start`.
        self.mine = own["h"].at[0] if self.alone else own["own_h"]

    @staticmethod
    def between(program: Program, saves: bool) -> dict[str, Any]:
        """Global memory that it needs besides `starts`, which are there where it `saves`."""
        tiling = program.tiling
        if tiling.blocks == 1 or (saves and not tiling.by_rows):
            return {}
        ring = (program.rows, tiling.all_units) if tiling.by_rows else (tiling.all_units, program.rows)
        return {"exchange": jax.ShapeDtypeStruct((2, *ring), program.dtype)}

    @staticmethod
    def scratch(program: Program, saves: bool) -> dict[str, Any]:
        """Shared memory and barriers that it needs."""
        tiling, apart = program.tiling, bool(Hidden.between(program, saves))
        return {
            "h": right_operand(tiling.all_units, program, tiling.places),
            "own_h": right_operand(tiling.block_units, program) if apart else None,
            "h_arrived": plgpu.Barrier(num_barriers=tiling.places),
        }

    def write(self, piece: Array) -> None:
        """Leaves the block's part where it is sent from, but for what is in `start` anyway."""
        if self.mine is not None:
            self.block.write_operand(self.mine, 0, piece)

    def publish(self, turn: Any, goes_on: Any = True) -> None:
        """Sends out what the step of a turn will consume, if there is one; first, since other blocks wait for it."""

        def send() -> None:
            if self.apart:
                target = self.block.of_operand(self.outs["exchange"], turn % 2, units=self.block.units)
                plgpu.copy_smem_to_gmem(self.mine, target)
            else:
                self.block.send(self.own["start"].h, self.outs["starts"].h, self.program.at(turn))

        if not self.alone:
            pl.when(goes_on)(send)

    def gather(self, turn: Any, goes_on: Any = True) -> None:
        """Begins to fetch all of it; each block sends its own part to all, once it is where it can be read."""

        def fetch() -> None:
            outs, slot = self.outs, turn % self.program.tiling.places
            where = (outs["exchange"], turn % 2) if self.apart else (outs["starts"].h, self.program.at(turn), 0)
            plgpu.wait_smem_to_gmem(0, wait_read_only=False)
            self.block.gather(self.block.of_operand(*where), self.own["h"].at[slot], self.own["h_arrived"].at[slot])

        if not self.alone:
            pl.when(goes_on)(fetch)

    def rest(self, carry: Any) -> Any:
        """What of a carry is not sent out by `publish`."""
        return carry if self.mine is not None else carry._replace(h=None)

    def operand(self, turn: Any) -> Any:
        """What the step of a turn multiplies, when it is there."""
        slot = turn % self.program.tiling.places
        if not self.alone:
            plgpu.barrier_wait(self.own["h_arrived"].at[slot])
        return self.own["h"].at[slot]
