"""Each error at the boundary names the argument, what was expected, and what came."""

import dataclasses
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from tests import cases

CELL = rj.LSTM(4)
PARAMS, XS, CARRY = cases.data(CELL)  # T = 6, B = 3, D = 3
TRUE = np.ones((6, 3), bool)


class OnlyStep:
    """Lacks `init` and `initial_carry`."""

    def step(self, params: Any, carry: Any, x: Any) -> Any:
        """Does nothing."""
        return carry, x

    def __repr__(self) -> str:
        return "OnlyStep()"


# What is written in place of the good argument, the kind of error, and the whole of what it says.
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "xs of one axis": ({"xs": XS[:, 0, 0]}, ValueError, "xs: expected [T, ..., D], got [6]"),
    "xs of no axis": ({"xs": XS[0, 0, 0]}, ValueError, "xs: expected [T, ..., D], got []"),
    "xs of other features": ({"xs": XS[..., :2]}, ValueError, "xs: expected [T, ..., 3], got [6, 3, 2]"),
    "xs of integers": (
        {"xs": np.ones((6, 3, 3), np.int32)},
        TypeError,
        "xs: expected a floating dtype, got int32; one-hot encode or embed integers first",
    ),
    "xs of bools": ({"xs": TRUE[..., None]}, TypeError, "xs: expected a floating dtype, got bool; "),
    "xs of complex numbers": (
        {"xs": XS.astype(jnp.complex64)},
        TypeError,
        "xs: expected a floating dtype, got complex64",
    ),
    "xs of lists": ({"xs": [[1.0]]}, TypeError, "xs: expected an array [T, ..., D], got list"),
    "no xs": ({"xs": None}, TypeError, "xs: expected an array [T, ..., D], got NoneType"),
    "lengths beyond T": ({"lengths": [0, 7, 1]}, ValueError, "lengths: expected values from 0 to T=6, got 7"),
    "lengths below zero": ({"lengths": [0, -2, 1]}, ValueError, "lengths: expected values from 0 to T=6, got -2"),
    "lengths of floats": (
        {"lengths": np.ones(3, np.float32)},
        TypeError,
        "lengths: expected integers, got float32",
    ),
    "lengths of bools": ({"lengths": np.ones(3, bool)}, TypeError, "lengths: expected integers, got bool"),
    "lengths of other rows": ({"lengths": [1, 2]}, ValueError, "lengths: expected shape [3], got [2]"),
    "lengths of no axis": ({"lengths": 2}, ValueError, "lengths: expected shape [3], got []"),
    "lengths of two axes": ({"lengths": [[1, 2, 3]]}, ValueError, "lengths: expected shape [3], got [1, 3]"),
    "mask of integers": ({"mask": TRUE.astype(int)}, TypeError, "mask: expected bool, got int64"),
    "mask of other rows": ({"mask": TRUE[:, :2]}, ValueError, "mask: expected shape [6, 3], got [6, 2]"),
    "mask of batch first": ({"mask": TRUE.T}, ValueError, "mask: expected shape [6, 3], got [3, 6]"),
    "mask with features": ({"mask": TRUE[..., None]}, ValueError, "mask: expected shape [6, 3], got [6, 3, 1]"),
    "resets of floats": ({"resets": TRUE * 1.0}, TypeError, "resets: expected bool, got float64"),
    "resets of other steps": ({"resets": TRUE[1:]}, ValueError, "resets: expected shape [6, 3], got [5, 3]"),
    "lengths and mask": (
        {"lengths": [1, 1, 1], "mask": TRUE},
        ValueError,
        "lengths: expected lengths or mask, got both; write the lengths into the mask",
    ),
    "carry without a leaf": (
        {"carry": rj.RNNCarry(CARRY.h)},
        ValueError,
        "carry: expected LSTMCarry(h float32[3,4], c float32[3,4]), got RNNCarry(h float32[3,4])",
    ),
    "carry as a tuple": (
        {"carry": tuple(CARRY)},
        ValueError,
        "carry: expected LSTMCarry(h float32[3,4], c float32[3,4]), got tuple(float32[3,4], float32[3,4])",
    ),
    "carry of one row": (
        {"carry": jax.tree.map(lambda leaf: leaf[0], CARRY)},
        ValueError,
        "carry: expected LSTMCarry(h float32[3,4], c float32[3,4]), got LSTMCarry(h float32[4], c float32[4])",
    ),
    "carry of another dtype": (
        {"carry": CARRY._replace(c=CARRY.c.astype(jnp.bfloat16))},
        ValueError,
        "carry: expected LSTMCarry(h float32[3,4], c float32[3,4]), got LSTMCarry(h float32[3,4], c bfloat16[3,4])",
    ),
    "carry with None": (
        {"carry": CARRY._replace(c=None)},
        ValueError,
        "carry: expected LSTMCarry(h float32[3,4], c float32[3,4]), got LSTMCarry(h float32[3,4], c None)",
    ),
    "carry of a string": (
        {"carry": "zeros"},
        ValueError,
        "carry: expected LSTMCarry(h float32[3,4], c float32[3,4]), ",
    ),
    "unknown implementation": (
        {"implementation": "fast"},
        ValueError,
        "implementation: expected None, one of 'native', 'mosaic_gpu', 'fused', 'pallas_tpu', 'cudnn', 'scan', "
        "or a tuple of these, got 'fast'",
    ),
    "unknown implementation among others": (
        {"implementation": ("fused", "fast")},
        ValueError,
        "or a tuple of these, got ('fused', 'fast')",
    ),
    "no implementation": ({"implementation": ()}, ValueError, "or a tuple of these, got ()"),
    "implementation of another kind": ({"implementation": 3}, ValueError, "or a tuple of these, got 3"),
    "unroll of zero": ({"unroll": 0}, ValueError, "unroll: expected a positive integer, got 0"),
    "unroll of True": ({"unroll": True}, ValueError, "unroll: expected a positive integer, got True"),
    "checkpoint_every of zero": (
        {"checkpoint_every": 0},
        ValueError,
        "checkpoint_every: expected a positive integer, got 0",
    ),
    "checkpoint_every of a float": (
        {"checkpoint_every": 2.0},
        ValueError,
        "checkpoint_every: expected a positive integer, got 2.0",
    ),
    "params of another family": (
        {"params": rj.RNN(4).init(jax.random.key(0), 3)},
        ValueError,
        "params: expected LSTMParams(w_x float32[3,16], w_h float32[4,16], b float32[16]) as LSTM(",
    ),
    "params of another size": (
        {"params": rj.LSTM(5).init(jax.random.key(0), 3)},
        ValueError,
        "got LSTMParams(w_x float32[3,20], w_h float32[5,20], b float32[20])",
    ),
    "params of none": ({"params": None}, TypeError, "params: expected what LSTM("),
    "params of a dictionary": ({"params": dict(PARAMS._asdict())}, TypeError, ".init returns, got dict"),
    "params without leaves": ({"params": ()}, TypeError, ".init returns, got tuple"),
    "cell of a class": (
        {"cell": rj.LSTM},
        TypeError,
        "cell: expected an instance, got the class LSTM; write LSTM(...)",
    ),
    "cell without methods": (
        {"cell": OnlyStep()},
        TypeError,
        "cell: expected the methods init, initial_carry and step, OnlyStep() lacks init, initial_carry",
    ),
    "cell of none": ({"cell": None}, TypeError, "cell: expected the methods init, initial_carry and step, None lacks"),
}


