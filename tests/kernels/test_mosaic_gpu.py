"""The kernel `mosaic_gpu` beyond the laws: how it is cut, clusters, and lowered for GPUs."""

import dataclasses
import math
import os
import subprocess
import sys
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from recurrent_jax.kernels import mosaic_gpu
from recurrent_jax.kernels.contract import Inputs, Options
from recurrent_jax.kernels.mosaic_gpu import tiling
from recurrent_jax.kernels.mosaic_gpu.units import ELEMENTWISE
from tests import cases

needs_mosaic = pytest.mark.skipif(
    jax.__version_info__ < mosaic_gpu.SINCE, reason=f"JAX {jax.__version__}: {mosaic_gpu.NAME} takes 0.11 or later"
)
HALF = {"param_dtype": jnp.bfloat16}


# How it is cut


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


def inputs(cell: Any, rows: int = 16, features: int = 8, flags: bool = True) -> Inputs:
    """Shapes of what `run` takes."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), features))
    carry = jax.eval_shape(lambda params: cell.initial_carry(params, (rows,)), params)
    xs = jax.ShapeDtypeStruct((6, rows, features), cell.compute_dtype)
    flag = jax.ShapeDtypeStruct((6, rows), jnp.bool_) if flags else None
    return Inputs(params, xs, carry, carry if flags else None, flag, flag)


@pytest.fixture
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses as it would there."""
    monkeypatch.setattr(mosaic_gpu, "elsewhere", lambda: None)


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
@pytest.mark.parametrize("flags", [False, True], ids=["plain", "flags"])
@pytest.mark.parametrize(("units", "blocks", "rows"), [(64, 1, 16), (100, 4, 32), (256, 8, 16)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", [rj.RNN, rj.PeepholeLSTM, rj.GRU, cases.LearnedStart])
def test_shared_memory_is_what_the_kernels_take(
    kind: Any, dtype: str, units: int, blocks: int, rows: int, flags: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recurrent_jax.kernels.mosaic_gpu import kernels

    taken = []

    def run(program: Any, _: Any, operands: Any, results: Any, scratch: Any) -> Any:
        """Instead of the kernel: what it would take."""
        buffers = [leaf for leaf in jax.tree.leaves(scratch) if hasattr(leaf, "dtype")]
        taken.append(sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in buffers))
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), results)

    monkeypatch.setattr(kernels, "run", run)
    cell = kind(units, param_dtype=dtype)
    given, options = inputs(cell, 64, flags=flags), Options(return_carries=flags)
    with mosaic_gpu.interpreted(), mosaic_gpu.tiled(blocks, rows):
        jax.eval_shape(jax.grad(loss_of(cell, options), (0, 1, 2)), *given[:3], given)
        jax.eval_shape(loss_of(cell, options), *given[:3], given)
        account = next(size for cut, size in mosaic_gpu._cuts(cell, given, options) if cut[2:5:2] == (blocks, rows))
    forward, backward, unsaved = taken
    assert unsaved <= forward
    assert account == max(forward, backward)


# What it refuses


def refusal(cell: Any, given: Inputs | None = None) -> str | None:
    """Why it refuses the cell."""
    return mosaic_gpu.refuses(cell, inputs(cell) if given is None else given, Options())


def test_refuses_other_devices() -> None:
    assert refusal(rj.LSTM(64, **HALF)) == "it runs on an NVIDIA GPU, and the default device is a cpu"


def test_refuses_other_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ampere:
        """As JAX describes it."""

        compute_capability, device_kind = "8.0", "NVIDIA A100"

    monkeypatch.setattr(jax, "devices", lambda *_: [Ampere])
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


@needs_mosaic
@pytest.mark.usefixtures("on_hopper")
@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (rj.LSTM(64, param_dtype=jnp.float64), "dtype float64: it multiplies bfloat16, float16, float32"),
        (rj.GRU(64, reset="before", **HALF), "is more than one recurrent matmul and an elementwise function"),
        (rj.LSTM(1024, **HALF), "4 x 1024 x 1024 weights of bfloat16: each of 16 blocks would take 6"),
        (LayerNormalised(64, **HALF), "`pointwise` has reduce_sum"),
    ],
    ids=["dtype", "two matmuls", "too large", "mixes units"],
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


