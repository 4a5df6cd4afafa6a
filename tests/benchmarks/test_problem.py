"""Problems, their answers, and the sizes of a job, against numbers that are worked out by hand."""

import dataclasses

import numpy as np
import pytest

from benchmarks import problem
from benchmarks.cases import CASES, Case
from benchmarks.cells import CELLS
from benchmarks.problem import (
    DTYPES,
    FORWARD,
    GRADIENT,
    LEARNING_RATE,
    MEANING,
    MODES,
    PADDED,
    STEP,
    TRAIN,
    Answer,
    Job,
    Problem,
    draw,
    expected,
    tolerance,
)
from tests.oracles import Row

# D + H = 9; xs hold 2*3*4 = 24 numbers, ys 2*3*5 = 30, one leaf of the carry 3*5 = 15. A step: xs 12, ys 15.
SHAPE = Case(T=2, B=3, D=4, H=5)

# G*H*(D + H + 1), and b_n for the GRU, three peepholes for the LSTM that has them.
PARAMETERS = {
    "RNN": 50,
    "LSTM": 200,
    "GRU": 155,
    "RNN-relu": 50,
    "GRU-before": 150,
    "LSTM-peephole": 215,
    "LSTM-coupled": 150,
}
VECTORS = {"GRU": 1, "LSTM-peephole": 3}

# Forward: 2*T*B*(D + H)*G*H = 108*G*H; a step half of it; gradient three times of it; train without the
# 2*T*B*D*G*H = 48*G*H that lead to the inputs.
FLOPS = {
    "RNN": {STEP: 270, FORWARD: 540, GRADIENT: 1620, TRAIN: 1620 - 240},
    "LSTM": {STEP: 1080, FORWARD: 2160, GRADIENT: 6480, TRAIN: 6480 - 960},
    "GRU": {STEP: 810, FORWARD: 1620, GRADIENT: 4860, TRAIN: 4860 - 720},
    "RNN-relu": {STEP: 270, FORWARD: 540, GRADIENT: 1620, TRAIN: 1620 - 240},
    "GRU-before": {STEP: 810, FORWARD: 1620, GRADIENT: 4860, TRAIN: 4860 - 720},
    "LSTM-peephole": {STEP: 1080, FORWARD: 2160, GRADIENT: 6480, TRAIN: 6480 - 960},
    "LSTM-coupled": {STEP: 810, FORWARD: 1620, GRADIENT: 4860, TRAIN: 4860 - 720},
}

# In mode padded, rows of 1, 2 and 2 steps: five of six.
for numbers in FLOPS.values():
    numbers[PADDED] = numbers[GRADIENT] // 6 * 5

# Numbers in and out. Step and forward: parameters, xs, carry; ys, carry. Gradient: parameters, xs, y_weights, carry,
# carry_weights; gradients to parameters, xs, carry. Train: parameters, two moments, xs, targets, carry; parameters,
# two moments.
NUMBERS = {
    "RNN": {
        STEP: 50 + 12 + 15 + 15 + 15,
        FORWARD: 50 + 24 + 15 + 30 + 15,
        GRADIENT: 50 + 24 + 30 + 15 + 15 + 50 + 24 + 15,
        TRAIN: 3 * 50 + 24 + 30 + 15 + 3 * 50,
    },
    "LSTM": {
        STEP: 200 + 12 + 30 + 15 + 30,
        FORWARD: 200 + 24 + 30 + 30 + 30,
        GRADIENT: 200 + 24 + 30 + 30 + 30 + 200 + 24 + 30,
        TRAIN: 3 * 200 + 24 + 30 + 30 + 3 * 200,
    },
    "GRU": {
        STEP: 155 + 12 + 15 + 15 + 15,
        FORWARD: 155 + 24 + 15 + 30 + 15,
        GRADIENT: 155 + 24 + 30 + 15 + 15 + 155 + 24 + 15,
        TRAIN: 3 * 155 + 24 + 30 + 15 + 3 * 155,
    },
    "RNN-relu": {STEP: 107, FORWARD: 134, GRADIENT: 223, TRAIN: 369},
    "GRU-before": {STEP: 207, FORWARD: 234, GRADIENT: 423, TRAIN: 969},
    # 15 parameters more than the LSTM, and 50 fewer.
    "LSTM-peephole": {STEP: 302, FORWARD: 329, GRADIENT: 598, TRAIN: 1374},
    "LSTM-coupled": {STEP: 237, FORWARD: 264, GRADIENT: 468, TRAIN: 984},
}

# Without four inputs and five outputs.
for numbers in NUMBERS.values():
    numbers[PADDED] = numbers[GRADIENT] - (4 + 5)

over_cells = pytest.mark.parametrize("cell", CELLS)
over_modes = pytest.mark.parametrize("mode", MODES)
over_dtypes = pytest.mark.parametrize("dtype", DTYPES)


