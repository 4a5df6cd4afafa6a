"""The training loop: watched, saved, and resumed where it stopped."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from experiments.common import workdir as run_folder
from experiments.common.checkpoint import Checkpoints
from experiments.common.cli import Interrupted, UsageError
from experiments.common.config import Training
from experiments.common.interrupt import catch_interrupts
from experiments.common.optimizer import make_optimizer, make_schedule

PyTree = Any
Watch = Callable[[int], Any]

# Half precision would lose most of a loss summed over many steps.
SUM = jnp.float32


@dataclasses.dataclass(frozen=True)
class Task:
    """What an experiment brings to the loop.

    Attributes:
      config: how to train.
      init: draws the parameters from a key.
      loss: from parameters, carry, batch and key to the mean loss of the batch and the next step's carry.
      batches: the batch of every step of the training, in order.
      steps_per_epoch: steps of one epoch.
      unit: what is counted while training, such as "example".
      per_step: how many of it a step takes.
      measure: from parameters and a function that takes progress to the numbers of the valid split.
      size: what that progress ends at, in units.
      goal: which of these numbers is to be the best one; of equals that with the smaller "loss".
      largest: whether its largest value is the best; else its smallest.
      initial_carry: what the first step's loss is given as carry.
      look: called after each measurement with parameters and step, to draw pictures and samples.
    """

    config: Training
    init: Callable[[jax.Array], PyTree]
    loss: Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[jax.Array, PyTree]]
    batches: grain.MapDataset
    steps_per_epoch: int
    unit: str
    per_step: int
    measure: Callable[[PyTree, Watch], dict[str, float]]
    size: int
    goal: str = "loss"
    largest: bool = False
    initial_carry: Callable[[PyTree], PyTree] = lambda params: ()
    look: Callable[[PyTree, int], None] = lambda params, step: None

    def __post_init__(self) -> None:
        if self.config.accumulate > self.steps:
            raise UsageError(
                f"--accumulate: expected at most the {self.steps} steps of the training, got {self.config.accumulate}"
            )

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return len(self.batches)


def train(task: Task, workdir: pathlib.Path) -> PyTree:
    """Trains, or goes on with, the run of a folder.

    Returns:
      The parameters that were kept: the best on the valid split, or the last.

    Raises:
      UsageError: the training diverged.
      Interrupted: Ctrl-C came; what was done is saved.
    """
    loop = _Loop(task, workdir)
    try:
        loop.run()
        return loop.kept.restore(params=loop.state["params"])["params"]
    finally:
        loop.close()


class _Loop:
    """The state of a training, and the folders that it is kept in."""

    def __init__(self, task: Task, workdir: pathlib.Path) -> None:
        self.task, config = task, task.config
        updates, per_epoch = max(1, task.steps // config.accumulate), max(1, task.steps_per_epoch // config.accumulate)
        self.schedule = make_schedule(
            config.schedule, config.learning_rate, updates, per_epoch,
            config.decay, config.decay_after, min(config.warmup, updates // 2),
        )  # fmt: skip
        self.optimizer: Any = make_optimizer(
            config.optimizer, self.schedule, config.clip_norm, config.momentum, config.weight_decay
        )
        if config.accumulate > 1:
            self.optimizer = optax.MultiSteps(self.optimizer, config.accumulate)
        self.checkpoints, self.kept = Checkpoints(workdir / "checkpoints"), Checkpoints(workdir / "kept")
        self.position = iter(task.batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))
        self.state = self._initial_state()
        self.done = self.checkpoints.latest() or 0
        if not self.done and run_folder.has_step(workdir):
            # From the first step on, it would drop what was measured and kept behind it.
            raise UsageError(
                f"--workdir: {workdir} holds what a run has measured or kept, but no checkpoint to go on from; "
                f"{run_folder.ANEW}"
            )
        if self.done:
            rest = {name: value for name, value in self.state.items() if name != "params"}
            items = self.checkpoints.restore(self.position, params=self.state["params"], rest=rest)
            self.state = {"params": items["params"], **items["rest"]}
            print(f"Going on from step {self.done:,} of {task.steps:,}.")
        self.waited = int(self.state["waited"])
        # What a killed run kept behind its last checkpoint will come again.
        self.kept.drop_behind(self.done)
        self.metrics = run_folder.Metrics(workdir, self.done)
        self.bar = tqdm.tqdm(
            total=task.steps * task.per_step, initial=self.done * task.per_step, unit=f" {task.unit}s",
            unit_scale=True, smoothing=0.05, disable=self._over(self.done),
        )  # fmt: skip

    def _initial_state(self) -> dict[str, Any]:
        """What a checkpoint holds: all that the next step depends on."""
        # Far from the keys that `init` splits off, which a step's would be else.
        key = jax.random.key(self.task.config.seed)
        steps = jax.random.fold_in(key, np.iinfo(np.uint32).max)
        params = jax.jit(self.task.init)(key)
        return {
            "params": params,
            "average": jax.tree.map(jnp.copy, params) if self.task.config.ema else (),
            "optimizer": self.optimizer.init(params),
            "carry": self.task.initial_carry(params),
            "key": jax.random.key_data(steps),
            "step": jnp.zeros((), jnp.int32),
            "loss_sum": jnp.zeros((), SUM),
            "norm_sum": jnp.zeros((), SUM),
            # The goal's value, larger or smaller than all, and the loss.
            "best": jnp.array([-jnp.inf if self.task.largest else jnp.inf, jnp.inf], SUM),
            "waited": jnp.zeros((), jnp.int32),
        }

    def _over(self, step: int) -> bool:
        """Whether nothing is left to do behind a step."""
        patience = self.task.config.patience
        return step >= self.task.steps or bool(patience and self.waited >= patience)

    def run(self) -> None:
        """The steps that are left."""
        task, config = self.task, self.task.config
        measured = {round(task.steps * k / config.evals) for k in range(1, config.evals + 1)} - {0}
        step_function = _make_step(task, self.optimizer)
        shown = ""
        with self.bar, catch_interrupts() as interrupted:
            step = self.done
            while not self._over(step):
                batch = next(self.position)
                step += 1
                self.state = step_function(self.state, batch)
                if step % config.log_every == 0:
                    shown = self._log(step)
                # A checkpoint knows what was kept: a run that is killed would else go on from before, and drop it.
                kept = step in measured and self._measure(step, shown)
                stop = interrupted()
                if step % config.checkpoint_every == 0 or kept or self._over(step) or stop:
                    self._save(step)
                self.bar.set_postfix_str(shown, refresh=False)
                self.bar.update(task.per_step)
                if stop and not self._over(step):
                    raise Interrupted(f"\nSaved at step {step:,} of {task.steps:,}. Go on with the same command.")
        if step < task.steps and step > self.done:
            print(f"Stopped at step {step:,}: no better {task.goal} in {config.patience} measurements.")

    def _log(self, step: int) -> str:
        """Writes a row of the training loss; returns it for the bar."""
        config = self.task.config
        loss, norm = (float(self.state[name]) / config.log_every for name in ("loss_sum", "norm_sum"))
        self.state = {**self.state, "loss_sum": jnp.zeros((), SUM), "norm_sum": jnp.zeros((), SUM)}
        rate = float(self.schedule((step - 1) // config.accumulate))
        self.metrics.add(step, "train", loss=loss, grad_norm=norm, learning_rate=rate)
        _check_finite(loss, step)
        return f"loss {loss:.3f}"

    def _measure(self, step: int, shown: str) -> bool:
        """Measures the valid split, and keeps the parameters if they are to be kept; returns whether they were."""
        task = self.task
        _check_finite(float(self.state["loss_sum"]), step)
        self.bar.set_postfix_str(f"{shown}, measuring the valid split")
        params = self.state["average"] if task.config.ema else self.state["params"]
        with tqdm.tqdm(total=task.size, unit=f" {task.unit}s", unit_scale=True, leave=False, desc="valid split") as bar:
            values = task.measure(params, bar.update)
        self.metrics.add(step, "valid", **values)
        # Rounded as it is stored: else the same number again may seem better.
        value, loss = (float(np.float32(values[name])) for name in (task.goal, "loss"))
        best, best_loss = map(float, self.state["best"])
        better = value > best if task.largest else value < best
        better = better or (value == best and loss < best_loss)
        self.waited = 0 if better else self.waited + 1
        self.state = {**self.state, "waited": jnp.asarray(self.waited, jnp.int32)}
        if better:
            self.state = {**self.state, "best": jnp.asarray([value, loss], SUM)}
        kept = better or task.config.keep == "last" or self.kept.latest() is None
        if kept:
            self.kept.save(step, params=params)
        task.look(params, step)
        return kept

    def _save(self, step: int) -> None:
        """Saves the parameters as one item, so that they can be read alone, and the rest as another."""
        _check_finite(float(self.state["loss_sum"]), step)
        rest = {name: value for name, value in self.state.items() if name != "params"}
        self.checkpoints.save(step, self.position, params=self.state["params"], rest=rest)
        speed = self.bar.format_dict["rate"]
        if speed:
            self.metrics.add_event(f"train/{self.task.unit}s_per_second", speed, step)

    def close(self) -> None:
        """Ends what is being written."""
        self.metrics.close()
        self.checkpoints.close()
        self.kept.close()


def _make_step(task: Task, optimizer: Any) -> Any:
    """The compiled training step: state, batch -> state."""
    ema = task.config.ema

    def step(state: Any, batch: PyTree) -> Any:
        params = state["params"]
        key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"])
        (value, carry), grads = jax.value_and_grad(task.loss, has_aux=True)(params, state["carry"], batch, key)
        updates, optimizer_state = optimizer.update(grads, state["optimizer"], params)
        params = optax.apply_updates(params, updates)
        average = state["average"]
        if ema:
            # A young average follows its parameters more closely than an old one.
            count = (state["step"] // task.config.accumulate).astype(SUM)
            share = 1 - jnp.minimum(ema, (1 + count) / (10 + count))
            updated = (state["step"] + 1) % task.config.accumulate == 0
            average = optax.incremental_update(params, average, jnp.where(updated, share, 0))
        return {
            **state,
            "params": params,
            "average": average,
            "optimizer": optimizer_state,
            "carry": carry,
            "step": state["step"] + 1,
            "loss_sum": state["loss_sum"] + value,
            "norm_sum": state["norm_sum"] + optax.tree.norm(grads),
        }

    return jax.jit(step, donate_argnums=0)


def _check_finite(loss: float, step: int) -> None:
    """Stops a training that has diverged before it is saved over what was good."""
    if not np.isfinite(loss):
        raise UsageError(
            f"the loss is {loss} at step {step:,}: the training has diverged. The checkpoints before it are kept. "
            "Begin another run, with a smaller --learning-rate or with a --clip-norm that binds."
        )
