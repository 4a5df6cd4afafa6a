"""What `mosaic_gpu` computes where a program that has chosen it is lowered for another device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from recurrent_jax.kernels import mosaic_gpu
from tests import cases
from tests.kernels.mosaic_gpu.given import needs_mosaic

FLAGS = {"mask": cases.GAPS, "resets": cases.RESETS, "reverse": True, "return_carries": True}


def data(cell: Any, rows: tuple[int, ...]) -> tuple[Any, jax.Array]:
    """Parameters, and inputs of as many steps as the flags have."""
    params = cell.init(jax.random.key(0), 5)
    return params, jax.random.normal(jax.random.key(1), (len(cases.GAPS), *rows, 5)).astype(cell.compute_dtype)


@needs_mosaic
@pytest.mark.usefixtures("on_hopper")
@pytest.mark.parametrize("flags", [{}, FLAGS], ids=["plain", "flags"])
@pytest.mark.parametrize(
    ("cell", "tolerance"),
    [
        (rj.LSTM(100), 1e-5),
        (rj.GRU(40), 1e-5),
        (rj.PeepholeLSTM(128, param_dtype=jnp.bfloat16), 2e-2),
        (rj.RNN(64, param_dtype=jnp.float16), 2e-3),
        (cases.MGU(33), 1e-5),
        (cases.LearnedStart(32), 1e-5),
    ],
    ids=str,
)
def test_other_devices_compute_what_scan_does(cell: Any, tolerance: float, flags: dict[str, Any]) -> None:
    rows = cases.GAPS.shape[1:]

    def gradients(implementation: str) -> Any:
        def loss(params: Any, xs: Any, carry: Any) -> Any:
            out = rj.unroll(cell, params, xs, carry, implementation=implementation, **flags)
            return sum(jnp.sum(jnp.sin(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(out))

        params, xs = data(cell, rows)
        carry = jax.tree.map(lambda leaf: leaf + 0.1, cell.initial_carry(params, rows))
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(params, xs, carry)

    with jax.enable_x64(False):
        pairs = zip(jax.tree.leaves(gradients("mosaic_gpu")), jax.tree.leaves(gradients("scan")), strict=True)
        for got, expected in pairs:
            scale = np.abs(np.asarray(expected, np.float64)).max()
            np.testing.assert_allclose(
                np.asarray(got, np.float64), np.asarray(expected, np.float64), rtol=0, atol=tolerance * max(scale, 1)
            )


@needs_mosaic
@pytest.mark.usefixtures("on_hopper")
def test_a_program_is_exported_for_another_device() -> None:
    cell = rj.LSTM(64)
    with jax.enable_x64(False):
        params, xs = data(cell, (16,))
        run = lambda name: jax.jit(lambda params, xs: rj.unroll(cell, params, xs, implementation=name)[1])
        exported = jax.export.export(run("mosaic_gpu"), platforms=["cpu"])(params, xs)
        got = jax.export.deserialize(exported.serialize()).call(params, xs)
        np.testing.assert_allclose(got, run("scan")(params, xs), atol=1e-6)


@needs_mosaic
@pytest.mark.usefixtures("on_hopper")
def test_a_gpu_is_given_the_kernel_alone() -> None:
    cell = rj.LSTM(64)
    with jax.enable_x64(False):
        params, xs = data(cell, (16,))
        run = jax.jit(lambda params, xs: rj.unroll(cell, params, xs, implementation="mosaic_gpu")[1])
        text = run.trace(params, xs).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == 1
    assert "stablehlo.while" not in text


@pytest.mark.parametrize("default", ["cpu", None])
def test_the_default_device_is_the_one_that_is_set(default: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hopper:
        compute_capability = "9.0"

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda platform=None: [Hopper])
    with jax.default_device(default):
        reason = mosaic_gpu.elsewhere()
    assert reason == (default and "it runs on an NVIDIA GPU, and the default device is a cpu")