def job(cell: str = "LSTM", mode: str = FORWARD, dtype: str = "float32", case: str | None = None) -> Job:
    """A job of the small shape, or of a named case."""
    return Job(cell, case or "by hand", SHAPE if case is None else CASES[case], dtype, mode)


def leaves(one: Problem) -> list[np.ndarray]:
    """All arrays of a problem but its parameters."""
    return [one.xs, *one.carry, one.y_weights, *one.carry_weights]


@over_modes
def test_job_shape_is_one_step_in_mode_step_alone(mode: str) -> None:
    assert job(mode=mode).shape == (Case(T=1, B=3, D=4, H=5) if mode == STEP else SHAPE)
    assert job(mode=mode).case == SHAPE


def test_job_reads_as_one_line() -> None:
    assert str(job("GRU", TRAIN, "bfloat16", "tiny")) == "GRU train tiny bfloat16"


def test_every_mode_has_a_meaning() -> None:
    assert tuple(MEANING) == MODES


@over_cells
@over_modes
def test_flops_by_hand(cell: str, mode: str) -> None:
    assert problem.flops(job(cell, mode)) == FLOPS[cell][mode]


@over_cells
@over_modes
def test_parameters_by_hand(cell: str, mode: str) -> None:
    assert problem.parameters(job(cell, mode)) == PARAMETERS[cell]
    assert sum(leaf.size for leaf in draw(job(cell, mode), 1)[0].params) == PARAMETERS[cell]


@over_cells
@over_modes
def test_compulsory_bytes_by_hand(cell: str, mode: str) -> None:
    for dtype, size in {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}.items():
        assert problem.compulsory_bytes(job(cell, mode, dtype)) == size * NUMBERS[cell][mode]


@over_cells
@over_dtypes
def test_draw_gives_the_shapes_and_the_dtype(cell: str, dtype: str) -> None:
    (one,) = draw(job(cell, dtype=dtype), 1)
    gates = CELLS[cell].gates * 5
    assert [leaf.shape for leaf in one.params[:3]] == [(4, gates), (5, gates), (gates,)]
    assert [leaf.shape for leaf in one.params[3:]] == [(5,)] * VECTORS.get(cell, 0)
    assert (one.xs.shape, one.y_weights.shape) == ((2, 3, 4), (2, 3, 5))
    states = [(3, 5)] * (2 if cell.startswith("LSTM") else 1)
    assert [leaf.shape for leaf in one.carry] == [leaf.shape for leaf in one.carry_weights] == states
    assert {leaf.dtype.name for leaf in (*one.params, *leaves(one))} == {dtype}


@over_dtypes
def test_draw_gives_parameters_of_the_usual_size(dtype: str) -> None:
    # Uniform up to H**-0.5, as PyTorch initialises them; half precision may round the bound up.
    for leaf in draw(job("GRU", dtype=dtype, case="small"), 1)[0].params:
        assert 0.9 < np.abs(leaf.astype(np.float64)).max() * 32**0.5 <= 1.01


def test_draw_of_mode_step_is_one_step_long() -> None:
    (one,) = draw(job(mode=STEP), 1)
    assert (one.xs.shape, one.y_weights.shape) == ((1, 3, 4), (1, 3, 5))


@over_dtypes
def test_draw_keeps_parameters_and_changes_all_data(dtype: str) -> None:
    problems = draw(job("GRU", dtype=dtype), 3)
    assert len(problems) == 3
    for other in problems[1:]:
        for a, b in zip(problems[0].params, other.params, strict=True):
            np.testing.assert_array_equal(a, b)
    # No array of data occurs twice, neither in one problem nor in two.
    data = [leaf.tobytes() for one in problems for leaf in leaves(one)]
    assert len(set(data)) == len(data)


