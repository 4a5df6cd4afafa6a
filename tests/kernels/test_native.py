"""What is particular to `native`: its sizes and vectors, its threads, its accuracy, and where it is not there."""

import concurrent.futures
import functools
import os
import pathlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from recurrent_jax.kernels import native, scan
from recurrent_jax.kernels.contract import Inputs, Options
from recurrent_jax.kernels.native import library
from tests import cases, oracles
from tests.kernels import fuzz_native

ROOT = Path(__file__).parents[2]
built = pytest.mark.skipif(library.load().code is None, reason=f"native is {library.load().problem}")
CELLS: dict[str, tuple[Any, dict[str, Any], oracles.Step]] = {
    "rnn_tanh": (rj.RNN, {}, oracles.rnn_tanh),
    "rnn_relu": (rj.RNN, {"activation": "relu"}, oracles.rnn_relu),
    "lstm": (rj.LSTM, {}, oracles.lstm),
    "gru_after": (rj.GRU, {}, oracles.gru_after),
    "peephole_lstm": (rj.PeepholeLSTM, {}, oracles.peephole_lstm),
    "coupled_lstm": (rj.CoupledLSTM, {}, oracles.coupled_lstm),
}
over_cells = pytest.mark.parametrize("name", CELLS)


def make(name: str, units: int, dtype: str = "float32") -> Any:
    """The cell of that name."""
    family, attributes, _ = CELLS[name]
    return family(units, **attributes, param_dtype=dtype)


def drawn(rng: np.random.Generator, tree: Any, scale: float = 1.0) -> Any:
    """Normal numbers in the shapes of `tree`."""
    return jax.tree.map(lambda a: jnp.asarray(scale * rng.standard_normal(a.shape), a.dtype), tree)


def outputs_and_gradients(kernel: Any, cell: Any, inputs: Inputs, options: Options) -> Any:
    """Outputs without and with derivatives, and the gradient of all that is returned, of one call of a kernel."""

    def run(params: Any, xs: Any, carry: Any, initial: Any) -> Any:
        given = Inputs(params, xs, carry, initial, inputs.mask, inputs.resets)
        return kernel.run(cell, given, options)

    def both(*args: Any) -> Any:
        out, back = jax.vjp(run, *args)
        return out, back(drawn(np.random.default_rng(1), out))

    args = inputs[:4]
    return jax.jit(run)(*args), jax.jit(both)(*args)


# Every cell in every dtype four times; `make fuzz` runs thousands.
@built
@pytest.mark.parametrize("seed", range(4 * len(fuzz_native.CELLS) * len(fuzz_native.DTYPES)))
def test_random_problem_equals_the_oracles(seed: int) -> None:
    off, words = fuzz_native.worst_of(seed)
    assert off <= 1, words


@built
@pytest.mark.parametrize("dtype", fuzz_native.DTYPES)
@over_cells
def test_a_single_step_equals_the_scan(name: str, dtype: str) -> None:
    cell = make(name, 21, dtype)
    rng = np.random.default_rng(0)
    params = drawn(rng, jax.eval_shape(lambda: cell.init(jax.random.key(0), 13)), 0.2)
    carry = jax.eval_shape(lambda: cell.initial_carry(params, (5,)))
    xs = drawn(rng, jax.ShapeDtypeStruct((1, 5, 13), dtype))
    mask, resets = jnp.asarray([[1, 1, 0, 0, 1]], bool), jnp.asarray([[0, 1, 0, 1, 1]], bool)
    inputs = Inputs(params, xs, drawn(rng, carry), drawn(rng, carry), mask, resets)
    # Two orders of summation of 34 numbers. In half precision gates are rounded before the backward pass, and gradients
    # in between.
    roundings = 4 if dtype == "bfloat16" else 16
    for options in (Options(), Options(reverse=True, return_carries=True)):
        cases.assert_close(
            outputs_and_gradients(native, cell, inputs, options),
            outputs_and_gradients(scan, cell, inputs, options),
            roundings * float(jnp.finfo(dtype).eps),
        )


