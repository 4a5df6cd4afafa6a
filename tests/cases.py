"""The one list of cells, the one list of kernels, and the ways of calling them that every law runs over."""

import contextlib
import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from recurrent_jax.kernels import REGISTRY, by_name, mosaic_gpu, pallas_tpu
from recurrent_jax.kernels.contract import Inputs, Options
from tests import oracles

STEPS, BATCH, FEATURES, UNITS = 6, (3,), 3, 4

# For tests of JAX's rules of differentiation: LLVM's optimiser, which takes most of the time, is not on trial there.
FAST_TO_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class LearnedStartParams(NamedTuple):
    """`w_x [D, 4H]`, `w_h [H, 4H]`, `b [4H]`, the peepholes `[H]`, and the learned initial state `c_0 [H]`."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array
    p_i: jax.Array
    p_f: jax.Array
    p_o: jax.Array
    c_0: jax.Array


@dataclasses.dataclass(frozen=True)
class LearnedStart(rj.PointwiseCell):
    """As a user writes it: additive, reads parameters in `pointwise` (peepholes), and learns its initial carry."""

    gates: ClassVar[int] = 4

    def init(self, key: jax.Array, in_size: int) -> LearnedStartParams:
        """Peepholes and initial state start at zero."""
        w_x, w_h = self.draw_weights(key, in_size)
        small = self.zeros(self.hidden_size)
        return LearnedStartParams(w_x, w_h, self.zeros(4 * self.hidden_size), small, small, small, small)

    def initial_carry(self, params: LearnedStartParams, batch_shape: tuple[int, ...] = ()) -> rj.LSTMCarry:
        """Zeros, and `c_0` in every row."""
        shape = (*batch_shape, self.hidden_size)
        c_0 = params.c_0.reshape((1,) * len(batch_shape) + params.c_0.shape)
        return rj.LSTMCarry(jnp.zeros(shape, self.compute_dtype), jnp.broadcast_to(c_0, shape))

    def pointwise(
        self, params: LearnedStartParams, carry: rj.LSTMCarry, z: jax.Array, r: jax.Array
    ) -> tuple[rj.LSTMCarry, jax.Array]:
        """Peepholes from the old `c` to i and f, from the new one to o."""
        i, f, g, o = jnp.split(z + r, 4, axis=-1)
        rows = lambda p: p.reshape((1,) * (i.ndim - 1) + p.shape)
        forget = jax.nn.sigmoid(f + rows(params.p_f) * carry.c)
        c = forget * carry.c + jax.nn.sigmoid(i + rows(params.p_i) * carry.c) * jnp.tanh(g)
        h = jax.nn.sigmoid(o + rows(params.p_o) * c) * jnp.tanh(c)
        return rj.LSTMCarry(h, c), h


class MGUParams(NamedTuple):
    """`w_x [D, 2H]`, `w_h [H, 2H]`, `b [2H]`, `gain [2H]`."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array
    gain: jax.Array


@dataclasses.dataclass(frozen=True)
class MGU(rj.PointwiseCell):
    """As a user writes it: not additive, a recurrent kernel made of two parameters, an output that is not `h`."""

    gates: ClassVar[int] = 2

    def init(self, key: jax.Array, in_size: int) -> MGUParams:
        """The gain starts at one."""
        size = 2 * self.hidden_size
        return MGUParams(*self.draw_weights(key, in_size), self.zeros(size), self.zeros(size) + 1)

    def recurrent_kernel(self, params: MGUParams) -> jax.Array:
        """Each column times its gain."""
        return (params.w_h * params.gain[jnp.newaxis, :]).astype(self.compute_dtype)

    def pointwise(
        self, params: MGUParams, carry: rj.RNNCarry, z: jax.Array, r: jax.Array
    ) -> tuple[rj.RNNCarry, jax.Array]:
        """The gate f, the candidate n, and twice `h` as output."""
        z_f, z_n = jnp.split(z, 2, axis=-1)
        r_f, r_n = jnp.split(r, 2, axis=-1)
        forget = jax.nn.sigmoid(z_f + r_f)
        h = (1 - forget) * carry.h + forget * jnp.tanh(z_n + forget * r_n)
        return rj.RNNCarry(h), 2 * h


class CountCarry(NamedTuple):
    """How many steps the row has seen since its last reset, `[..., 1]`."""

    count: jax.Array