def test_draw_begins_alike_for_every_count() -> None:
    # The truth is computed of one problem, contestants are given three.
    for a, b in zip(leaves(draw(job(), 1)[0]), leaves(draw(job(), 3)[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(draw(job(), 1)[0].params, draw(job(), 3)[0].params, strict=True):
        np.testing.assert_array_equal(a, b)


def shifted(one: Problem, by: float, towards: dict[str, np.ndarray | Row]) -> Problem:
    """The problem a little further in one direction."""
    move = lambda leaf, d: tuple(map(move, leaf, d)) if isinstance(leaf, tuple) else leaf + by * d
    return one._replace(**{name: move(getattr(one, name), d) for name, d in towards.items()})


def loss(one: Problem, of: Job) -> float:
    """The loss of mode gradient or train, by the outputs of mode forward."""
    answer = expected(of._replace(mode=FORWARD), one)
    if of.mode == TRAIN:
        return float(np.mean((answer["ys"] - one.y_weights) ** 2))
    last = [answer[name] for name in CELLS[of.cell].carry]
    return float((answer["ys"] * one.y_weights).sum() + sum(map(np.vdot, last, one.carry_weights)))


@over_cells
@pytest.mark.parametrize("mode", [GRADIENT, TRAIN])
def test_expected_gradients_are_those_of_the_loss(cell: str, mode: str, rng: np.random.Generator) -> None:
    of = job(cell, mode, "float64")
    (one,) = draw(of, 1)
    answer = expected(of, one)
    # Mode gradient weighs ys by little.
    random = lambda leaf: tuple(map(random, leaf)) if isinstance(leaf, tuple) else rng.standard_normal(leaf.shape)
    moved = ("params",) if mode == TRAIN else ("params", "xs", "carry")
    names = {"params": CELLS[cell].params, "xs": ("xs",), "carry": CELLS[cell].carry}
    assert set(answer) - {"loss", "moved"} == {f"d {name}" for part in moved for name in names[part]}
    for part in moved:
        towards = random(getattr(one, part))
        step = 1e-6
        slope = (loss(shifted(one, step, {part: towards}), of) - loss(shifted(one, -step, {part: towards}), of)) / (
            2 * step
        )
        pairs = zip(names[part], towards if isinstance(towards, tuple) else (towards,), strict=True)
        # Rounding of the difference quotient: 1e-16 of the loss over the step.
        assert sum(np.vdot(answer[f"d {name}"], d) for name, d in pairs) == pytest.approx(slope, rel=1e-6, abs=1e-8)


@over_cells
def test_expected_of_padded_is_that_of_each_row_cut_short(cell: str) -> None:
    of = job(cell, PADDED, "float64")
    (one,) = draw(of, 1)
    answer, lengths = expected(of, one), problem.lengths(of)
    assert sorted(lengths) == [1, 2, 2]
    total = {f"d {name}": 0.0 for name in CELLS[cell].params}
    for row, length in enumerate(lengths):
        rows = lambda leaves, row=row: tuple(leaf[row : row + 1] for leaf in leaves)
        cut = lambda array, row=row, length=length: array[:length, row : row + 1]
        alone = Problem(one.params, cut(one.xs), rows(one.carry), cut(one.y_weights), rows(one.carry_weights))
        shorter = of._replace(mode=GRADIENT, case=of.case._replace(T=int(length), B=1))
        exact = expected(shorter, alone)
        for name in ("xs", *CELLS[cell].carry):
            got = answer[f"d {name}"]
            of_row = got[:length, row] if name == "xs" else got[row]
            np.testing.assert_allclose(of_row, exact[f"d {name}"].reshape(of_row.shape), rtol=1e-12)
        assert not answer["d xs"][length:, row].any()
        total = {name: value + exact[name] for name, value in total.items()}
    for name, value in total.items():
        np.testing.assert_allclose(answer[name], value, rtol=1e-12, atol=1e-15)


def test_expected_of_train_is_the_loss_and_one_step_of_adam() -> None:
    of = job("LSTM", TRAIN, "float64")
    (one,) = draw(of, 1)
    answer = expected(of, one)
    assert answer["loss"] == pytest.approx(loss(one, of), rel=1e-12)
    assert answer["moved"] == 1.0


NO_GRADIENTS = (np.zeros(()),) * 3


def test_trained_holds_the_change_to_one_digit() -> None:
    moved = lambda changes: float(
        problem.trained(job(), np.ones(()), NO_GRADIENTS, LEARNING_RATE * np.array(changes))["moved"]
    )
    # The median: half of the parameters may have a gradient that Adam's epsilon swallows.
    assert moved([0.97, 1.0, 1.04, 0.0]) == 1.0
    assert moved([2.0, 2.0, 2.0]) == 2.0
    assert moved([0.0, 0.0, 0.0]) == 0.0


def truth() -> dict[str, np.ndarray]:
    """An answer of two arrays, of which the first one's largest value is 10."""
    return {"ys": np.array([[1.0, -10.0, 2.0]]), "h": np.array([0.5, 0.25])}


def test_error_is_zero_of_the_truth_itself() -> None:
    assert problem.error(truth(), truth()) == 0.0


@pytest.mark.parametrize(("name", "index", "by", "error"), [("ys", (0, 0), 0.2, 0.02), ("h", (1,), -0.2, 0.4)])
def test_error_is_relative_to_the_largest_value_of_the_array(
    name: str, index: tuple[int, ...], by: float, error: float
) -> None:
    answer = truth()
    answer[name][index] += by
    assert problem.error(answer, truth()) == pytest.approx(error)


def test_error_of_an_array_of_zeros_is_absolute() -> None:
    zeros = {"ys": np.zeros((2, 3))}
    assert problem.error(zeros, zeros) == 0.0
    assert problem.error({"ys": np.full((2, 3), -0.5)}, zeros) == 0.5


@pytest.mark.parametrize("order", [("ys", "h"), ("h", "ys")])
def test_error_is_the_worst_of_all_arrays(order: tuple[str, str]) -> None:
    answer = truth()
    answer["ys"][0, 1] += 1.0
    answer["h"][0] += 0.01
    assert problem.error(answer, {name: truth()[name] for name in order}) == pytest.approx(0.1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("order", [("ys", "h"), ("h", "ys")], ids=" ".join)
@pytest.mark.parametrize("name", ["ys", "h"])
def test_error_of_what_is_not_finite_is_beyond_every_tolerance(name: str, order: tuple[str, str], value: float) -> None:
    # In whichever array it is: a good one behind it must not hide it.
    answer = truth()
    answer[name].flat[0] = value
    error = problem.error(answer, {name: truth()[name] for name in order})
    assert not error <= 1e300


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_error_takes_answers_in_half_precision(dtype: str) -> None:
    answer = {name: leaf.astype(dtype) for name, leaf in truth().items()}
    assert problem.error(answer, truth()) == 0.0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"ys": np.zeros((1, 3))}, "expected ys, h, got ys"),
        ({**truth(), "c": np.zeros(2)}, "expected ys, h, got ys, h, c"),
        ({**truth(), "ys": np.zeros((3, 1))}, r"expected ys of shape \[1, 3\], got \[3, 1\]"),
        # It would broadcast.
        ({**truth(), "h": np.zeros(())}, r"expected h of shape \[2\], got \[\]"),
    ],
    ids=["missing", "too many", "transposed", "scalar"],
)
def test_error_refuses_names_and_shapes(answer: Answer, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        problem.error(answer, truth())


@dataclasses.dataclass
class Mistake:
    """Two gates in the wrong order."""

    cell: str
    gates: tuple[int, int]

    def exchanged(self, arrays: Row, units: int) -> Row:
        """Columns of the two gates exchanged, where an array has gates."""
        order = np.arange(CELLS[self.cell].gates)
        order[list(self.gates)] = order[list(self.gates)[::-1]]
        by_gate = lambda a: a.reshape(*a.shape[:-1], -1, units)
        return tuple(a if a.shape[-1] == units else by_gate(a)[..., order, :].reshape(a.shape) for a in arrays)

    def answer(self, of: Job, one: Problem) -> Answer:
        """What an implementation with this order of gates returns, gradients in the order of the problem."""
        units = of.case.H
        answer = expected(of, one._replace(params=self.exchanged(one.params, units)))
        names = [name for name in ("d w_x", "d w_h", "d b") if name in answer]
        return {**answer, **dict(zip(names, self.exchanged(tuple(answer[n] for n in names), units), strict=True))}


@over_dtypes
@over_modes
@pytest.mark.parametrize(
    "mistake",
    [
        *(Mistake("LSTM", gates) for gates in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))),
        *(Mistake(cell, gates) for cell in ("GRU", "GRU-before", "LSTM-coupled") for gates in ((0, 1), (0, 2), (1, 2))),
    ],
    ids=lambda mistake: f"{mistake.cell}-{mistake.gates[0]}-{mistake.gates[1]}",
)
def test_tolerance_is_exceeded_by_a_wrong_order_of_gates(mistake: Mistake, mode: str, dtype: str) -> None:
    of = job(mistake.cell, mode, dtype, "small")
    (one,) = draw(of, 1)
    off = problem.error(mistake.answer(of, one), expected(of, one))
    for platform in ("cpu", "gpu", "tpu"):
        assert off > 1.5 * tolerance(of, platform)


@over_cells
@over_dtypes
def test_tolerance_is_exceeded_by_a_forgotten_bias(cell: str, dtype: str) -> None:
    # With many units, where the bias is small.
    of = job(cell, FORWARD, dtype, "tagger")
    (one,) = draw(of, 1)
    w_x, w_h, b, *inner = one.params
    without = one._replace(params=(w_x, w_h, np.zeros_like(b), *inner))
    off = problem.error(expected(of, without), expected(of, one))
    assert off > max(tolerance(of, "cpu"), tolerance(of, "gpu"))


@over_dtypes
def test_tolerance_leaves_room_for_the_dtypes_own_rounding(dtype: str) -> None:
    # A few roundings of the largest value.
    half = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    assert tolerance(job(dtype=dtype), "cpu") > 10 * half


def test_truth_is_the_answer_to_the_first_problem() -> None:
    of = job("GRU", GRADIENT, case="tiny")
    first = expected(of, draw(of, 3)[0])
    for name, leaf in problem.truth(of).items():
        np.testing.assert_array_equal(leaf, first[name])
    assert problem.truth(of) is problem.truth(of)