@built
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("dtype", fuzz_native.DTYPES)
@over_cells
def test_a_row_is_the_same_to_the_last_bit_whatever_is_beside_it(name: str, dtype: str, steps: int) -> None:
    cell = make(name, 37, dtype)
    rng = np.random.default_rng(0)
    params = drawn(rng, jax.eval_shape(lambda: cell.init(jax.random.key(0), 11)), 0.2)
    xs = drawn(rng, jax.ShapeDtypeStruct((steps, 20, 11), dtype))
    carry = drawn(rng, jax.eval_shape(lambda: cell.initial_carry(params, (20,))))

    @functools.partial(jax.jit, compiler_options=cases.FAST_TO_COMPILE)
    def run(xs: Any, carry: Any) -> Any:
        out, back = jax.vjp(lambda *args: rj.unroll(cell, params, *args, implementation="native"), xs, carry)
        return out, back(jax.tree.map(jnp.cos, out))

    of_last = lambda rows, tree: jax.tree.map(lambda a: a[..., -rows:, :], tree)
    together = run(xs, carry)
    # A few rows of a single step go a way of their own.
    for rows in (1, 7, 9):
        cases.assert_same(run(*of_last(rows, (xs, carry))), of_last(rows, together))


@built
@over_cells
def test_rounding_is_that_of_the_scan(name: str) -> None:
    cell = make(name, 48)
    rng = np.random.default_rng(0)
    params = drawn(rng, jax.eval_shape(lambda: cell.init(jax.random.key(0), 24)), 0.15)
    xs = drawn(rng, jax.ShapeDtypeStruct((40, 6, 24), jnp.float32))
    carry = cell.initial_carry(params, (6,))
    double = lambda tree: tuple(np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree))
    _, expected, _ = oracles.unroll(CELLS[name][2], double(params), double(xs)[0], double(carry), double(carry))
    off = lambda kernel: np.abs(np.asarray(rj.unroll(cell, params, xs, implementation=kernel)[1]) - expected).max()
    assert 0 < off("native") <= 4 * off("scan")


@built
@pytest.mark.parametrize("value", [0.0, 1e-30, 0.5, 15.0, 90.0, 1e4, 1e38, np.inf])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gates_are_exact_from_zero_to_infinity(dtype: str, sign: int, value: float) -> None:
    # With nothing but a bias the cell gives tanh of it, and the LSTM's c, from 1 on, sigmoid: no sum hides them.
    x = jnp.full(1, sign * value, dtype)
    zeros = lambda *shape: jnp.zeros(shape, dtype)
    ulp = float(jnp.finfo(dtype).eps)
    params = rj.RNNParams(zeros(1, 1), zeros(1, 1), x)
    _, tanh = rj.unroll(rj.RNN(1, param_dtype=dtype), params, zeros(1, 1, 1), implementation="native")
    np.testing.assert_allclose(tanh[0, 0, 0], np.tanh(sign * value), rtol=4 * ulp)
    gates = rj.LSTMParams(zeros(1, 4), zeros(1, 4), jnp.concatenate([zeros(1), x, zeros(2)]))
    start = rj.LSTMCarry(zeros(1, 1), jnp.ones((1, 1), dtype))
    carry, _ = rj.unroll(rj.LSTM(1, param_dtype=dtype), gates, zeros(1, 1, 1), start, implementation="native")
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-sign * np.float64(value)))
    # Below the smallest normal number nothing is asked of it.
    np.testing.assert_allclose(carry.c[0, 0], expected, rtol=4 * ulp, atol=float(jnp.finfo(dtype).tiny) * 4)


@built
@over_cells
def test_nan_stays_nan_in_its_row_alone(name: str) -> None:
    cell = make(name, 9)
    params, xs, carry = cases.data(cell, (5,))
    _, ys = rj.unroll(cell, params, xs.at[2, 3, 1].set(jnp.nan), carry, implementation="native")
    lost = np.isnan(np.asarray(ys)).all(axis=-1)
    expected = np.zeros_like(lost)
    expected[2:, 3] = True
    np.testing.assert_array_equal(lost, expected)
    assert not np.isnan(np.asarray(ys)[~expected]).any()


@built
def test_vmap_over_rows_is_one_call_of_more_rows() -> None:
    cell = make("gru_after", 8)
    params, xs, carry = cases.data(cell, (6,))
    one = lambda x, start: rj.unroll(cell, params, x, start, implementation="native")
    many = jax.vmap(one, in_axes=(1, 0), out_axes=(0, 1))
    # To the last bit: a row's sums are taken in the same order whatever rows are beside it.
    cases.assert_same(many(xs, carry), one(xs, carry))
    assert "while" not in str(jax.make_jaxpr(many)(xs, carry))


