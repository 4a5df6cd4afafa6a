"""Every kernel on the device that JAX runs on, held to the float64 oracle; `make gpu-check` runs these on a GPU."""

import jax
import pytest

from benchmarks.cases import CASES, find
from benchmarks.cells import CELLS, HEADLINE
from benchmarks.contestants import ours
from benchmarks.contestants.base import Refused
from benchmarks.problem import FORWARD, GRADIENT, PADDED, STEP, Job, draw, error, tolerance, truth
from recurrent_jax.kernels import REGISTRY, mosaic_gpu

KERNELS = [kernel.NAME for kernel in REGISTRY]
RUNS = [
    (name, mode)
    for names, modes in ((ours.STEPS, [STEP]), (KERNELS, [FORWARD, GRADIENT]))
    for name in names
    for mode in modes
]
over_cells = pytest.mark.parametrize("cell", CELLS)
over_runs = pytest.mark.parametrize(("name", "mode"), RUNS)


def off(name: str, job: Job) -> float:
    """How far the answer of one of our implementations is from the oracle's."""
    try:
        program = ours.CONTESTANTS[name].build(job, draw(job, 1))
    except Refused as reason:
        pytest.skip(str(reason))
    return error(program.answer(), truth(job))


@over_runs
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@over_cells
def test_answer_equals_oracle(cell: str, dtype: str, name: str, mode: str) -> None:
    job = Job(cell, "small", CASES["small"], dtype, mode)
    assert off(name, job) <= tolerance(job, jax.default_backend())


def off_by_mosaic_gpu(job: Job) -> float:
    """As `off`; where the kernel could run, that it refuses is a failure."""
    if (reason := mosaic_gpu.elsewhere()) is not None:
        pytest.skip(reason)
    return error(ours.CONTESTANTS["mosaic_gpu"].build(job, draw(job, 1)).answer(), truth(job))


# Blocks and rows of a cluster: one block, clusters of all sizes, units and rows that fill no block.
CUTS = (
    ("bfloat16", "T=40,B=16,D=32,H=64", 1, 16), ("bfloat16", "T=40,B=48,D=64,H=256", 8, 16),
    ("bfloat16", "T=20,B=70,D=64,H=256", 8, 32), ("bfloat16", "T=20,B=70,D=64,H=128", 4, 64),
    ("bfloat16", "T=40,B=16,D=64,H=512", 16, 16), ("bfloat16", "T=9,B=5,D=7,H=200", 4, 16),
    ("bfloat16", "T=20,B=16,D=64,H=192", 6, 16), ("bfloat16", "T=20,B=16,D=64,H=384", 12, 16),
    ("float32", "T=40,B=16,D=32,H=64", 1, 16), ("float32", "T=40,B=48,D=64,H=256", 8, 16),
    ("float32", "T=20,B=70,D=64,H=128", 4, 32), ("float32", "T=9,B=5,D=7,H=100", 4, 16),
)  # fmt: skip


@pytest.mark.parametrize(("dtype", "case", "blocks", "rows"), CUTS)
@pytest.mark.parametrize("mode", [GRADIENT, PADDED])
@pytest.mark.parametrize("cell", ["RNN", "GRU"])
def test_mosaic_gpu_equals_oracle_however_it_is_cut(
    cell: str, mode: str, dtype: str, case: str, blocks: int, rows: int
) -> None:
    job = Job(cell, case, find(case), dtype, mode)
    with mosaic_gpu.tiled(blocks, rows):
        assert off_by_mosaic_gpu(job) <= tolerance(job, jax.default_backend())


@pytest.mark.parametrize("cell", ["RNN", "LSTM"])
def test_mosaic_gpu_equals_oracle_through_global_memory(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As where shared memory has no room for what other blocks send.
    candidates = mosaic_gpu.tiling.candidates
    through = lambda *args: [cut._replace(direct=False) for cut in candidates(*args)]
    monkeypatch.setattr(mosaic_gpu.tiling, "candidates", through)
    job = Job(cell, "through", find("T=40,B=24,D=64,H=256"), "bfloat16", GRADIENT)
    assert off_by_mosaic_gpu(job) <= tolerance(job, jax.default_backend())


@pytest.mark.parametrize(("dtype", "units"), [*(("bfloat16", units) for units in (64, 256, 512)), ("float32", 256)])
@pytest.mark.parametrize("cell", CELLS)
def test_mosaic_gpu_equals_oracle_by_its_own_cut(cell: str, dtype: str, units: int) -> None:
    if cell == "GRU-before":
        pytest.skip("it has two matmuls")
    # So many units at the kink of a ReLU that some take the other side, in `scan` as well: then gradients jump.
    mode = FORWARD if cell == "RNN-relu" else GRADIENT
    job = Job(cell, "cut", find(f"T=40,B=24,D=64,H={units}"), dtype, mode)
    assert off_by_mosaic_gpu(job) <= tolerance(job, jax.default_backend())


@over_runs
@over_cells
def test_answer_in_highest_precision_equals_oracle(cell: str, name: str, mode: str) -> None:
    with jax.default_matmul_precision("highest"):
        # Float32 throughout, seven steps, on any device.
        assert off(name, Job(cell, "tiny", CASES["tiny"], "float32", mode)) <= 1e-5


@pytest.mark.parametrize(("dtype", "units"), [("bfloat16", 512), ("float32", 256)])
@pytest.mark.parametrize("cell", HEADLINE)
def test_mosaic_gpu_gives_the_same_bits_each_time(cell: str, dtype: str, units: int) -> None:
    # Blocks that read before others have written would now and then give something else.
    job = Job(cell, "sequences", find(f"T=512,B=64,D=32,H={units}"), dtype, GRADIENT)
    try:
        program = ours.CONTESTANTS["mosaic_gpu"].build(job, draw(job, 1))
    except Refused as reason:
        pytest.skip(str(reason))
    first = program.answer()
    for _ in range(20):
        again = program.answer()
        assert all((again[name] == first[name]).all() for name in first)
