"""`mosaic_gpu` lowered for GPUs, with gradients, maps and checkpoints: it is as many kernels as it should be."""

from typing import Any

import jax
import pytest

import recurrent_jax as rj
from recurrent_jax.kernels import mosaic_gpu
from recurrent_jax.kernels.contract import Inputs, Options
from tests import cases
from tests.kernels.mosaic_gpu.given import HALF, inputs, kernels_of, loss_of, needs_mosaic


@needs_mosaic
@pytest.mark.parametrize(
    ("dtype", "units", "blocks", "rows"),
    [
        *[(dtype, *cut) for dtype in ("bfloat16", "float16") for cut in [(64, 1, 16), (128, 4, 32), (512, 16, 16)]],
        *[("float32", *cut) for cut in [(64, 2, 16), (128, 4, 16), (100, 4, 16)]],
    ],
)
@pytest.mark.parametrize("kind", [rj.RNN, rj.LSTM, rj.PeepholeLSTM, rj.GRU, cases.MGU, cases.LearnedStart])
def test_gradient_lowers_to_two_kernels(kind: Any, dtype: Any, units: int, blocks: int, rows: int) -> None:
    cell = kind(units, param_dtype=dtype)
    given = inputs(cell, 64)
    gradient = jax.grad(loss_of(cell, Options(reverse=True, return_carries=True)), (0, 1, 2))
    with mosaic_gpu.tiled(blocks, rows):
        assert kernels_of(gradient, *given[:3], given) == 2


@needs_mosaic
@pytest.mark.parametrize(("cell", "blocks", "rows"), [(rj.GRU(128, **HALF), 4, 64), (rj.RNN(64), 1, 32)], ids=str)
def test_gradient_of_many_rows_lowers_to_two_kernels(cell: Any, blocks: int, rows: int) -> None:
    given = inputs(cell, 1024, flags=False)
    with mosaic_gpu.tiled(blocks, rows):
        assert kernels_of(jax.grad(loss_of(cell), (0, 1, 2)), *given[:3], given) == 2


@needs_mosaic
@pytest.mark.parametrize("mapped", [("xs",), ("params",)], ids=["rows", "weights"])
def test_map_and_checkpoint_lower_to_kernels(mapped: tuple[str, ...]) -> None:
    cell = rj.GRU(64, **HALF)
    given = inputs(cell, flags=False)
    gradient = jax.grad(jax.checkpoint(loss_of(cell)), (0, 1, 2))
    three = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct((3, *a.shape), a.dtype), tree)
    args = [three(tree) if name in mapped else tree for name, tree in zip(Inputs._fields, given[:3], strict=False)]
    axes = [0 if name in mapped else None for name in Inputs._fields[:3]]
    assert kernels_of(jax.vmap(gradient, (*axes, None)), *args, given) == 2
    twice = jax.vmap(jax.vmap(gradient, (*axes, None)), (*axes, None))
    assert kernels_of(twice, *(three(a) if m is not None else a for a, m in zip(args, axes, strict=True)), given) == 2


@needs_mosaic
def test_a_program_with_it_is_exported() -> None:
    cell = rj.LSTM(64, **HALF)
    given = inputs(cell, flags=False)
    run = jax.jit(lambda params, xs, carry: mosaic_gpu.run(cell, Inputs(params, xs, carry), Options()).ys)
    with jax.enable_x64(False):
        exported = jax.export.export(run, platforms=["cuda"])(*given[:3])
    loaded = jax.export.deserialize(exported.serialize())
    assert loaded.out_avals[0].shape == (6, 16, 64)