@built
@pytest.mark.parametrize("name", ["lstm", "peephole_lstm"])
def test_calls_from_many_threads_at_once_give_the_same(name: str) -> None:
    # So much work that calls ask for helpers, of a pool that all share.
    cell = make(name, 64)
    params, xs, _ = cases.data(cell, (4,), 50)
    run = jax.jit(
        lambda xs: jax.value_and_grad(lambda p: rj.unroll(cell, p, xs, implementation="native")[1].sum())(params)
    )
    expected = run(xs)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for got in pool.map(lambda _: run(xs), range(30)):
            cases.assert_same(got, expected)


PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, recurrent_jax as rj
cell = rj.LSTM(72)
params = cell.init(jax.random.key(0), 5)
xs = jax.random.normal(jax.random.key(1), (20, 18, 5))
loss = lambda params, kernel: jnp.sum(jnp.sin(rj.unroll(cell, params, xs, implementation=kernel)[1]))
(got, d_got), (expected, d_expected) = (jax.value_and_grad(loss)(params, kernel) for kernel in ("native", "scan"))
np.testing.assert_allclose(got, expected, rtol=1e-5)
for x, y in zip(d_got, d_expected):
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * float(abs(y).max()))
"""


def run_alone(environment: dict[str, str], arguments: list[str]) -> str:
    """What a program prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PROBLEM = ["-c", "from recurrent_jax.kernels.native import library; print(library.load().problem)"]


@built
def test_an_instruction_set_that_there_is_not_is_named() -> None:
    said = run_alone({"RECURRENT_JAX_INSTRUCTION_SET": "AVX2"}, PROBLEM)
    assert said.startswith("RECURRENT_JAX_INSTRUCTION_SET=AVX2: this processor, or this build, has no such set")


def test_a_file_that_is_no_library_of_ours_is_named(tmp_path: Path) -> None:
    said = run_alone({"RECURRENT_JAX_NATIVE": str(tmp_path / "none.so")}, PROBLEM)
    assert said.strip() == f"RECURRENT_JAX_NATIVE: there is no file {tmp_path / 'none.so'}"
    said = run_alone({"RECURRENT_JAX_NATIVE": sys.modules["_ctypes"].__file__ or ""}, PROBLEM)
    assert said.startswith("built from other sources: ")


COMPILED = """
import pickle, sys
import jax, jax.numpy as jnp, recurrent_jax as rj
from jax.experimental import serialize_executable
from recurrent_jax.kernels.native import library
path, what = sys.argv[1:]
library.load()
cell = rj.LSTM(9)
params, xs = cell.init(jax.random.key(0), 8), jnp.ones((50, 16, 8))
if what == "save":
    compiled = jax.jit(lambda p, xs: rj.unroll(cell, p, xs, implementation="native")[1]).lower(params, xs).compile()
    pickle.dump(serialize_executable.serialize(compiled), open(path, "wb"))
else:
    run = serialize_executable.deserialize_and_load(*pickle.load(open(path, "rb")))
    try:
        jax.block_until_ready(run(params, xs))
    except Exception as error:
        print(error)
"""


@built
def test_a_program_compiled_for_narrower_vectors_is_refused(tmp_path: Path) -> None:
    # Its room for packed weights is too small: 9 units are 3 vectors of 4 there, and 1 of 16 here.
    run_alone({"RECURRENT_JAX_INSTRUCTION_SET": "baseline"}, ["-c", COMPILED, str(tmp_path / "program"), "save"])
    said = run_alone({}, ["-c", COMPILED, str(tmp_path / "program"), "load"])
    if library.load().instruction_set == "baseline":
        assert not said
    else:
        assert "the program was compiled for another instruction set" in said


@built
def test_nothing_that_is_saved_is_uninitialised() -> None:
    # What stays of a masked step, or of an RNN, lies in the open where gradients are taken outside of jit.
    for cell in (rj.RNN(64), rj.LSTM(64), rj.GRU(64)):
        params, xs, carry = cases.data(cell, (8,), 30, 16)
        unrolled = lambda p, cell=cell, xs=xs, carry=carry: rj.unroll(
            cell, p, xs, carry, lengths=jnp.arange(8) * 4, implementation="native"
        )
        for _ in range(5):
            junk = [jnp.full((30, 8, cell.gates * 64), jnp.nan, jnp.float32).block_until_ready() for _ in range(6)]
            for array in junk:
                array.delete()
            _, vjp = jax.vjp(unrolled, params)
            assert not any(bool(jnp.isnan(leaf).any()) for leaf in jax.tree.leaves(vjp) if leaf.dtype == jnp.float32)