@pytest.mark.parametrize("call", [rj.unroll, rj.explain], ids=["unroll", "explain"])
@pytest.mark.parametrize("name", ERRORS)
def test_error_names_the_argument_what_was_expected_and_what_came(name: str, call: Any) -> None:
    change, kind, text = ERRORS[name]
    arguments = {"cell": CELL, "params": PARAMS, "xs": XS, "carry": CARRY, **change}
    positional = [arguments.pop(argument) for argument in ("cell", "params", "xs", "carry")]
    with pytest.raises(kind, match=re.escape(text)) as caught:
        call(*positional, **arguments)
    assert re.match(r"[a-z_]+: expected ", str(caught.value))


def test_the_good_call_is_good() -> None:
    carry, ys = rj.unroll(CELL, PARAMS, XS, CARRY, lengths=[0, 6, 1])
    assert carry.h.shape == (3, 4)
    assert ys.shape == (6, 3, 4)


@pytest.mark.parametrize("name", ["xs of other features", "mask of integers", "carry of one row", "unroll of zero"])
def test_errors_are_the_same_under_jit(name: str) -> None:
    change, kind, text = ERRORS[name]
    arguments = {"xs": XS, "carry": CARRY, **change}
    given = arguments.pop("xs")
    with pytest.raises(kind, match=re.escape(text)):
        jax.jit(lambda xs: rj.unroll(CELL, PARAMS, xs, **arguments))(given)


