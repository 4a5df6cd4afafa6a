"""`check_cell` finds nothing in a good cell, and each kind of break under the law that it breaks."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import recurrent_jax as rj
from tests import cases

counter = itertools.count()


class ImpureStep(rj.RNN):
    """Gives something else at every call."""

    def step(self, params: Any, carry: Any, x: Any) -> Any:
        """Adds a number that Python counts."""
        carry, y = super().step(params, carry, x)
        return carry, y + next(counter)


class ImpureInit(rj.RNN):
    """Draws something else at every call."""

    def init(self, key: Any, in_size: int) -> Any:
        """Counts into the bias."""
        params = super().init(key, in_size)
        return params._replace(b=params.b + next(counter))


class DriftingCarry(rj.RNN):
    """Its carry comes back in half precision."""

    def step(self, params: Any, carry: Any, x: Any) -> Any:
        """Rounds h."""
        carry, y = super().step(params, carry, x)
        return rj.RNNCarry(carry.h.astype(jnp.bfloat16)), y


class GrowingCarry(rj.RNN):
    """Its carry comes back as another structure."""

    def step(self, params: Any, carry: Any, x: Any) -> Any:
        """Wraps the carry."""
        carry, y = super().step(params, rj.RNNCarry(carry[0]), x)
        return (carry.h, carry.h), y


class MixingRows(rj.RNN):
    """Normalises over the batch."""

    def step(self, params: Any, carry: Any, x: Any) -> Any:
        """Takes the mean over rows off the input."""
        return super().step(params, carry, x - x.mean(axis=0, keepdims=True) if x.ndim > 1 else x)


class WrongSplit(rj.RNN):
    """Its step is not what its halves say."""

    def step(self, params: Any, carry: Any, x: Any) -> Any:
        """Doubles the input, of which `project` knows nothing."""
        return super().step(params, carry, 2 * x)


class WrongRecur(rj.RNN):
    """Its recur is not what `pointwise` says, though it says so."""

    is_pointwise = True

    def recur(self, params: Any, carry: Any, z: Any) -> Any:
        """Halves h after the fact."""
        carry, y = super().recur(params, carry, z)
        return rj.RNNCarry(carry.h / 2), y


class MixingPointwise(rj.PointwiseCell):
    """Its `pointwise` looks at other rows."""

    def pointwise(self, params: Any, carry: Any, z: Any, r: Any) -> Any:
        """Sums over the batch."""
        h = jnp.tanh(z + r + (z.sum(axis=0, keepdims=True) if z.ndim > 1 else 0))
        return carry._replace(h=h), h


class OtherGradient(rj.RNN):
    """Its `recur` has the values that `pointwise` says, but not the gradient."""

    is_pointwise = True

    def recur(self, params: Any, carry: Any, z: Any) -> Any:
        """Takes the carry as a constant."""
        return super().recur(params, jax.lax.stop_gradient(carry), z)


class FailingStep(rj.RNN):
    """Raises."""

    def step(self, params: Any, carry: Any, x: Any) -> Any:
        """Raises."""
        raise ArithmeticError("no step today")


class UnequalToItself(rj.RNN):
    """Compares by identity, so that each fresh one compiles again."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class NotForJit(rj.RNN):
    """Looks at values."""

    def step(self, params: Any, carry: Any, x: Any) -> Any:
        """Branches in Python on what only a run can know."""
        return super().step(params, carry, x if float(x.sum()) < 1e9 else -x)


STABLE, PURE, JIT = "a step keeps the carry's structure, shapes and dtypes", "a step is pure", "jit changes nothing"
VMAP, INDEPENDENT = "vmap over rows is a batch", "rows of a batch are independent"
SPLIT, POINTWISE = "step is recur after project", "recur is pointwise after one matmul"
FUSED = "fused has the outputs and gradients of scan"
BROKEN = [
    (ImpureStep, PURE),
    (ImpureInit, "init is pure"),
    (DriftingCarry, STABLE),
    (GrowingCarry, STABLE),
    (MixingRows, INDEPENDENT),
    (MixingRows, VMAP),
    (WrongSplit, SPLIT),
    (WrongRecur, POINTWISE),
    (MixingPointwise, INDEPENDENT),
    (MixingPointwise, VMAP),
    (OtherGradient, FUSED),
    (UnequalToItself, "equal cells hash alike"),
    (NotForJit, JIT),
]


GOOD = [
    rj.LSTM(4, dtype="bfloat16"),
    rj.GRU(4, reset="before"),
    rj.PeepholeLSTM(4, dtype="float16"),
    rj.CoupledLSTM(4),
    cases.LEARNED_START.cell,
]


@functools.cache
def report_of(cell: Any) -> rj.CellReport:
    """`check_cell` once for each cell."""
    return rj.check_cell(cell, in_size=2)


@pytest.mark.parametrize("cell", GOOD, ids=lambda cell: type(cell).__name__)
def test_good_cell_is_ok(cell: Any) -> None:
    report = report_of(cell)
    assert report.ok, str(report)


def test_plain_object_is_ok() -> None:
    report = rj.check_cell(cases.Counter())
    assert report.ok, str(report)
    assert {SPLIT, POINTWISE, FUSED}.isdisjoint(name for name, _ in report.laws)


