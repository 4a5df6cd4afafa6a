"""What `mosaic_gpu` refuses, and how it says so."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import recurrent_jax as rj
from recurrent_jax import kernels
from recurrent_jax.kernels import mosaic_gpu
from recurrent_jax.kernels.contract import Inputs, Options
from tests.kernels.mosaic_gpu.given import HALF, inputs, kernels_of, needs_mosaic


def refusal(cell: Any, given: Inputs | None = None) -> str | None:
    """Why it refuses the cell."""
    return mosaic_gpu.refuses(cell, inputs(cell) if given is None else given, Options())


def test_refuses_other_devices() -> None:
    assert refusal(rj.LSTM(64, **HALF)) == "it runs on an NVIDIA GPU, and the default device is a cpu"


def test_refuses_first_what_no_device_changes() -> None:
    assert "is more than one recurrent matmul" in str(refusal(rj.GRU(64, reset="before", **HALF)))
    assert "it multiplies bfloat16" in str(refusal(rj.LSTM(64, param_dtype=jnp.float64)))


def test_an_older_jax_has_no_interpreter_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 2))
    monkeypatch.setattr(jax, "__version__", "0.10.2")
    with pytest.raises(NotImplementedError, match=r"^mosaic_gpu: JAX 0\.10\.2: it takes 0\.11 or later$"):
        mosaic_gpu.interpreted().__enter__()


@needs_mosaic
def test_refuses_cuts_that_there_are_not() -> None:
    with mosaic_gpu.interpreted(), mosaic_gpu.tiled(2, 32):
        assert refusal(rj.LSTM(128)) == "128 units and 16 rows can't be cut into 2 blocks of 32 rows"


def test_refuses_other_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ampere:
        """As JAX describes it."""

        compute_capability, device_kind = "8.0", "NVIDIA A100"

    monkeypatch.setattr(jax, "devices", lambda *_: [Ampere])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert refusal(rj.LSTM(64, **HALF)) == "it runs on Hopper (compute capability 9.0), and NVIDIA A100 has 8.0"


@pytest.mark.usefixtures("on_hopper")
def test_refuses_an_older_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 2))
    monkeypatch.setattr(jax, "__version__", "0.10.2")
    assert refusal(rj.LSTM(64, **HALF)) == "JAX 0.10.2: it takes 0.11 or later"


class LayerNormalised(rj.PointwiseCell):
    """As a user writes it who takes `pointwise` for any function of a row."""

    def pointwise(self, params: Any, carry: rj.RNNCarry, z: jax.Array, r: jax.Array) -> tuple[rj.RNNCarry, jax.Array]:
        """Divides by the row's size."""
        h = jnp.tanh(z + r) / (1 + jnp.sqrt(jnp.sum(r**2, axis=-1, keepdims=True)))
        return rj.RNNCarry(h), h


class Ramp(rj.PointwiseCell):
    """A cell that makes a vector of numbers."""

    def pointwise(self, params: Any, carry: rj.RNNCarry, z: jax.Array, r: jax.Array) -> tuple[rj.RNNCarry, jax.Array]:
        """Another scale for each unit."""
        scales = [jnp.full((1,), unit, z.dtype) for unit in range(self.hidden_size)]
        h = jnp.tanh(z + r) * jnp.concatenate(scales).reshape((1,) * (z.ndim - 1) + (-1,))
        return rj.RNNCarry(h), h


@needs_mosaic
@pytest.mark.usefixtures("on_hopper")
@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (rj.LSTM(64, param_dtype=jnp.float64), "dtype float64: it multiplies bfloat16, float16, float32"),
        (rj.GRU(64, reset="before", **HALF), "is more than one recurrent matmul and an elementwise function"),
        (rj.LSTM(1024, **HALF), "4 x 1024 x 1024 weights of bfloat16: each of 16 blocks would take 6"),
        (LayerNormalised(64, **HALF), "`pointwise` has reduce_sum"),
        (Ramp(64, **HALF), "`pointwise` has concatenate of a single number"),
    ],
    ids=["dtype", "two matmuls", "too large", "mixes units", "numbers"],
)
def test_refuses_what_it_can_not_run(cell: Any, why: str) -> None:
    assert why in (refusal(cell) or "")


@needs_mosaic
@pytest.mark.usefixtures("on_hopper")
def test_refuses_sizes_left_open_and_other_carries() -> None:
    cell = rj.LSTM(64, **HALF)
    given = inputs(cell, flags=False)
    (steps,) = jax.export.symbolic_shape("steps")
    left_open = given._replace(xs=jax.ShapeDtypeStruct((steps, 16, 8), jnp.bfloat16))
    assert refusal(cell, left_open) == "xs of shape (steps, 16, 8): it needs sizes that are known"
    exact = given._replace(carry=given.carry._replace(h=jax.ShapeDtypeStruct((16, 64), jnp.float32)))
    assert refusal(cell, exact) == "the carry's h is float32[16, 64], not bfloat16"


@needs_mosaic
@pytest.mark.usefixtures("on_hopper")
@pytest.mark.parametrize("precision", [None, "default", "high", "tensorfloat32", "TF32_TF32_F32", "bfloat16"])
def test_takes_float32_where_it_may_be_rounded(precision: Any) -> None:
    with jax.default_matmul_precision(precision):
        assert refusal(rj.LSTM(64)) is None


