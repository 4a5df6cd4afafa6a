"""What is measured of a Hopper GPU: that it is lowered, and that the exchange exchanges."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import recurrent_jax as rj
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
    from benchmarks.hopper import LAYERS, constants, fastest, layer, rehearse

    with jax.enable_x64(False):
        assert rehearse() == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert all(line.endswith(": lowered") for line in lines)
    cuts = [len(fastest(*layer(*each))) for each in LAYERS]
    assert max(cuts) > 1
    assert len(lines) == len(constants(132)) + sum(cuts)


def test_what_is_exchanged_arrives() -> None:
    # As in tests/kernels/mosaic_gpu/clusters.py.
    done = subprocess.run(
        [sys.executable, "-c", EXCHANGE], env=os.environ | {"NPROC": "8", "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_can_not_be_measured_says_why(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import hopper

    def counted(turns: int) -> Any:
        return lambda x: jax.lax.fori_loop(0, turns, lambda _, x: x + 1, x)

    def broken(turns: int) -> Any:
        def kernel(_: Any) -> Any:
            raise ValueError("not lowered")

        return kernel

    for kernel in (counted, broken):
        kernel.given = jax.ShapeDtypeStruct((8,), jnp.float32)  # type: ignore[attr-defined]
    known = {"grid of 132": broken, "meeting of 2": counted, "exchange of 64 units by 2": broken}
    monkeypatch.setattr(hopper, "constants", lambda _: known)
    monkeypatch.setattr(hopper, "LAYERS", [(rj.RNN, 64, 16)])
    monkeypatch.setattr(hopper, "STEPS", 4)
    # Cuts run here too: as what they compute on another device.
    assert hopper.measure(tmp_path / "found.json", minutes=5) == 2
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["name"] for row in found["constants"]] == ["meeting of 2", "exchange of 64 units by 2", "grid of 132"]
    assert found["constants"][0]["turn_s"] < 1
    assert found["constants"][1]["error"] == found["constants"][2]["error"] == "ValueError: not lowered"
    assert {row["cell"] for row in found["cuts"]} == {str(rj.RNN(64, param_dtype=jnp.bfloat16))}
    assert all(row["step_s"] > 0 for row in found["cuts"])
