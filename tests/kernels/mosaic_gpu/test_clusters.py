"""`mosaic_gpu` in clusters of several blocks: held to `scan`, with races looked for."""

import os
import subprocess
import sys

import pytest

from tests.kernels.mosaic_gpu.given import needs_mosaic


@needs_mosaic
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize(
    ("name", "blocks", "rows", "operand"),
    [("learned_start", 4, 20, "by_units"), ("mgu", 2, 3, "by_units"), ("gru", 4, 20, "by_rows")],
)
def test_blocks_of_a_cluster_meet_without_a_race(
    name: str, blocks: int, rows: int, operand: str, direction: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.mosaic_gpu.clusters", name, str(blocks), str(rows), operand, direction],
        env=os.environ | {"NPROC": "8", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "equal"
    assert "race" not in (done.stdout + done.stderr).lower()