@needs_mosaic
@pytest.mark.usefixtures("on_hopper")
@pytest.mark.parametrize("precision", ["highest", "float32", "F32_F32_F32", "BF16_BF16_F32_X3"])
def test_refuses_float32_that_may_not_be_rounded(precision: Any) -> None:
    with jax.default_matmul_precision(precision):
        assert refusal(rj.LSTM(64)) == f"matmul precision {precision}: it rounds float32 to TF32"
        assert refusal(rj.LSTM(64, **HALF)) is None


class ManyHeads(rj.PointwiseCell):
    """A cell with a carry of two axes."""

    def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> Any:
        """A vector, and a matrix that nothing changes."""
        return rj.LSTMCarry(*(jnp.zeros((*batch_shape, *shape), jnp.bfloat16) for shape in ((64,), (1, 64))))

    def pointwise(self, params: Any, carry: Any, z: jax.Array, r: jax.Array) -> Any:
        """As an RNN."""
        return carry._replace(h=jnp.tanh(z + r)), jnp.tanh(z + r)


class Verdict(rj.PointwiseCell):
    """A cell that gives a number of each row."""

    def pointwise(self, params: Any, carry: Any, z: jax.Array, r: jax.Array) -> Any:
        """One, always."""
        return rj.RNNCarry(jnp.tanh(z + r)), jnp.ones(z.shape[:-1], z.dtype)


@needs_mosaic
@pytest.mark.usefixtures("on_hopper")
@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (ManyHeads(64, **HALF), "the carry has leaves [[16, 1, 64]], where it takes one axis of numbers"),
        (Verdict(64, **HALF), "`pointwise` gives each row an array [], where it takes vectors"),
        (rj.LSTM(1, **HALF), "of a single unit gates can't be told from numbers"),
    ],
    ids=["two axes", "a number", "one unit"],
)
def test_refuses_what_is_no_vector_of_gates(cell: Any, why: str) -> None:
    assert why in (refusal(cell) or "")


@needs_mosaic
@pytest.mark.usefixtures("on_hopper")
def test_the_same_call_is_looked_at_once() -> None:
    looked = lambda: mosaic_gpu._trace.cache_info().misses
    fresh = lambda: rj.LSTM(96, forget_bias=0.25, **HALF)
    before = looked()
    for _ in range(2):
        assert refusal(fresh()) is None
    assert looked() == before + 1
    assert refusal(fresh(), inputs(fresh(), 32)) is None  # other shapes are another call
    assert looked() == before + 2


@needs_mosaic
@pytest.mark.parametrize(
    ("hidden_size", "rows", "processors", "why"),
    [
        (512, 16, 132, None),
        (512, 128, 132, None),
        (512, 144, 132, "the batch takes 2 times as many clusters as run at a time, one after another"),
        (512, 16, 114, "clusters of 16 blocks have run on GPUs of 132 processors, and this one has 114"),
        (256, 16, 114, None),
        (256, 256, 132, None),
        (64, 16 * 132, 132, None),
        (384, 16, 132, "no GPU has run it in clusters of 12 blocks of 32 units"),
    ],
)
def test_hesitates_where_it_may_be_slow(
    hidden_size: int, rows: int, processors: int, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mosaic_gpu, "processors", lambda: processors)
    cell = rj.LSTM(hidden_size, **HALF)
    assert mosaic_gpu.hesitates(cell, inputs(cell, rows, flags=False), Options()) == why


def test_hesitates_where_xla_may_spread_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "devices", lambda: ["one", "another"])
    why = mosaic_gpu.hesitates(rj.LSTM(64, **HALF), inputs(rj.LSTM(64, **HALF)), Options())
    assert why == "XLA can't spread it over the 2 devices, as it does others"


def test_hesitates_where_a_batch_may_be_mapped() -> None:
    cell, xs = rj.LSTM(64, **HALF), jax.ShapeDtypeStruct((6, 8), jnp.bfloat16)
    why = mosaic_gpu.hesitates(cell, inputs(cell)._replace(xs=xs), Options())
    assert why == "xs has no batch axis, and where such a call is mapped each sequence takes a cluster of its own"


def test_hesitates_in_float32_and_at_a_single_step() -> None:
    cell = rj.LSTM(64, **HALF)
    given = inputs(cell)
    why = mosaic_gpu.hesitates(cell, given._replace(xs=jax.ShapeDtypeStruct((1, 16, 8), jnp.bfloat16)), Options())
    assert why == "one step is no loop"
    assert mosaic_gpu.hesitates(rj.LSTM(64), inputs(rj.LSTM(64)), Options()) == "nobody has timed it in float32"


@needs_mosaic
@pytest.mark.usefixtures("on_hopper")
def test_unroll_takes_it_and_a_step_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.native, "refuses", lambda *_: "as on a GPU")
    cell = rj.GRU(64, **HALF)
    given = inputs(cell, flags=False)
    with jax.enable_x64(False):
        assert kernels_of(lambda params, xs: rj.unroll(cell, params, xs)[1], given.params, given.xs) == 1
        one = jax.ShapeDtypeStruct(given.xs.shape[1:], given.xs.dtype)
        assert kernels_of(lambda *args: rj.step(cell, *args), given.params, given.carry, one) == 0
