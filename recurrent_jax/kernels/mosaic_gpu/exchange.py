"""How the blocks of a cluster add up W_h^T dr: each multiplies its own part of dr for all units, and owns a few sums.

`Direct` leaves what a block has for another one in that one's shared memory, `Through` goes through global memory, and
`Alone` has nothing to give away. Whoever owns a unit adds its parts in one order: results do not depend on timing.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from recurrent_jax.cells.base import Array
from recurrent_jax.kernels.mosaic_gpu.block import Block, Program, matmul, plgpu
from recurrent_jax.kernels.mosaic_gpu.mailbox import await_posted, open_mailbox, post, transforms


class Alone:
    """A cluster of one block.

    Attributes:
      program, block, own, outs: what the kernel runs for, where, its shared memory and its results.
    """

    def __init__(self, block: Block, own: Any, outs: Any) -> None:
        self.program, self.block, self.own, self.outs = block.program, block, own, outs

    @staticmethod
    def between(program: Program) -> dict[str, Any]:
        """Global memory that it needs."""
        del program
        return {}

    @staticmethod
    def scratch(program: Program) -> dict[str, Any]:
        """Shared memory and barriers that it needs."""
        return {"parts": plgpu.SMEM((program.tiling.all_units, program.tiling.rows), program.exact)}

    def begin(self) -> None:
        """Before the first step."""

    def send(self, turn: Any) -> None:
        """Multiplies what is in `d_r`, and begins to give away what others own."""
        matmul(self.own["w"], self.own["d_r"], self.own["parts"], self.program)
        plgpu.commit_smem()

    def sums(self, turn: Any) -> Array:
        """What all blocks have for the block's own units."""
        return self._sum(self.own["parts"])

    def _sum(self, parts: Any) -> Array:
        units = self.program.tiling.block_units
        blocks = [pl.ds(start, units) for start in range(0, self.program.tiling.all_units, units)]
        return functools.reduce(jnp.add, [self.block.load(parts.at[of_block]) for of_block in blocks])


class Through(Alone):
    """Through global memory, which holds the parts of two steps by turns."""

    @staticmethod
    def between(program: Program) -> dict[str, Any]:
        """What each block has for each other one."""
        tiling = program.tiling
        parts = (program.tiles, 2, tiling.blocks, tiling.blocks, tiling.block_units, tiling.rows)
        return {"parts": jax.ShapeDtypeStruct(parts, program.exact)}

    @staticmethod
    def scratch(program: Program) -> dict[str, Any]:
        """Parts as they leave, and as they come."""
        return Alone.scratch(program) | {"parts_arrived": plgpu.Barrier()}

    def send(self, turn: Any) -> None:
        """Begins copies out of shared memory, one for each block."""
        super().send(turn)
        block, units = self.block, self.program.tiling.block_units
        for other in range(self.program.tiling.blocks):
            target = self.outs["parts"].at(block.tile, turn % 2, other, block.number)
            source = self.own["parts"].at[pl.ds(other * units, units)]
            plgpu.copy_smem_to_gmem(source, target, commit_group=False)
        plgpu.commit_smem_to_gmem_group()

    def sums(self, turn: Any) -> Array:
        """Waits until all blocks have sent theirs, and fetches them."""
        plgpu.wait_smem_to_gmem(0, wait_read_only=False)
        self.block.meet()
        source = self.outs["parts"].at(self.block.tile, turn % 2, self.block.number)
        plgpu.copy_gmem_to_smem(source, self.own["parts"], self.own["parts_arrived"])
        plgpu.barrier_wait(self.own["parts_arrived"])
        return super().sums(turn)


class Direct(Alone):
    """From registers into the owner's shared memory, while the next rows are multiplied."""

    @staticmethod
    def scratch(program: Program) -> dict[str, Any]:
        """Some parts as they leave, and those of all blocks as they come."""
        tiling = program.tiling
        some = min(tiling.sums_at_a_time, tiling.all_units)
        return {
            "parts": plgpu.SMEM((some, tiling.rows), program.exact, transforms=transforms(tiling)),
            "mailbox": plgpu.SMEM((tiling.all_units, tiling.rows), program.exact, transforms=transforms(tiling)),
            "posted": plgpu.SMEM((2,), jnp.int32),
        }

    def begin(self) -> None:
        """Makes the mailbox, to which nobody posts before all blocks have arrived in `send`."""
        open_mailbox(self.own["posted"])

    def send(self, turn: Any) -> None:
        """Begins stores into the mailboxes, which are read by now."""
        own, tiling = self.own, self.program.tiling
        # What the last step got has been added up, by all threads.
        plgpu.barrier_arrive(self.block.cluster)
        size = own["parts"].shape[0]
        for start in range(0, tiling.all_units, size):
            some: Any = pl.ds(start, min(size, tiling.all_units - start))
            matmul(own["w"].at[some], own["d_r"], own["parts"].at[pl.ds(0, some.size)], self.program)
            if start == 0:
                plgpu.barrier_wait(self.block.cluster)
            post(own["parts"], own["mailbox"], own["posted"], some, tiling)

    def sums(self, turn: Any) -> Array:
        """Waits until all parts are there."""
        await_posted(self.own["posted"], turn % 2)
        return self._sum(self.own["mailbox"])


def exchange_of(program: Program) -> type[Alone]:
    """How these blocks exchange parts."""
    if program.tiling.blocks == 1:
        return Alone
    return Direct if program.tiling.direct else Through