def test_lengths_that_are_traced_are_not_looked_at() -> None:
    # Their values are unknown under jit; a row that claims to be longer than T is a row of T steps.
    run = lambda lengths: rj.unroll(CELL, PARAMS, XS, CARRY, lengths=lengths)
    cases.assert_close(jax.jit(run)(jnp.array([6, 9, 1])), run(np.array([6, 6, 1])), 1e-6)


@pytest.mark.parametrize("lengths", [(), [], np.zeros(0, np.int64)], ids=["tuple", "list", "array"])
def test_lengths_of_no_rows_are_integers(lengths: Any) -> None:
    assert rj.unroll(CELL, PARAMS, XS[:, :0], lengths=lengths)[1].shape == (6, 0, 4)


def test_checkpoints_of_an_unknown_number_of_steps_are_refused() -> None:
    (steps,) = jax.export.symbolic_shape("steps")
    xs = jax.ShapeDtypeStruct((steps, *XS.shape[1:]), XS.dtype)
    run = jax.jit(lambda xs: rj.unroll(CELL, PARAMS, xs, checkpoint_every=2))
    with pytest.raises(NotImplementedError, match=r"^checkpoint_every: expected xs of a known number of steps, got "):
        jax.export.export(run)(xs)


@pytest.mark.parametrize("implementation", ["fused", ("fused",), ("fused", "fused")])
def test_kernel_that_refuses_says_why(implementation: Any) -> None:
    cell = rj.GRU(4, reset="before")
    params, xs, _ = cases.data(cell)
    text = re.escape(f"implementation={implementation!r}: fused refuses: GRU(hidden_size=4, ")
    with pytest.raises(NotImplementedError, match=text + r".*more than one recurrent matmul.*implementation=None"):
        rj.unroll(cell, params, xs, implementation=implementation)


def test_kernel_that_refuses_is_passed_over_in_a_tuple() -> None:
    cell = rj.GRU(4, reset="before")
    params, xs, _ = cases.data(cell)
    cases.assert_same(
        rj.unroll(cell, params, xs, implementation=("fused", "scan")),
        rj.unroll(cell, params, xs, implementation="scan"),
    )


def test_arguments_behind_the_carry_have_names() -> None:
    with pytest.raises(TypeError, match="positional arguments"):
        rj.unroll(CELL, PARAMS, XS, CARRY, [1, 1, 1])


# What a `pointwise` gives in place of (carry, y), and how the message calls it.
MISTAKES: dict[str, tuple[Any, str]] = {
    "nothing": (lambda carry, h: None, "None"),
    "y alone": (lambda carry, h: h, "float32[3,4]"),
    "h in place of the carry": (lambda carry, h: (h, h), "tuple(float32[3,4], float32[3,4])"),
    "y first": (lambda carry, h: (h, carry), "tuple(float32[3,4], RNNCarry(h float32[3,4]))"),
    "a list": (lambda carry, h: [carry, h], "list(RNNCarry(h float32[3,4]), float32[3,4])"),
    "h of other units": (lambda carry, h: (rj.RNNCarry(h[:, :2]), h), "tuple(RNNCarry(h float32[3,2]), float32[3,4])"),
    "h of one row": (lambda carry, h: (rj.RNNCarry(h[0]), h), "tuple(RNNCarry(h float32[4]), float32[3,4])"),
    "h of a number": (lambda carry, h: (rj.RNNCarry(0.0), h), "tuple(RNNCarry(h float), float32[3,4])"),
    "h complex": (
        lambda carry, h: (rj.RNNCarry(h.astype("complex64")), h),
        "tuple(RNNCarry(h complex64[3,4]), float32[3,4])",
    ),
    "y of a number": (lambda carry, h: (carry, 1.0), "tuple(RNNCarry(h float32[3,4]), float)"),
    "y of a string": (lambda carry, h: (carry, {"y": "y"}), "tuple(RNNCarry(h float32[3,4]), dict)"),
}