class Counter:
    """A plain object that counts steps in integers; it has what `unroll` asks for and nothing more."""

    def init(self, key: jax.Array, in_size: int) -> tuple[()]:
        """There are no parameters."""
        return ()

    def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> CountCarry:
        """No steps yet."""
        return CountCarry(jnp.zeros((*batch_shape, 1), jnp.int32))

    def step(self, params: Any, carry: CountCarry, x: jax.Array) -> tuple[CountCarry, jax.Array]:
        """One more."""
        count = carry.count + 1
        return CountCarry(count), count


@dataclasses.dataclass(frozen=True)
class PointwiseCounter(rj.PointwiseCell):
    """The same count in floating point, for kernels that want a pointwise cell; it reads neither z nor r."""

    def pointwise(self, params: Any, carry: rj.RNNCarry, z: jax.Array, r: jax.Array) -> tuple[rj.RNNCarry, jax.Array]:
        """One more."""
        h = carry.h + 1
        return rj.RNNCarry(h), h


@dataclasses.dataclass(frozen=True)
class LinearCounter(rj.RNN):
    """The same count by parameters alone, for kernels that know nothing but the cells of the library: relu(h + 1)."""

    activation: str = "relu"

    def init(self, key: jax.Array, in_size: int) -> rj.RNNParams:
        """Inputs count nothing."""
        size = self.hidden_size
        return rj.RNNParams(self.zeros(in_size, size), jnp.eye(size, dtype=self.param_dtype), self.zeros(size) + 1)


class Case(NamedTuple):
    """A float64 cell, and the oracle of its step."""

    name: str
    cell: Any
    oracle: oracles.Step


DOUBLE = {"param_dtype": jnp.float64}
# The case that has all there is: a second carry, its own parameters, a learned initial carry.
LEARNED_START = Case("learned_start", LearnedStart(UNITS, **DOUBLE), oracles.learned_start)
# Of the library's own cells those with the most.
PEEPHOLE = Case("peephole_lstm", rj.PeepholeLSTM(UNITS, **DOUBLE), oracles.peephole_lstm)
LSTM = Case("lstm", rj.LSTM(UNITS, **DOUBLE), oracles.lstm)
CASES = (
    Case("rnn_tanh", rj.RNN(UNITS, **DOUBLE), oracles.rnn_tanh),
    Case("rnn_relu", rj.RNN(UNITS, activation="relu", **DOUBLE), oracles.rnn_relu),
    LSTM,
    PEEPHOLE,
    Case("coupled_lstm", rj.CoupledLSTM(UNITS, **DOUBLE), oracles.coupled_lstm),
    Case("gru_after", rj.GRU(UNITS, **DOUBLE), oracles.gru_after),
    Case("gru_before", rj.GRU(UNITS, reset="before", **DOUBLE), oracles.gru_before),
    LEARNED_START,
    Case("mgu", MGU(UNITS, **DOUBLE), oracles.mgu),
)
KERNELS = tuple(kernel.NAME for kernel in REGISTRY)


class Data(NamedTuple):
    """What a call is made of: everything random, so that no gradient vanishes by a zero bias or carry."""

    params: Any
    xs: jax.Array
    carry: Any


@functools.cache
def data(cell: Any, batch: tuple[int, ...] = BATCH, steps: int = STEPS, features: int = FEATURES) -> Data:
    """Parameters, inputs and a carry of normal numbers in the dtypes that the cell gives them."""
    rng = np.random.default_rng(0)
    fill = lambda tree, scale: jax.tree.map(lambda a: jnp.asarray(scale * rng.standard_normal(a.shape), a.dtype), tree)
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), features))
    params = fill(shapes, 0.5)
    xs = fill(jax.ShapeDtypeStruct((steps, *batch, features), getattr(cell, "compute_dtype", jnp.float64)), 1.0)
    return Data(params, xs, fill(jax.eval_shape(lambda: cell.initial_carry(params, batch)), 0.5))


# Flags for T = 6 and B = 3: a whole row, gaps at both ends and within; no true step at all; every second one.
GAPS = np.array([[1, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1]], bool).T
# Resets at the first step, in a row, at masked steps (where they do nothing), and none.
RESETS = np.array([[1, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 1], [0, 1, 1, 0, 0, 1]], bool).T

