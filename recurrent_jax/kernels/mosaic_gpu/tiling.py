"""How units and rows are shared out among the blocks of a GPU."""

import math
from typing import NamedTuple

# Shared memory that a block of Hopper can have, less what barriers and the compiler take.
SHARED = 227 * 1024 - 2048
# Blocks of a cluster, at most.
BLOCKS = 16
# Those that any GPU can have in a cluster.
PORTABLE = 8
# What has run on a GPU: blocks of a cluster, and units of a block.
TRIED = (1, 2, 4, 8, 16), (32, 64)
# Units that a block can own: whole rows of the tiles in which matmul operands lie.
UNITS = 32
# Rows that a cluster can own: what one row of a swizzled matmul operand in two-byte numbers can hold.
ROWS = (16, 32, 64)
# Rows of `wgmma`.
MATMUL = 64
# Sums of a matmul in registers at a time: 32 in each of 128 threads.
SUMS = 32 * 128
# Processors of a GPU that does not say how many it has.
PROCESSORS = 132
# Processors that can be one cluster, of each group of them that is whole.
GROUP = 16
# Cycles that things take, the mean of both kernels, as measured on an H200: a `wgmma` of 64 rows and 16 units, and what
# each row of the batch adds to it; a step besides, and what each number that a thread owns adds to it; an exchange, the
# bytes of parts that it moves in a cycle, and what it takes longer where blocks meet and fence.
MULTIPLY, MULTIPLY_ROW, STEP, NUMBER, EXCHANGE, EXCHANGE_BYTES, THROUGH = 20, 0.25, 800, 150, 1000, 18, 1500
# Steps that are fetched ahead, the one that runs among them.
SLOTS = 2


class Tiling(NamedTuple):
    """How a kernel is cut.

    Attributes:
      gates: G, columns of the recurrent matmul for each unit.
      units: H as the cell has it.
      blocks: blocks of a cluster, each of which owns `block_units` units for all steps.
      block_units: units of a block; those past the last one are copies of it.
      rows: rows of a cluster.
      by_rows: whether the right operand of a matmul lies as `[rows, units]`, where all else is `[units, rows]`:
        `wgmma` turns numbers of two bytes alone.
      direct: whether blocks leave their parts of dh in each other's shared memory, rather than in global memory.
    """

    gates: int
    units: int
    blocks: int
    block_units: int
    rows: int
    by_rows: bool
    direct: bool

    @property
    def all_units(self) -> int:
        """H with what fills the last block."""
        return self.blocks * self.block_units

    @property
    def matmul_rows(self) -> int:
        """Rows of a block's matmul: its gates, filled up to whole tiles."""
        return _whole(self.gates * self.block_units, MATMUL)

    @property
    def sums_at_a_time(self) -> int:
        """Rows of a matmul whose sums registers hold at a time."""
        return max(SUMS // self.rows // MATMUL * MATMUL, MATMUL)

    def all_rows(self, rows: int) -> int:
        """B with what fills the last cluster."""
        return _whole(rows, self.rows)

    @property
    def collective(self) -> bool:
        """Whether each block sends its h to all of the cluster at a time: rows of an operand, not columns of one."""
        return self.blocks > 1 and not self.by_rows

    @property
    def places(self) -> int:
        """Steps whose h a block holds: what others send it may come while it still reads the last one."""
        return 2 if self.collective else 1

    def fitted(self, forward: "Held", backward: "Held", itemsize: int, exact: int) -> tuple["Tiling", int]:
        """This one, or the one without a mailbox where it does not fit otherwise, and the bytes that it takes."""
        sizes = {cut: cut.shared(forward, backward, itemsize, exact) for cut in (self, self._replace(direct=False))}
        return next(((cut, size) for cut, size in sizes.items() if size <= SHARED), list(sizes.items())[-1])

    def shared(self, forward: "Held", backward: "Held", itemsize: int, exact: int) -> int:
        """Bytes of shared memory that the larger of the two kernels takes, less its barriers.

        Args:
          forward, backward: what they hold beside the operands and the result of their matmuls.
          itemsize, exact: bytes of a number of a matmul's operands, and of its result.
        """
        own, pieces = self.block_units * self.rows, [forward, backward]
        held = [own * (SLOTS * piece.of_a_step + piece.of_all) for piece in pieces]
        held[0] += self.places * self.all_units * self.rows * itemsize + self.matmul_rows * self.rows * exact
        held[1] += self.matmul_rows * self.rows * itemsize + self.all_units * self.rows * exact
        if self.direct:  # what leaves lies apart from what comes, and so does a barrier
            held[1] += min(self.sums_at_a_time, self.all_units) * self.rows * exact + 8
        if self.by_rows:  # h for the other blocks, and dr as it leaves the kernel, lie apart from the operands
            held[0] += own * itemsize if self.blocks > 1 else 0
            held[1] += own * itemsize * self.gates
        return self.matmul_rows * self.all_units * itemsize + max(held)


class Held(NamedTuple):
    """Bytes that a kernel holds for each unit and row of a block.

    Attributes:
      of_a_step: what is fetched for one step.
      of_all: what stays, and what a step sends out.
    """

    of_a_step: int = 0
    of_all: int = 0


def candidates(gates: int, units: int, rows: int, by_rows: bool) -> list[Tiling]:
    """All ways to cut it; units are filled up to whole tiles of the backward matmul, or to what more blocks divide."""
    found = []
    for whole in (MATMUL, 2 * MATMUL, 4 * MATMUL, 8 * MATMUL):
        parts = _whole(units, whole) // UNITS
        for blocks in range(1, min(parts, BLOCKS) + 1):
            if parts % blocks == 0:
                size = parts // blocks * UNITS
                fits = [fit for fit in ROWS if fit < rows + ROWS[0]]
                found += [Tiling(gates, units, blocks, size, fit, by_rows, blocks > 1) for fit in fits]
    return list(dict.fromkeys(found))


def waves(tiling: Tiling, rows: int, processors: int) -> int:
    """How often all clusters that run at a time have to be followed by others.

    Args:
      rows: of the batch.
      processors: of the GPU; each runs a block.
    """
    # A cluster lies within one group of processors.
    at_a_time = processors if tiling.blocks == 1 else processors // GROUP * (GROUP // tiling.blocks)
    clusters = tiling.all_rows(rows) // tiling.rows
    return math.ceil(clusters / max(at_a_time, 1))


def cycles(tiling: Tiling, rows: int, processors: int) -> float:
    """Cycles that a step is expected to take, times `waves`."""
    multiplied = tiling.matmul_rows // MATMUL * tiling.all_units / 16
    step = multiplied * (MULTIPLY + MULTIPLY_ROW * tiling.rows)
    step += STEP + NUMBER * tiling.block_units * tiling.rows / 128
    if tiling.blocks > 1:
        # In one of the two kernels they exchange parts of float32.
        step += EXCHANGE + tiling.all_units * tiling.rows * 4 / EXCHANGE_BYTES / 2
        step += THROUGH * ((not tiling.direct) + tiling.by_rows) / 2
    return waves(tiling, rows, processors) * step


def _whole(size: int, unit: int) -> int:
    """The size, rounded up to a multiple of the unit."""
    return -(-size // unit) * unit
