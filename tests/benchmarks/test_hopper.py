"""What is measured of a Hopper GPU: that it is lowered, and that the exchange exchanges."""

import os
import subprocess
import sys

import jax
import pytest

from tests.cases import NO_MOSAIC

pytestmark = pytest.mark.skipif(bool(NO_MOSAIC), reason=NO_MOSAIC)
# Five turns, each of which adds one to what came back; the last but one lies behind the last.
EXCHANGE = """
import jax.numpy as jnp
from benchmarks.hopper import exchange, meeting, plgpu
for kernel, expected in ((meeting(2), [5]), (exchange(2, 64, False), [5, 4])):
    got = kernel(5, plgpu.InterpretGPUParams())(jnp.zeros(kernel.given.shape, kernel.given.dtype))
    assert (got.reshape(len(expected), -1) == jnp.array(expected)[:, None]).all(), got
"""


def test_everything_is_lowered(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.hopper import LAYERS, constants, rehearse

    with jax.enable_x64(False):
        assert rehearse() == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert all(line.endswith(": lowered") for line in lines)
    assert len(lines) >= len(constants(132)) + 2 * len(LAYERS)


def test_what_is_exchanged_arrives() -> None:
    # As in tests/kernels/mosaic_gpu/clusters.py.
    done = subprocess.run(
        [sys.executable, "-c", EXCHANGE], env=os.environ | {"NPROC": "8", "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