# Clusters


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
        [sys.executable, "-m", "tests.kernels.clusters", name, str(blocks), str(rows), operand, direction],
        env=os.environ | {"NPROC": "8", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "equal"
    assert "race" not in (done.stdout + done.stderr).lower()


# Float32


@needs_mosaic
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("kind", [rj.RNN, rj.LSTM, rj.PeepholeLSTM, rj.GRU, cases.MGU, cases.LearnedStart])
def test_operands_by_rows_give_what_scan_gives(kind: Any, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # In float64, which is not rounded: all the rest of what float32 does.
    monkeypatch.setattr(mosaic_gpu, "_by_rows", lambda _: True)
    cell = kind(5, param_dtype=jnp.float64)
    params, xs, carry = cases.data(cell)
    mask = jnp.asarray(np.random.default_rng(3).random(xs.shape[:-1]) < 0.7)
    resets = jnp.zeros_like(mask).at[2].set(True)

    def loss(kernel: str) -> Any:
        given = {"mask": mask, "resets": resets, "reverse": reverse, "return_carries": True}
        of = lambda *a: rj.unroll(cell, *a, implementation=kernel, **given)
        return jax.value_and_grad(lambda *a: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(of(*a))), (0, 1, 2))

    with mosaic_gpu.interpreted():
        got = loss("mosaic_gpu")(params, xs, carry)
    # The same sums in another order.
    cases.assert_close(got, loss("scan")(params, xs, carry), 1e-13)


@needs_mosaic
def test_float32_is_rounded_as_tensor_cores_read_it() -> None:
    from recurrent_jax.kernels.mosaic_gpu.block import to_tf32

    numbers = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    rounded = np.asarray(to_tf32(jnp.asarray(numbers)))
    assert not np.any(rounded.view(np.int32) & 0x1FFF)  # the 13 bits that `wgmma` does not read
    assert np.all(np.abs(rounded - numbers) <= 2.0**-11 * np.abs(numbers))
    assert np.mean(rounded > numbers) == pytest.approx(0.5, abs=0.1)  # to the nearest
    special = np.asarray([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F800000, 0xFF800000, 0, 0x80000000], np.uint32).view(
        np.float32
    )
    kept = np.asarray(to_tf32(jnp.asarray(special)))
    np.testing.assert_array_equal(kept, special)
    assert np.all(kept.view(np.uint32)[np.isnan(special)] & 0x7FE000 != 0)  # or `wgmma` would read infinity


class Sum(rj.PointwiseCell):
    """A cell that is its matmuls and nothing else."""

    def pointwise(self, params: Any, carry: rj.RNNCarry, z: jax.Array, r: jax.Array) -> tuple[rj.RNNCarry, jax.Array]:
        """The pre-activations."""
        return rj.RNNCarry(z + r), z + r


@needs_mosaic
def test_float32_is_rounded_where_it_is_multiplied_and_nowhere_else() -> None:
    cell, rows = Sum(40), 16
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    params = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda: cell.init(jax.random.key(0), 3))
    )
    params = params._replace(w_h=jnp.asarray(draw(40, 40)))
    h, d = draw(rows, 40), draw(rows, 40)
    xs, carry = jnp.zeros((1, rows, 3), jnp.float32), rj.RNNCarry(jnp.asarray(h))
    run = lambda params, carry: rj.unroll(cell, params, xs, carry, implementation="mosaic_gpu")[1][0]
    # A cluster of several blocks would want as many threads as XLA's pool has.
    with mosaic_gpu.interpreted(), mosaic_gpu.tiled(1, rows):
        y, pull = jax.vjp(run, params, carry)
        d_params, d_carry = pull(jnp.asarray(d))
    # To the nearest number with 10 bits behind the point: JAX's own rounding, for halves to even.
    rounded = lambda a: np.asarray(jax.lax.reduce_precision(a, exponent_bits=8, mantissa_bits=10), np.float64)
    w = rounded(params.w_h)
    # Sums of 40 products in float32; without rounding, or with it, they would be off by more than 1e-3.
    np.testing.assert_allclose(y, rounded(h) @ w, atol=1e-5)
    np.testing.assert_allclose(d_carry.h, rounded(d) @ w.T, atol=1e-5)
    np.testing.assert_allclose(d_params.w_h, h.astype(np.float64).T @ d, atol=1e-5)


# Lowered for GPUs


def kernels_of(function: Any, *args: Any) -> int:
    """How many kernels a function is lowered to for a GPU."""
    # As it is by default: without float64, which Mosaic doesn't know.
    with jax.enable_x64(False):
        lowered = jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",))
    return lowered.as_text().count("custom_call @mosaic_gpu")


