"""The loop that all experiments share, on a model of two numbers whose training NumPy can follow."""

import dataclasses
import os
import pathlib
import signal
import sys
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.common.checkpoint import Checkpoints
from experiments.common.cli import Interrupted, UsageError
from experiments.common.config import Training
from experiments.common.interrupt import outlive_reader
from experiments.common.losses import cross_entropy
from experiments.common.training import Task, train
from experiments.common.workdir import read_metrics, restore_kept

STEPS = 12
START = np.array([1.0, -2.0], np.float32)
# Float32 over a dozen steps.
CLOSE = 1e-5


class Points:
    """The batch of each step: points of a plane, drawn by its number; may send Ctrl-C while it is read."""

    def __init__(self, stop_at: int | None = None, steps: int = STEPS, rows: int = 4) -> None:
        self.stop_at, self.steps, self.rows = stop_at, steps, rows

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> np.ndarray:
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return np.random.default_rng(step).standard_normal((self.rows, 2)).astype(np.float32)


def loss(params: Any, carry: Any, batch: Any, key: Any) -> Any:
    """The mean squared distance from the points."""
    return jnp.mean(jnp.sum((batch - params["x"]) ** 2, axis=-1)), carry + 1


def gradient(x: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """That of the loss."""
    return 2 * np.mean(x - batch, axis=0)


def task(points: Any = None, values: Any = None, **options: Any) -> Task:
    """Plain gradient descent; the numbers measured on the valid split are given, one after the other."""
    settings: dict[str, Any] = {"optimizer": "sgd", "schedule": "constant", "warmup": 0, "learning_rate": 0.1}
    settings |= {"clip_norm": 0.0, "evals": 4, "log_every": 1, "checkpoint_every": 5, **options}
    left = iter(values or [])
    return Task(
        config=Training(**settings),
        init=lambda key: {"x": jnp.asarray(START)},
        loss=loss,
        batches=grain.MapDataset.source(points or Points()),
        steps_per_epoch=STEPS,
        unit="point",
        per_step=4,
        measure=lambda params, watch: {"loss": next(left) if values else float(jnp.sum(params["x"] ** 2))},
        size=1,
        initial_carry=lambda params: jnp.zeros((), jnp.int32),
    )


def by_hand(steps: int = STEPS, accumulate: int = 1) -> list[np.ndarray]:
    """The parameters after each step."""
    points, x, after = Points(), START.astype(np.float64), []
    gradients: list[np.ndarray] = []
    for step in range(steps):
        gradients.append(gradient(x, points[step]))
        if len(gradients) == accumulate:
            x = x - 0.1 * np.mean(gradients, axis=0)
            gradients = []
        after.append(x)
    return after


def restored(workdir: pathlib.Path) -> tuple[int, dict[str, np.ndarray]]:
    """The step and the parameters of the newest checkpoint."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    found = checkpoints.restore(params={"x": jnp.asarray(START)})["params"]
    step = checkpoints.latest()
    checkpoints.close()
    assert step is not None
    return step, found


@pytest.mark.parametrize("accumulate", [1, 3])
def test_parameters_are_those_of_gradient_descent(tmp_path: pathlib.Path, accumulate: int) -> None:
    train(task(accumulate=accumulate), tmp_path)
    step, params = restored(tmp_path)
    assert step == STEPS
    np.testing.assert_allclose(params["x"], by_hand(accumulate=accumulate)[-1], rtol=CLOSE)


def test_rows_hold_mean_loss_gradient_norm_and_learning_rate(tmp_path: pathlib.Path) -> None:
    train(task(log_every=2, schedule="exponential", decay=0.5, decay_after=0), tmp_path)
    rows = [row for row in read_metrics(tmp_path) if row["split"] == "train"]
    assert [row["step"] for row in rows] == list(range(2, STEPS + 1, 2))
    points, before = Points(), [START, *by_hand()]
    losses = [np.mean(np.sum((points[t] - before[t]) ** 2, axis=-1)) for t in range(2)]
    norms = [np.linalg.norm(gradient(before[t], points[t])) for t in range(2)]
    np.testing.assert_allclose([rows[0]["loss"], rows[0]["grad_norm"]], [np.mean(losses), np.mean(norms)], rtol=CLOSE)
    assert rows[0]["learning_rate"] == pytest.approx(0.1)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_average_follows_the_parameters(tmp_path: pathlib.Path, accumulate: int) -> None:
    kept = train(task(ema=0.8, keep="last", accumulate=accumulate), tmp_path)
    average = START.astype(np.float64)
    for update, x in enumerate(by_hand(accumulate=accumulate)[accumulate - 1 :: accumulate]):
        decay = min(0.8, (1 + update) / (10 + update))
        average = decay * average + (1 - decay) * x
    np.testing.assert_allclose(kept["x"], average, rtol=CLOSE)
    assert abs(average - by_hand(accumulate=accumulate)[-1]).max() > 1e-2


@pytest.mark.parametrize("options", [{}, {"accumulate": 3, "ema": 0.9, "patience": 3, "log_every": 4}], ids=str)
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_interrupted_training_goes_on_to_the_same_end(tmp_path: pathlib.Path, stop: int, options: Any) -> None:
    whole = train(task(**options), tmp_path / "whole")
    with pytest.raises(Interrupted, match="Go on with the same command"):
        train(task(Points(stop_at=stop), **options), tmp_path / "parts")
    assert restored(tmp_path / "parts")[0] < STEPS
    parts = train(task(**options), tmp_path / "parts")
    assert (parts["x"] == whole["x"]).all()
    assert read_metrics(tmp_path / "parts") == read_metrics(tmp_path / "whole")
    assert restored(tmp_path / "parts")[0] == restored(tmp_path / "whole")[0]


def test_interrupt_that_ends_the_reader_of_the_bars_too_saves(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(params: Any, watch: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        watch(1)
        return {"loss": 1.0}

    # As in `train 2>&1 | tee log`.
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as nobody:
        monkeypatch.setattr(sys, "stderr", nobody)
        with outlive_reader(), pytest.raises(Interrupted):
            train(dataclasses.replace(task(), measure=measure), tmp_path)
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
    assert restored(tmp_path)[0] == 3
    assert [row["step"] for row in read_metrics(tmp_path) if row["split"] == "valid"] == [3]


def test_carry_is_handed_from_step_to_step(tmp_path: pathlib.Path) -> None:
    count = lambda params, carry, batch, key: (0 * params["x"].sum() + carry, carry + 1)
    train(dataclasses.replace(task(), loss=count, initial_carry=lambda params: jnp.zeros(())), tmp_path)
    assert [row["loss"] for row in read_metrics(tmp_path) if row["split"] == "train"] == list(range(STEPS))


def test_no_step_draws_what_another_or_init_drew(tmp_path: pathlib.Path) -> None:
    drawn = lambda params, carry, batch, key: (0 * params["x"].sum() + jax.random.uniform(key), carry)
    train(dataclasses.replace(task(), loss=drawn), tmp_path)
    steps = [np.float32(row["loss"]) for row in read_metrics(tmp_path) if row["split"] == "train"]
    split_off = jax.vmap(jax.random.uniform)(jax.random.split(jax.random.key(Training().seed), 100))
    assert len({*steps, *np.asarray(split_off)}) == STEPS + 100


@pytest.mark.parametrize(("keep", "largest", "step"), [("best", False, 6), ("best", True, 3), ("last", False, 12)])
def test_best_or_last_parameters_are_kept(tmp_path: pathlib.Path, keep: Any, largest: bool, step: int) -> None:
    kept = train(dataclasses.replace(task(values=[3.0, 1.0, 2.0, 1.5], keep=keep), largest=largest), tmp_path)
    np.testing.assert_allclose(kept["x"], by_hand()[step - 1], rtol=CLOSE)
    assert (restore_kept(tmp_path, {"x": jnp.asarray(START)})["x"] == kept["x"]).all()


def test_training_stops_when_nothing_gets_better(tmp_path: pathlib.Path, capsys: Any) -> None:
    # The same number again is no better, also where float32 rounds it down.
    values = [3.0, 0.7, 0.7, 2.0, 0.5, 0.1]
    kept = train(task(values=values, evals=6, patience=2), tmp_path)
    assert restored(tmp_path)[0] == 8
    np.testing.assert_allclose(kept["x"], by_hand()[3], rtol=CLOSE)
    assert "Stopped at step 8: no better loss in 2 measurements." in capsys.readouterr().out
    # The same command again does not train any further.
    again = train(task(values=[0.0], evals=6, patience=2), tmp_path)
    assert restored(tmp_path)[0] == 8
    assert (again["x"] == kept["x"]).all()


def test_diverged_training_is_not_saved(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="the training has diverged"):
        train(task(learning_rate=1e30, checkpoint_every=1), tmp_path)
    assert np.isfinite(restored(tmp_path)[1]["x"]).all()


def test_diverged_training_is_not_kept(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="the training has diverged"):
        train(task(learning_rate=1e8, log_every=100, checkpoint_every=100, evals=12, keep="last"), tmp_path)
    assert np.isfinite(restore_kept(tmp_path, {"x": jnp.asarray(START)})["x"]).all()


def test_what_a_killed_run_kept_too_early_is_dropped(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Interrupted):
        train(task(Points(stop_at=4)), tmp_path)
    ahead = Checkpoints(tmp_path / "kept")
    ahead.save(STEPS + 1, params={"x": jnp.zeros(2)})
    ahead.close()
    kept = train(task(keep="last"), tmp_path)
    np.testing.assert_allclose(kept["x"], by_hand()[-1], rtol=CLOSE)


class Crashing(Points):
    """Points of which one can't be read."""

    def __getitem__(self, step: int) -> np.ndarray:
        if step == self.stop_at:
            raise OSError("gone")
        return super().__getitem__(step)


@pytest.mark.parametrize(("while_saving", "again", "kept"), [(False, 7, 6), (True, 4, 3)])
def test_what_was_kept_survives_a_kill(
    tmp_path: pathlib.Path, monkeypatch: Any, while_saving: bool, again: int, kept: int
) -> None:
    # Measured at 3 and 6. The run dies behind 7, or while it saves what it knows of 6; then once more, further on.
    save = Checkpoints.save

    def dying(self: Checkpoints, step: int, position: Any = None, **items: Any) -> None:
        if while_saving and position is not None and step == 6:
            raise OSError("gone")
        save(self, step, position, **items)

    monkeypatch.setattr(Checkpoints, "save", dying)
    for stop_at, expected in ((7, 6), (again, kept)):
        with pytest.raises(OSError, match="gone"):
            train(task(Crashing(stop_at=stop_at), checkpoint_every=10), tmp_path)
        found = restore_kept(tmp_path, {"x": jnp.asarray(START)})["x"]
        np.testing.assert_allclose(found, by_hand()[expected - 1], rtol=CLOSE)


def test_of_equals_that_with_the_smaller_loss_is_kept(tmp_path: pathlib.Path) -> None:
    numbers = iter([(0.9, 3.0), (1.0, 2.0), (1.0, 1.0), (1.0, 1.5)])
    measure = lambda params, watch: dict(zip(("accuracy", "loss"), next(numbers), strict=True))
    kept = train(dataclasses.replace(task(), measure=measure, goal="accuracy", largest=True), tmp_path)
    np.testing.assert_allclose(kept["x"], by_hand()[8], rtol=CLOSE)


def test_more_steps_of_an_update_than_of_the_training_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="--accumulate: expected at most the 12 steps of the training, got 13"):
        train(task(accumulate=13), tmp_path)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_smoothed_labels(smoothing: float) -> None:
    logits, labels = jax.random.normal(jax.random.key(0), (3, 5, 7)), jnp.arange(15).reshape(3, 5) % 7
    targets = optax.smooth_labels(jax.nn.one_hot(labels, 7), smoothing)
    expected = optax.softmax_cross_entropy(logits, targets)
    np.testing.assert_allclose(cross_entropy(logits, labels, smoothing), expected, rtol=CLOSE)
    assert cross_entropy(logits.astype(jnp.bfloat16), labels, smoothing).dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch-size: expected a positive integer, got 0"),
        ({"ema": 1.0}, "--ema: expected 0 or more and less than 1, got 1.0"),
        ({"epochs": float("inf")}, "--epochs: expected more than 0 and finite, got inf"),
        ({"patience": -1}, "--patience: expected 0 or more, got -1"),
    ],
)
def test_configuration_names_what_is_wrong(options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Training(**options)
