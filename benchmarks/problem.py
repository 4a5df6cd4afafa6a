"""What every contestant of one comparison is given, and the float64 answer that it must return.

NumPy only: a process that times another framework reads this too.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401, teaches NumPy the name bfloat16
import numpy as np

from benchmarks.cases import Case
from benchmarks.cells import CELLS
from tests import oracle_gradients
from tests.oracles import Row

STEP, FORWARD, GRADIENT, PADDED, TRAIN = MODES = ("step", "forward", "gradient", "padded", "train")
MEANING = {
    STEP: "one step of the cell, inputs to next carry: the latency of streaming",
    FORWARD: "the whole sequence: outputs and final carry",
    GRADIENT: "forward and backward: gradients to every parameter, the inputs and the initial carry",
    PADDED: "as gradient, of rows of all lengths from one step to T: half of the steps are padding",
    TRAIN: "a whole training step: mean squared error, gradients to the parameters, one step of Adam",
}
LEARNING_RATE = 1e-3
# No call repeats the data of the one before it.
PROBLEMS = 3
DTYPES = ("float32", "bfloat16", "float16", "float64")
Answer = Mapping[str, np.ndarray]


class Job(NamedTuple):
    """One comparison: what is computed. Who computes it is another matter."""

    cell: str
    case_name: str
    case: Case
    dtype: str
    mode: str

    @property
    def shape(self) -> Case:
        """The case; with T = 1 where only one step is made."""
        return self.case._replace(T=1) if self.mode == STEP else self.case

    def __str__(self) -> str:
        return f"{self.cell} {self.mode} {self.case_name} {self.dtype}"


class Problem(NamedTuple):
    """Random arrays in the dtype of the job.

    Attributes:
      params: `w_x [D, G*H]`, `w_h [H, G*H]`, `b [G*H]`, and the vectors `[H]` that the cell has besides.
      xs: inputs `[T, B, D]`.
      carry: leaves `[B, H]` of the initial carry.
      y_weights: `[T, B, H]`; the loss of mode gradient is `sum(y_weights * ys) + sum(carry_weights * last)`,
        that of mode train `mean((ys - y_weights)**2)`. At padding they are 0, whatever a contestant leaves there.
      carry_weights: like the carry.
    """

    params: Row
    xs: np.ndarray
    carry: Row
    y_weights: np.ndarray
    carry_weights: Row


def lengths(job: Job) -> np.ndarray:
    """True steps of each row in mode padded, from 1 to T in no order."""
    steps, rows, *_ = job.shape
    spread = np.linspace(1, steps, rows) if rows > 1 else np.array([(steps + 1) / 2])
    return np.random.default_rng(0).permutation(np.rint(spread).astype(np.int32))


def keep(job: Job) -> np.ndarray | None:
    """`[T, B]`, False at padding; None where there is none."""
    return np.arange(job.shape.T)[:, None] < lengths(job) if job.mode == PADDED else None


@functools.lru_cache(maxsize=2)
def draw(job: Job, count: int) -> tuple[Problem, ...]:
    """`count` problems with the same parameters and other data, so that no call repeats the one before it.

    They are kept for the next contestant, and read-only.
    """
    cell, (steps, rows, features, units) = CELLS[job.cell], job.shape
    random = np.random.default_rng(0)
    dtype = np.dtype(job.dtype)
    uniform = lambda *shape: np.asarray(random.uniform(-1, 1, shape), dtype) * dtype.type(units**-0.5)
    normal = lambda *shape: np.asarray(random.standard_normal(shape, np.float32), dtype)
    params: Row = (
        uniform(features, cell.gates * units), uniform(units, cell.gates * units), uniform(cell.gates * units),
    )  # fmt: skip
    params += tuple(uniform(units) for _ in cell.vectors)
    state = lambda: tuple(normal(rows, units) for _ in cell.carry)
    # Small enough for the gradients of half precision to stay finite.
    scale = dtype.type((steps * rows) ** -0.5)
    true = keep(job)
    seen = np.ones((steps, rows), bool) if true is None else true
    weights = lambda: normal(steps, rows, units) * (scale * seen[..., None].astype(dtype))
    draw_one = lambda: Problem(params, normal(steps, rows, features), state(), weights(), state())
    problems = tuple(draw_one() for _ in range(count))
    for problem in problems:
        for leaf in (*problem.params, problem.xs, *problem.carry, problem.y_weights, *problem.carry_weights):
            leaf.flags.writeable = False
    return problems


def expected(job: Job, problem: Problem) -> Answer:
    """The answer, by the float64 oracle, to the very numbers that the contestants are given."""
    cell = CELLS[job.cell]
    exact = lambda leaves: tuple(np.asarray(leaf, np.float64) for leaf in leaves)
    params, carry, (xs, y_weights) = exact(problem.params), exact(problem.carry), exact(problem[1:4:2])
    carries, ys = oracle_gradients.run(cell.step, params, xs, carry, keep(job))
    if job.mode in (STEP, FORWARD):
        return outputs(job, ys, carries[-1])
    if job.mode == TRAIN:
        error = ys - y_weights
        zeros = tuple(np.zeros_like(leaf) for leaf in carry)
        d_params, _, _ = oracle_gradients.run_backward(
            cell.backward, params, xs, carries, zeros, 2.0 * error / error.size
        )
        return trained(job, (error**2).mean(), d_params, np.full(1, LEARNING_RATE))
    d_params, d_xs, d_carry = oracle_gradients.run_backward(
        cell.backward, params, xs, carries, exact(problem.carry_weights), y_weights, keep(job)
    )
    return gradients(job, d_params, d_xs, d_carry)


def outputs(job: Job, ys: np.ndarray, carry: Row) -> Answer:
    """The answer of modes step and forward: `ys [T, B, H]` and the final carry."""
    return {"ys": ys, **dict(zip(CELLS[job.cell].carry, carry, strict=True))}


def gradients(job: Job, params: Row, xs: np.ndarray, carry: Row) -> Answer:
    """The answer of modes gradient and padded, in the shapes of the problem."""
    named = {f"d {name}": leaf for name, leaf in zip(CELLS[job.cell].params, params, strict=True)}
    return {**named, "d xs": xs, **{f"d {name}": d for name, d in zip(CELLS[job.cell].carry, carry, strict=True)}}


def trained(job: Job, loss: Any, params: Row, changes: np.ndarray) -> Answer:
    """The answer of mode train.

    Args:
      loss: before the step.
      params: the gradients that the optimiser saw: its first moments after one step, divided by 1 - beta_1.
      changes: by how much each parameter moved. The first step of Adam moves all by the learning rate, but for
        Adam's epsilon and the rounding of half precision: so it is held to one digit.
    """
    named = {f"d {name}": leaf for name, leaf in zip(CELLS[job.cell].params, params, strict=True)}
    moved = round(float(np.median(changes)) / LEARNING_RATE, 1)
    return {"loss": np.asarray(loss, np.float64), **named, "moved": np.asarray(moved)}


def error(answer: Answer, truth: Answer) -> float:
    """The largest difference of any entry from the truth, relative to the largest value of its array.

    Raises:
      ValueError: an array is missing, or has another shape.
    """
    if set(answer) != set(truth):
        raise ValueError(f"answer: expected {', '.join(truth)}, got {', '.join(answer)}")
    differences = []
    for name, exact in truth.items():
        got = np.asarray(answer[name], np.float64)
        if got.shape != exact.shape:
            raise ValueError(f"answer: expected {name} of shape {list(exact.shape)}, got {list(got.shape)}")
        # Where all of an array is 0, so that nothing is relative to it, the difference itself counts.
        differences.append(np.abs(got - exact).max() / (np.abs(exact).max() or 1.0))
    # NumPy's maximum hands a NaN on, where Python's would pass it over.
    return float(np.max(differences))


def tolerance(job: Job, platform: str) -> float:
    """The largest `error` with which an answer is still timed.

    Float32 rounds at 6e-8 and sums thousands of terms; on an accelerator its matmuls round their operands to
    10 or fewer bits by default. Half precision rounds h at every step, the backward pass multiplies that up, and
    a unit at the kink of a ReLU takes the other side: a check of sense, not of digits.
    """
    if job.dtype == "float64":
        return 1e-9
    if job.dtype == "float32":
        return 1e-4 if platform == "cpu" else 2e-2
    forward = {"bfloat16": 4e-2, "float16": 1e-2}[job.dtype]
    return forward if job.mode in (STEP, FORWARD) else 5 * forward


def parameters(job: Job) -> int:
    """The number of parameters of the layer, each bias counted once."""
    cell, (_, _, features, units) = CELLS[job.cell], job.case
    return cell.gates * units * (features + units + 1) + len(cell.vectors) * units


def flops(job: Job) -> int:
    """Floating-point operations of the matmuls: 2 T B (D + H) G H forward, and twice that backward.

    Elementwise work and padding are left out. Training needs no gradient of the inputs.
    """
    _, _, features, units = job.shape
    one = 2 * _true_steps(job) * CELLS[job.cell].gates * units
    forward = one * (features + units)
    backward = 2 * forward - (one * features if job.mode == TRAIN else 0)
    return forward if job.mode in (STEP, FORWARD) else forward + backward


def compulsory_bytes(job: Job) -> int:
    """Bytes that no implementation can do without: every input read once, every result written once."""
    _, rows, features, units = job.shape
    state = len(CELLS[job.cell].carry) * rows * units
    xs, ys, params = _true_steps(job) * features, _true_steps(job) * units, parameters(job)
    all_xs = job.shape.T * rows * features
    count = {
        STEP: params + xs + ys + 2 * state,
        FORWARD: params + xs + ys + 2 * state,
        # y_weights and carry_weights come in, gradients of the rest go out.
        GRADIENT: 2 * params + 2 * xs + ys + 3 * state,
        # At padding the inputs' gradient is written all the same.
        PADDED: 2 * params + xs + all_xs + ys + 3 * state,
        # Parameters and both moments are read and written.
        TRAIN: 6 * params + xs + ys + state,
    }[job.mode]
    return count * np.dtype(job.dtype).itemsize


def _true_steps(job: Job) -> int:
    """Steps of all rows, without padding."""
    return int(lengths(job).sum()) if job.mode == PADDED else job.shape.T * job.shape.B


@functools.lru_cache(maxsize=4)
def truth(job: Job) -> Answer:
    """`expected` of the first problem, kept for the next contestant."""
    return expected(job, draw(job, PROBLEMS)[0])
