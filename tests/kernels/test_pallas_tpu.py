"""The kernel `pallas_tpu` beyond the laws: in Pallas's TPU interpreter, which looks for races, and lowered for TPUs."""

import contextlib
import sys
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

import recurrent_jax as rj
from recurrent_jax.kernels import pallas_tpu
from recurrent_jax.kernels.contract import Inputs, Options
from recurrent_jax.kernels.pallas_tpu import plan
from tests import cases

# The same sums in another order, in float64.
REORDERED = 1e-13
STEPS, ROWS = 7, 4


def arguments(cell: Any) -> tuple[Any, jax.Array, Any, dict[str, jax.Array]]:
    """Parameters, inputs, a carry, and flags with gaps and resets."""
    given = cases.data(cell, (ROWS,), STEPS)
    rng = np.random.default_rng(3)
    draw = lambda share: jnp.asarray(rng.random((STEPS, ROWS)) < share)
    return *given, {"mask": draw(0.7), "resets": draw(0.2)}


def all_gradients(cell: Any, kernel: str, reverse: bool) -> Any:
    """The outputs, and the gradients of a loss that reads all of them."""
    params, xs, carry, flags = arguments(cell)

    def loss(params: Any, xs: jax.Array, carry: Any) -> Any:
        out = rj.unroll(cell, params, xs, carry, **flags, reverse=reverse, return_carries=True, implementation=kernel)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(out)), out

    return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, xs, carry)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("chunk", [3, 7], ids=["the last chunk cut off", "one chunk"])
@pytest.mark.parametrize("case", [cases.LEARNED_START, cases.CASES[-1]], ids=lambda case: case.name)
def test_blocks_and_chunks_without_a_race(
    case: cases.Case, chunk: int, reverse: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "ROWS", (3, 2))
    monkeypatch.setattr(plan, "STEPS", chunk)
    expected = all_gradients(case.cell, "scan", reverse)
    # Memory that nobody wrote holds NaN there.
    with pallas_tpu.interpreted(pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")):
        got = all_gradients(case.cell, "pallas_tpu", reverse)
        jax.block_until_ready(got)
    cases.assert_close(got, expected, REORDERED)
    assert "RACE" not in "".join(capfd.readouterr())


def on_tpu(kind: str) -> contextlib.AbstractContextManager[Any]:
    """Where programs are lowered for this kind of TPU."""
    device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=1, platform="tpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


@pytest.mark.parametrize("kind", ["TPU v5 lite", "TPU v6 lite"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind_of_cell", [rj.RNN, rj.LSTM, rj.PeepholeLSTM, rj.GRU])
def test_gradient_lowers_to_two_kernels(kind_of_cell: Any, dtype: Any, kind: str) -> None:
    cell = kind_of_cell(128, param_dtype=dtype)
    params, xs, carry, flags = arguments(cell)
    inputs = Inputs(params, xs, carry, carry, flags["mask"], flags["resets"])

    def loss(params: Any, xs: jax.Array) -> Any:
        out = pallas_tpu.run(cell, inputs._replace(params=params, xs=xs), Options(reverse=True, return_carries=True))
        return jnp.sum(out.ys.astype(jnp.float32))

    # As on a TPU: without float64, which Mosaic doesn't know.
    with jax.enable_x64(False), on_tpu(kind):
        lowered = jax.jit(jax.grad(loss, (0, 1))).trace(params, xs).lower(lowering_platforms=("tpu",))
    assert lowered.as_text().count("tpu_custom_call") == 2


def refusal(cell: Any, xs_shape: tuple[int, ...] = (5, 2, 3)) -> str | None:
    """Why it refuses to unroll the cell."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), xs_shape[-1]))
    carry = jax.eval_shape(lambda: cell.initial_carry(params, xs_shape[1:-1]))
    xs = jax.ShapeDtypeStruct(xs_shape, cell.compute_dtype)
    return pallas_tpu.refuses(cell, Inputs(params, xs, carry), Options())


def test_refuses_other_devices() -> None:
    assert refusal(rj.LSTM(4)) == "it runs on a TPU, and the default device is a cpu"


def test_refuses_what_does_not_fit() -> None:
    with pallas_tpu.interpreted(True):
        assert refusal(rj.LSTM(1024, param_dtype=jnp.bfloat16)) is None
        reason = refusal(rj.LSTM(1024))
        assert reason is not None
        assert "1024 units of float32 and 2 rows: what stays in VMEM takes 16." in reason
        assert refusal(rj.LSTM(128), (5, 100_003, 3)) is not None  # no divisor to cut the rows by


def test_refuses_float64_on_a_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert refusal(cases.LSTM.cell) == "dtype float64: a TPU has no such matmul"


@pytest.mark.parametrize("shape", [(), (4,)], ids=str)
def test_refuses_arrays_that_are_no_parameters(shape: tuple[int, ...]) -> None:
    array = jnp.full(shape, 0.5, jnp.float32) + 0

    class ClosesOver(rj.PointwiseCell):
        """A cell that has numbers from somewhere else."""

        def pointwise(self, params: Any, carry: Any, z: jax.Array, r: jax.Array) -> Any:
            """Scaled by them."""
            h = jnp.broadcast_to(array, z.shape) * jnp.tanh(z + r)
            return carry._replace(h=h), h

    reason = f"`pointwise` closes over arrays of shapes {list(shape)}, which have to be parameters"
    with pallas_tpu.interpreted(True):
        assert refusal(ClosesOver(4)) == reason


@pytest.mark.parametrize("shape", [(), (2,), (2, 0)], ids=str)
def test_refuses_carries_without_numbers_of_their_own_axis(shape: tuple[int, ...]) -> None:
    class Aged(rj.PointwiseCell):
        """Something of all rows, or of each row, beside h."""

        def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> Any:
            """Zeros."""
            return rj.LSTMCarry(super().initial_carry(params, batch_shape).h, jnp.zeros(shape))

        def pointwise(self, params: Any, carry: Any, z: jax.Array, r: jax.Array) -> Any:
            """As an RNN."""
            return carry._replace(h=jnp.tanh(z + r)), z

    with pallas_tpu.interpreted(True):
        reason = refusal(Aged(4))
    assert reason == f"the carry has leaves [{list(shape)}], where it takes numbers behind the axes of the batch"


def test_a_program_of_the_interpreter_is_none_of_another() -> None:
    cell = rj.RNN(2)
    params, xs, _ = cases.data(cell)
    compiled = sys.modules["recurrent_jax.unroll"]._run_compiled._cache_size
    counts = []
    for setting in (True, pltpu.InterpretParams(), True):
        with pallas_tpu.interpreted(setting):
            rj.unroll(cell, params, xs, implementation="pallas_tpu")
            counts.append(compiled())
    assert counts[0] < counts[1] == counts[2]


def test_refuses_first_what_no_device_changes() -> None:
    assert "is more than one recurrent matmul" in str(refusal(rj.GRU(4, reset="before")))
    assert "no such matmul" in str(refusal(rj.LSTM(4, param_dtype=jnp.float64)))


def test_refuses_sizes_left_open() -> None:
    with pallas_tpu.interpreted(True):
        (steps,) = jax.export.symbolic_shape("steps")
        assert refusal(rj.LSTM(4), (steps, 2, 3)) == "xs of shape (steps, 2, 3): it needs sizes that are known"
