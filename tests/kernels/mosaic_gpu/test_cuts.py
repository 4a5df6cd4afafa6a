"""How `mosaic_gpu` is cut into blocks, and the shared memory that a block takes."""

import contextlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import recurrent_jax as rj
from recurrent_jax.kernels import mosaic_gpu
from recurrent_jax.kernels.contract import Options
from recurrent_jax.kernels.mosaic_gpu import tiling
from tests import cases
from tests.kernels.mosaic_gpu.given import HALF, inputs, loss_of, needs_mosaic


@pytest.mark.parametrize("rows", [1, 16, 17, 500])
@pytest.mark.parametrize("units", [1, 64, 100, 512, 640, 1000])
def test_every_cut_has_a_place_for_every_unit_and_row(units: int, rows: int) -> None:
    cuts = tiling.candidates(4, units, rows, by_rows=False)
    assert {cut.blocks for cut in cuts} >= {1, 2}
    for cut in cuts:
        assert cut.all_units >= units
        assert cut.block_units % tiling.UNITS == cut.all_units % tiling.MATMUL == cut.matmul_rows % tiling.MATMUL == 0
        assert 1 <= cut.blocks <= tiling.BLOCKS
        assert cut.all_rows(rows) >= rows
        assert cut.rows < rows + 16


@needs_mosaic
@pytest.mark.usefixtures("on_hopper")
@pytest.mark.parametrize(
    ("cell", "rows", "blocks"),
    [
        (rj.RNN(64, **HALF), 16, 1),  # all of it in one block, which nobody has to wait for
        (rj.LSTM(256, **HALF), 16, 8),
        (rj.LSTM(512, **HALF), 64, 16),
        (rj.GRU(512, **HALF), 64, 16),
        (rj.RNN(1024, **HALF), 16, 16),
        (rj.LSTM(256), 16, 8),
    ],
    ids=str,
)
def test_the_chosen_cut_fits(cell: Any, rows: int, blocks: int) -> None:
    given = inputs(cell, rows, flags=False)
    assert mosaic_gpu.refuses(cell, given, Options()) is None
    chosen = mosaic_gpu._chosen(cell, given, Options())
    assert chosen is not None
    assert chosen.blocks == blocks


@needs_mosaic
def test_the_interpreter_has_one_block_by_default() -> None:
    # Those of a cluster wait for each other, in as many threads as a machine has cores.
    with mosaic_gpu.interpreted():
        chosen = mosaic_gpu._chosen(rj.LSTM(512), inputs(rj.LSTM(512)), Options())
    assert chosen is not None
    assert chosen.blocks == 1


@needs_mosaic
@pytest.mark.parametrize("within", [mosaic_gpu.interpreted, contextlib.nullcontext], ids=["interpreted", "compiled"])
@pytest.mark.parametrize("flags", [False, True], ids=["plain", "flags"])
@pytest.mark.parametrize(("units", "blocks", "rows"), [(64, 1, 16), (100, 4, 16), (256, 8, 16)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", [rj.RNN, rj.PeepholeLSTM, rj.GRU, cases.LearnedStart])
def test_shared_memory_is_what_the_kernels_take(
    kind: Any, dtype: str, units: int, blocks: int, rows: int, flags: bool, within: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recurrent_jax.kernels.mosaic_gpu import kernels

    taken = []

    def run(program: Any, _: Any, operands: Any, results: Any, scratch: Any, between: Any) -> Any:
        """Instead of the kernel: what it would take."""
        buffers = [leaf for leaf in jax.tree.leaves(scratch) if hasattr(leaf, "dtype")]
        taken.append(sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in buffers))
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), results)

    monkeypatch.setattr(kernels, "run", run)
    cell = kind(units, param_dtype=dtype)
    given, options = inputs(cell, 64, flags=flags), Options(return_carries=flags)
    with within(), mosaic_gpu.tiled(blocks, rows):
        jax.eval_shape(jax.grad(loss_of(cell, options), (0, 1, 2)), *given[:3], given)
        account = next(size for cut, size in mosaic_gpu._cuts(cell, given, options) if cut[2:5:2] == (blocks, rows))
    unsaved, forward, backward = taken  # JAX traces what is not differentiated first.
    assert unsaved <= forward
    assert account == max(forward, backward)