@pytest.mark.parametrize("implementation", [None, "scan"])
@pytest.mark.parametrize("name", MISTAKES)
def test_pointwise_that_gives_something_else_is_named(name: str, implementation: Any) -> None:
    class Mistaken(rj.PointwiseCell):
        """A cell as it is first written."""

        def pointwise(self, params: Any, carry: Any, z: Any, r: Any) -> Any:
            """Not what it should."""
            return MISTAKES[name][0](carry, jnp.tanh(z + r))

    text = (
        "Mistaken.pointwise: expected (carry, y) with a RNNCarry as it was given, "
        f"got {MISTAKES[name][1]}, where the carry was RNNCarry(h float32[3,4]) and y is of real arrays"
    )
    params, xs, _ = cases.data(Mistaken(4))
    with pytest.raises(TypeError, match=f"^{re.escape(text)}"):
        rj.unroll(Mistaken(4), params, xs, implementation=implementation)
    broken = {problem for _, problem in rj.check_cell(Mistaken(4), 3).laws if problem}
    assert broken == {f"TypeError: {text}"}


def test_a_step_of_rows_may_begin_with_a_carry_of_none() -> None:
    with jax.numpy_rank_promotion("allow"):
        got = CELL.step(PARAMS, CELL.initial_carry(PARAMS), XS[0])
    cases.assert_close(got, CELL.step(PARAMS, CELL.initial_carry(PARAMS, (3,)), XS[0]), 1e-6)


class Phases(NamedTuple):
    """A carry of which one leaf is complex."""

    h: jax.Array
    s: jax.Array


class Oscillator(rj.PointwiseCell):
    """Turns the phase of a complex state."""

    def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> Any:
        shape = (*batch_shape, self.hidden_size)
        return Phases(jnp.zeros(shape, self.compute_dtype), jnp.ones(shape, jnp.complex64))

    def pointwise(self, params: Any, carry: Any, z: jax.Array, r: jax.Array) -> Any:
        s = carry.s * jnp.complex64(1j)
        h = jnp.tanh(z + r) + s.real
        return Phases(h, s), h


def test_a_carry_may_be_complex() -> None:
    cell = Oscillator(4)
    carry, ys = rj.unroll(cell, cell.init(jax.random.key(0), 3), jnp.ones((2, 5, 3), jnp.float32))
    np.testing.assert_array_equal(carry.s, -np.ones((5, 4), np.complex64))
    assert ys.dtype == jnp.float32


def test_a_carry_of_which_some_has_rows_is_broadcast() -> None:
    cell = rj.LSTM(4)
    params = cell.init(jax.random.key(0), 3)
    given = rj.LSTMCarry(jnp.zeros((2, 4), jnp.float32), jnp.zeros(4, jnp.float32))
    with jax.numpy_rank_promotion("allow"):
        carry, _ = cell.step(params, given, jnp.ones((2, 3), jnp.float32))
    assert carry.c.shape == (2, 4)


def test_a_cell_equal_to_another_with_another_carry_is_not_taken_for_it() -> None:
    @dataclasses.dataclass(frozen=True)
    class Fill:
        value: Any

        def init(self, key: Any, in_size: int) -> Any:
            return ()

        def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> Any:
            return jnp.full(batch_shape, self.value)

        def step(self, params: Any, carry: Any, x: Any) -> Any:
            return carry, x

    for value in (0, 0.0):
        cell = Fill(value)
        carry, _ = rj.step(cell, (), cell.initial_carry((), (2,)), jnp.ones((2, 3)))
        assert carry.dtype == jnp.asarray(value).dtype
