"""A cell is a value: printable, comparable, hashable, frozen; and it refuses attributes that mean nothing."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from tests import cases


@cases.over_cases
def test_fresh_equal_cells_are_equal(case: cases.Case) -> None:
    fresh = dataclasses.replace(case.cell)
    assert fresh is not case.cell
    assert fresh == case.cell
    assert hash(fresh) == hash(case.cell)


@pytest.mark.parametrize("change", [{"hidden_size": 5}, {"dtype": "bfloat16"}, {"forget_bias": 0.0}], ids=str)
def test_cells_that_differ_are_not_equal(change: dict[str, Any]) -> None:
    assert rj.LSTM(**{"hidden_size": 4, **change}) != rj.LSTM(4)


def test_cells_of_other_families_are_not_equal() -> None:
    families = {rj.LSTM(4), rj.PeepholeLSTM(4), rj.CoupledLSTM(4), rj.GRU(4), rj.RNN(4), rj.PointwiseCell(4)}
    assert len({*families, rj.GRU(4, reset="before")}) == 7


@pytest.mark.parametrize("spelling", ["bfloat16", jnp.bfloat16, jnp.dtype("bfloat16")], ids=repr)
def test_dtypes_are_equal_however_they_are_written(spelling: Any) -> None:
    cell = rj.LSTM(4, dtype=spelling)
    assert cell == rj.LSTM(4, dtype="bfloat16")
    assert hash(cell) == hash(rj.LSTM(4, dtype="bfloat16"))
    assert cell.compute_dtype == jnp.bfloat16


def test_compute_dtype_is_that_of_the_parameters_unless_given() -> None:
    assert rj.GRU(4, param_dtype="float16").compute_dtype == jnp.float16
    assert rj.GRU(4, param_dtype="float16", dtype="float32").compute_dtype == jnp.float32


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (rj.RNN(4), "RNN(hidden_size=4, param_dtype='float32', dtype=None, activation='tanh')"),
        (rj.LSTM(4), "LSTM(hidden_size=4, param_dtype='float32', dtype=None, forget_bias=1.0)"),
        (rj.PeepholeLSTM(4), "PeepholeLSTM(hidden_size=4, param_dtype='float32', dtype=None, forget_bias=1.0)"),
        (rj.CoupledLSTM(4), "CoupledLSTM(hidden_size=4, param_dtype='float32', dtype=None, forget_bias=1.0)"),
        (rj.GRU(4), "GRU(hidden_size=4, param_dtype='float32', dtype=None, reset='after')"),
    ],
    ids=["rnn", "lstm", "peephole_lstm", "coupled_lstm", "gru"],
)
def test_repr_says_what_the_cell_is(cell: Any, text: str) -> None:
    assert repr(cell) == text


@cases.over_cases
def test_cells_are_frozen(case: cases.Case) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        case.cell.hidden_size = 5


def test_hidden_size_of_numpy_is_the_same_cell() -> None:
    assert rj.LSTM(np.int64(4)) == rj.LSTM(4)


@pytest.mark.parametrize("make", [rj.RNN, rj.LSTM, rj.PeepholeLSTM, rj.CoupledLSTM, rj.GRU, rj.PointwiseCell])
@pytest.mark.parametrize("size", [0, -3, 2.0, "4", None, True], ids=repr)
def test_bad_hidden_size_is_named(make: Any, size: Any) -> None:
    with pytest.raises(ValueError, match=f"^hidden_size: expected a positive integer, got {size!r}$"):
        make(size)


@pytest.mark.parametrize("name", ["param_dtype", "dtype"])
@pytest.mark.parametrize("dtype", ["float33", "int32", jnp.int32, complex, bool, 3], ids=repr)
def test_bad_dtype_is_named(name: str, dtype: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected one of float16, bfloat16, float32, float64, got "):
        rj.LSTM(4, **{name: dtype})


def test_no_param_dtype_is_named() -> None:
    # NumPy reads None as float64; here it is no dtype.
    with pytest.raises(ValueError, match=r"^param_dtype: expected one of .*, got None$"):
        rj.LSTM(4, param_dtype=None)


@pytest.mark.parametrize("activation", ["sigmoidal", None, 3, ["tanh"]], ids=repr)
def test_bad_activation_is_named(activation: Any) -> None:
    with pytest.raises(ValueError, match=r"^activation: expected 'tanh', 'relu' or a function, got "):
        rj.RNN(4, activation=activation)


@pytest.mark.parametrize("reset", ["behind", None, True], ids=repr)
def test_bad_reset_is_named(reset: Any) -> None:
    with pytest.raises(ValueError, match=f"^reset: expected 'after' or 'before', got {reset!r}$"):
        rj.GRU(4, reset=reset)


@pytest.mark.parametrize("make", [rj.LSTM, rj.PeepholeLSTM, rj.CoupledLSTM])
@pytest.mark.parametrize("bias", ["one", None], ids=repr)
def test_bad_forget_bias_is_named(make: Any, bias: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^forget_bias: expected .*, got {bias!r}$"):
        make(4, forget_bias=bias)


@pytest.mark.parametrize("name", ["w_x_init", "w_h_init"])
def test_bad_initialiser_is_named(name: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{name}: expected .*, got 3$"):
        rj.LSTM(4, **{name: 3})


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_initial_carry_is_zeros_of_the_batch_shape(batch: tuple[int, ...]) -> None:
    for cell in (rj.RNN(4), rj.GRU(4), rj.LSTM(4), rj.PeepholeLSTM(4), rj.CoupledLSTM(4)):
        carry = cell.initial_carry(cell.init(jax.random.key(0), 3), batch)
        assert carry._fields == (("h", "c") if "LSTM" in type(cell).__name__ else ("h",))
        for leaf in carry:
            np.testing.assert_array_equal(leaf, np.zeros((*batch, 4)))


def test_cell_with_an_init_method_of_its_own_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Leaky: expected annotated fields.*got a method __init__"):

        class Leaky(rj.PointwiseCell):
            def __init__(self, hidden_size: int, alpha: float) -> None:
                super().__init__(hidden_size)
                object.__setattr__(self, "alpha", alpha)


def test_fields_without_the_decorator_are_refused() -> None:
    class Leaky(rj.PointwiseCell):
        alpha: float = 0.1

    with pytest.raises(TypeError, match=r"Leaky: expected annotated fields.*the decorator is missing"):
        Leaky(4, alpha=0.5)