def loss_of(cell: Any, options: Options = Options()) -> Any:  # noqa: B008
    """A number made of everything, of what is differentiated and the rest."""

    def loss(params: Any, xs: jax.Array, carry: Any, rest: Inputs) -> Any:
        out = mosaic_gpu.run(cell, rest._replace(params=params, xs=xs, carry=carry), options)
        return sum(jnp.sum(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(out))

    return loss


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


# What people write for gates and activations; with those of the cells above, every operation that is let in.
OPERATIONS: dict[str, Any] = {
    "soft_sign": jax.nn.soft_sign,
    "rational": lambda x: 1 / (1 + x * x),
    "cubes": lambda x: x**3 - 2 * x**2 + (2 + x) ** -3,
    "roots": lambda x: jnp.sqrt(1 + jnp.abs(x)) * jax.lax.rsqrt(1 + x**2) - jnp.sign(x),
    "waves": lambda x: jnp.sin(x) * jnp.cos(x),
    "powers": lambda x: jnp.exp(x) + jnp.exp2(x) + jnp.log(2 + x),
    "hard_tanh": jax.nn.hard_tanh,
    "clip": lambda x: jnp.clip(jnp.minimum(jnp.maximum(x, -0.5), 0.5) * 2, -0.75, 0.75),
    "neither": lambda x: jnp.where(~((x > 0.5) | (x <= -0.5)) & (x != 0), x, -x),
    "either": lambda x: jnp.where((x >= 0) ^ (x < 0.25), x, jnp.zeros_like(x)) * (x == x).astype(x.dtype),
    "truth": lambda x: x * x.astype(bool).astype(x.dtype),
    "number": lambda x: x * jnp.square(jnp.full((), 3.0, x.dtype)),
    "constant array": lambda x: x * CLOSED_OVER.astype(x.dtype),
    "constant": lambda x: jnp.concatenate([x, jnp.ones_like(x)], axis=-1),
    "still": lambda x: x * jax.lax.stop_gradient(x),
}
CLOSED_OVER = jnp.asarray(0.5, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Operating(rj.PointwiseCell):
    """A cell whose second gate nobody reads, and whose output is an operation of its state."""

    gates: ClassVar[int] = 2
    operation: str = ""

    def pointwise(self, params: Any, carry: rj.RNNCarry, z: jax.Array, r: jax.Array) -> tuple[rj.RNNCarry, jax.Array]:
        """The operation of h."""
        h = jnp.tanh(z + r)[..., : self.hidden_size]
        return rj.RNNCarry(h), OPERATIONS[self.operation](h)


@needs_mosaic
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_lowers_with_its_gradient(name: str) -> None:
    cell = Operating(256, operation=name, **HALF)
    given = inputs(cell, flags=False)
    assert kernels_of(jax.grad(loss_of(cell), (0, 1, 2)), *given[:3], given) == 2


@needs_mosaic
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_equals_that_of_scan(name: str) -> None:
    cell = Operating(5, operation=name, param_dtype=jnp.float64)
    params, xs, carry = cases.data(cell)

    def loss(kernel: str) -> Any:
        of = lambda *a: rj.unroll(cell, *a, implementation=kernel)
        return jax.value_and_grad(lambda *a: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(of(*a))), (0, 1, 2))

    with mosaic_gpu.interpreted():
        got = loss("mosaic_gpu")(params, xs, carry)
    cases.assert_close(got, loss("scan")(params, xs, carry), 1e-13)


def test_every_operation_that_is_let_in_is_tried() -> None:
    primitives: set[str] = set()

    def collect(jaxpr: Any) -> None:
        for eqn in jaxpr.eqns:
            primitives.add(eqn.primitive.name)
            for inner in eqn.params.values():
                if hasattr(inner, "jaxpr"):
                    collect(inner.jaxpr)

    for operation in (*OPERATIONS.values(), jax.nn.sigmoid, jnp.tanh):
        row = jax.ShapeDtypeStruct((4,), jnp.float32)
        collect(jax.make_jaxpr(lambda x, operation=operation: jax.vjp(operation, x)[1](operation(x)))(row).jaxpr)
    assert set(ELEMENTWISE) - primitives <= {"one_minus_square", "clamp", "square", "integer_pow", "ne"}


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