@pytest.mark.parametrize(("family", "law"), BROKEN)
def test_broken_cell_is_reported_under_its_law(family: Any, law: str) -> None:
    report = report_of(family(3))
    assert not report.ok
    assert dict(report.laws)[law] is not None, str(report)


def test_broken_split_is_not_blamed_on_other_laws() -> None:
    broken = {name for name, problem in report_of(WrongSplit(3)).laws if problem}
    assert broken == {SPLIT}


def test_broken_gradient_is_not_blamed_on_other_laws() -> None:
    assert {name for name, problem in report_of(OtherGradient(3)).laws if problem} == {FUSED}


def test_error_of_the_cell_is_the_finding() -> None:
    report = report_of(FailingStep(3))
    assert dict(report.laws)[PURE] == "ArithmeticError: no step today"
    assert dict(report.laws)["init is pure"] is None


def test_report_prints_each_law_and_what_broke_it() -> None:
    report = rj.CellReport((("short", None), ("a longer one", "differs by 2")))
    assert str(report) == repr(report) == "short         holds\na longer one  BROKEN: differs by 2"
    assert not report.ok
    assert rj.CellReport((("short", None),)).ok


def test_report_tells_the_same_words_once() -> None:
    report = rj.CellReport((("a", "no"), ("b", None), ("c", "no")))
    assert str(report) == "a  BROKEN: no\nb  holds\nc  BROKEN: as above"


def test_report_says_where_and_how_far() -> None:
    problem = dict(report_of(WrongSplit(3)).laws)[SPLIT]
    assert problem is not None
    assert problem.startswith("step[0].h: differs by ")
    assert "more than rounding" in problem


@pytest.mark.parametrize("in_size", [0, 1.5])
def test_bad_in_size_is_named(in_size: Any) -> None:
    with pytest.raises(ValueError, match=r"^in_size: expected a positive integer, got "):
        rj.check_cell(rj.LSTM(4), in_size=in_size)


def test_cell_without_methods_is_refused() -> None:
    with pytest.raises(TypeError, match="cell: expected the methods init, initial_carry and step, "):
        rj.check_cell(object())


@pytest.mark.parametrize("input_feeding", [True, False])
@pytest.mark.parametrize("score", ["dot", "general", "additive"])
def test_attentive_cell_is_ok_with_one_memory_for_all_rows(score: Any, input_feeding: bool) -> None:
    cell = rj.AttentiveCell(rj.LSTM(4), 4, attention=rj.Attention(score), input_feeding=input_feeding)
    values = jax.random.normal(jax.random.key(1), (6, 4), "float32")
    params = cell.remember(cell.init(jax.random.key(0), 2), values, lengths=5)
    report = rj.check_cell(cell, in_size=2, params=params)
    assert report.ok, str(report)


def test_attentive_cell_without_such_a_memory_is_refused_in_one_line() -> None:
    cell = rj.AttentiveCell(rj.LSTM(4), 4)
    without = cell.init(jax.random.key(0), 2)
    message = r"^params: expected what cell.remember returns for values \[S, M\], one memory for all rows, got "
    for params in (None, without):
        with pytest.raises(ValueError, match=message + "no memory$"):
            rj.check_cell(cell, in_size=2, params=params)
    with pytest.raises(ValueError, match=message + r"Memory\(values float32\[3,6,4\], "):
        rj.check_cell(cell, in_size=2, params=cell.remember(without, jnp.ones((6, 3, 4), "float32")))


@pytest.mark.parametrize(("factor", "word"), [(jnp.nan, "NaN"), (jnp.inf, "infinite")])
def test_values_that_are_no_numbers_are_called_so(factor: float, word: str) -> None:
    class Odd(rj.RNN):
        """Its outputs are no numbers."""

        def step(self, params: Any, carry: Any, x: Any) -> Any:
            """Of one sign."""
            carry, y = super().step(params, carry, x)
            return carry, (2 + y) * factor

    assert dict(rj.check_cell(Odd(3)).laws)[PURE] == f"step[1]: values are {word}"


def test_parameters_that_are_given_are_tried() -> None:
    cell = rj.LSTM(4)
    params = cell.init(jax.random.key(0), 2)
    assert rj.check_cell(cell, in_size=2, params=params).ok
    report = rj.check_cell(cell, in_size=2, params=params._replace(b=params.b * jnp.nan))
    assert dict(report.laws)[PURE] == "step[0].h: values are NaN"


@pytest.mark.parametrize(
    ("params", "in_size"), [(3, 5), (rj.LSTM(4).init(jax.random.key(0), 3), 5)], ids=["no parameters", "other features"]
)
def test_parameters_that_do_not_fit_are_refused(params: Any, in_size: int) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^(params: expected what|xs: expected \[T, ..., 3\], got)"):
        rj.check_cell(rj.LSTM(4), in_size, params)


@pytest.mark.parametrize("memory", [5, [1, 2]])
def test_memory_of_another_kind_is_refused(memory: Any) -> None:
    cell = rj.AttentiveCell(rj.LSTM(4), memory_size=4)
    with pytest.raises(ValueError, match=r"^params: expected what cell.remember returns"):
        rj.check_cell(cell, params=cell.init(jax.random.key(0), 5)._replace(memory=memory))