# Name of a way to call `unroll`, whether a carry is given, and the other arguments.
SCENARIOS: dict[str, tuple[bool, dict[str, Any]]] = {
    "plain": (False, {}),
    "carry": (True, {}),
    "lengths": (True, {"lengths": np.array([0, 1, STEPS])}),
    "gaps": (False, {"mask": GAPS}),
    "resets": (True, {"resets": RESETS}),
    "reverse": (True, {"reverse": True}),
    "reverse_lengths": (True, {"lengths": np.array([0, 4, STEPS]), "reverse": True}),
    "gaps_resets": (True, {"mask": GAPS, "resets": RESETS}),
    "gaps_resets_reverse": (True, {"mask": GAPS, "resets": RESETS, "reverse": True}),
}


# Why `mosaic_gpu` has no interpreter here; nothing where it has one.
NO_MOSAIC = (
    "" if jax.__version_info__ >= mosaic_gpu.SINCE else f"JAX {jax.__version__}: {mosaic_gpu.NAME} takes 0.11 or later"
)


def at_hand(kernel: str) -> contextlib.AbstractContextManager[Any]:
    """Where kernels of other devices run, in Pallas's interpreters; the others run anyway."""
    if kernel == "mosaic_gpu" and not NO_MOSAIC:
        return mosaic_gpu.interpreted()
    return pallas_tpu.interpreted(True) if kernel == "pallas_tpu" else contextlib.nullcontext()


def refusal(cell: Any, kernel: Any) -> str | None:
    """Why the kernel can't run the cell here, in its own words."""
    if kernel.NAME == "mosaic_gpu" and NO_MOSAIC:
        return NO_MOSAIC
    given = data(cell)
    with at_hand(kernel.NAME):
        reason = kernel.refuses(cell, Inputs(given.params, given.xs, given.carry), Options())
    return f"{kernel.NAME} refuses: {reason}" if reason else None


def richest(kernel: str) -> Case:
    """The case to run laws over which hang on the way of compiling, not on the equations: the most that it runs."""
    taken = [case for case in (LEARNED_START, PEEPHOLE, LSTM) if refusal(case.cell, by_name(kernel)) is None]
    return taken[0] if taken else LSTM


def skip_for(reason: str | None) -> list[pytest.MarkDecorator]:
    """A skip where there is a reason."""
    return [pytest.mark.skip(reason=reason)] if reason else []


def pairs(kernels: tuple[Any, ...] = REGISTRY) -> list[Any]:
    """Every (case, kernel); where the kernel refuses the cell, a skip with the kernel's own words."""
    return [
        pytest.param(case, kernel.NAME, id=f"{case.name}-{kernel.NAME}", marks=skip_for(refusal(case.cell, kernel)))
        for case in CASES
        for kernel in kernels
    ]


def of_callbacks(kernel: str) -> str | None:
    """Why JAX can't do with the kernel here what it does with programs: check its memory, export it, run it again."""
    return "Pallas's GPU interpreter is made of callbacks" if kernel == "mosaic_gpu" else None


def each(kernels: tuple[Any, ...], programs: bool = False) -> list[Any]:
    """Every kernel; where it is not built here, a skip with its own words, and with `programs` where it is none."""
    why = lambda kernel: refusal(LSTM.cell, kernel) or (of_callbacks(kernel.NAME) if programs else None)
    return [pytest.param(kernel.NAME, id=kernel.NAME, marks=skip_for(why(kernel))) for kernel in kernels]


over_cases = pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
over_kernels = pytest.mark.parametrize("kernel", each(REGISTRY))
over_programs = pytest.mark.parametrize("kernel", each(REGISTRY, programs=True))
over_pairs = pytest.mark.parametrize(("case", "kernel"), pairs())
# Where scan is what the others are compared with.
OTHERS = tuple(kernel for kernel in REGISTRY if kernel.NAME != "scan")
over_kernels_but_scan = pytest.mark.parametrize("kernel", each(OTHERS))
over_pairs_but_scan = pytest.mark.parametrize(("case", "kernel"), pairs(OTHERS))
over_scenarios = pytest.mark.parametrize("scenario", SCENARIOS)


def assert_close(got: Any, expected: Any, tolerance: float) -> None:
    """Two pytrees agree in structure, shape, dtype and, up to `tolerance` of the largest value, in value."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        name = jax.tree_util.keystr(path)
        assert a.shape == b.shape, name
        assert a.dtype == b.dtype, name
        scale = max(1.0, float(np.abs(b).max(initial=0.0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=name)


def assert_same(got: Any, expected: Any) -> None:
    """Two pytrees are equal to the last bit."""
    assert_close(got, expected, 0.0)