@built
@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512", "avx512_bf16"])
def test_every_instruction_set_of_this_processor_is_right(name: str) -> None:
    # Every cell in every dtype once. Only the last set has instructions of its own for bfloat16.
    fuzz = ["-m", "tests.kernels.fuzz_native", "--shapes", "18", "--seed", "100"]
    if "no such set" in run_alone({"RECURRENT_JAX_INSTRUCTION_SET": name}, PROBLEM):
        pytest.skip(f"this processor has no {name}")
    summary = run_alone({"RECURRENT_JAX_INSTRUCTION_SET": name}, fuzz)
    assert f"native on {name}: 54 problems" in summary


@built
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system can't keep a process on one core")
def test_one_core_is_enough() -> None:
    # The affinity is inherited: XLA's pool has one thread, or more threads than there are cores.
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        run_alone({}, ["-c", PROGRAM])
        run_alone({"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, ["-c", PROGRAM])
    finally:
        os.sched_setaffinity(0, before)


class Renamed(rj.LSTM):
    """The same equations, other parameters to begin with."""

    def init(self, key: jax.Array, in_size: int) -> Any:
        """Halved."""
        return jax.tree.map(lambda a: a / 2, super().init(key, in_size))


class Changed(rj.LSTM):
    """Other equations."""

    def pointwise(self, params: Any, carry: Any, z: jax.Array, r: jax.Array) -> Any:
        """Twice the output."""
        carry, y = super().pointwise(params, carry, z, r)
        return carry, 2 * y


def reason(cell: Any, **changes: Any) -> str | None:
    """Why `native` refuses the cell."""
    params, xs, carry = cases.data(cell)
    return native.refuses(cell, Inputs(params, xs, carry)._replace(**changes), Options())


@built
def test_a_subclass_runs_as_long_as_its_equations_are_those_of_the_library() -> None:
    assert reason(Renamed(4)) is None
    cells = "RNN (tanh, relu), LSTM, PeepholeLSTM, CoupledLSTM, GRU(reset='after')"
    assert reason(Changed(4)) == f"{Changed(4)!r} is not among its cells: {cells}"


@built
def test_refusals_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason(rj.LSTM(4, dtype="float16")) == "dtype float16: it computes in float32, float64, bfloat16"
    assert "not among its cells" in str(reason(rj.RNN(4, activation=jnp.sin)))
    assert "not among its cells" in str(reason(rj.GRU(4, reset="before")))
    params = cases.data(rj.LSTM(4)).params
    assert reason(rj.LSTM(4), params=params._replace(w_h=params.w_h[:3])) == "params.w_h is not an array [4, 16]"
    assert reason(rj.PeepholeLSTM(4), params=params) == "params.p_i is not an array [4]"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert reason(rj.LSTM(4)) == "it runs on a CPU, and the default device is a gpu"


def test_without_the_library_the_next_kernel_runs_and_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "FILE", "missing.so")
    monkeypatch.delenv("RECURRENT_JAX_NATIVE", raising=False)
    library.load.cache_clear()
    try:
        cell = rj.LSTM(4)
        params, xs, carry = cases.data(cell)
        explanation = rj.explain(cell, params, xs, carry)
        assert explanation.chosen == "fused"
        root = pathlib.Path(rj.__file__).parents[1]
        ways = (f"--editable {root}", "pip install --force-reinstall")  # of the sources, and of what is installed
        assert str(explanation).startswith("native      refuses: not built: ")
        assert ways[not (root / "pyproject.toml").exists()] in str(explanation)
        with pytest.raises(NotImplementedError, match="implementation='native': native refuses: not built"):
            rj.unroll(cell, params, xs, carry, implementation="native")
    finally:
        library.load.cache_clear()


def test_a_library_for_a_newer_jax_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    if library.load().code is None:
        pytest.skip(f"native is {library.load().problem}")
    monkeypatch.setattr(library, "_api_of_xla", lambda: 0)
    library.load.cache_clear()
    try:
        assert str(library.load().problem).startswith("built for a newer JAX than ")
    finally:
        library.load.cache_clear()


def test_it_is_built_where_there_is_a_compiler() -> None:
    candidates = [os.environ["CXX"]] if "CXX" in os.environ else ["c++", "g++", "clang++"]
    compiles = lambda name: subprocess.run([name, "-xc++", "-fsyntax-only", "-"], input=b"int main() {}", check=False)
    if not any(shutil.which(name) and compiles(name).returncode == 0 for name in candidates):
        pytest.skip("there is no C++ compiler")
    assert library.load().problem is None
