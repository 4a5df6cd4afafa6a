"""Training: truncated backpropagation through time, watched, saved, and resumed where it stopped."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from experiments.char_lm import data, evaluate
from experiments.char_lm.config import Config
from experiments.char_lm.model import CharLM
from experiments.char_lm.ngram import ngram_loss
from experiments.char_lm.sample import sample
from experiments.common import workdir as run_folder
from experiments.common.checkpoint import Checkpoints
from experiments.common.cli import Interrupted, UsageError
from experiments.common.interrupt import catch_interrupts
from experiments.common.optimizer import make_optimizer, make_schedule
from experiments.common.plots import plot_curves

NGRAMS = {"unigram": 1, "trigram": 3, "5-gram": 5}
SAMPLE_LENGTH = 400
# Half precision would lose most of a loss summed over many steps.
SUM = jnp.float32


class Run:
    """Everything of one run that does not change from step to step."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.text = data.load(config)
        self.vocabulary = data.Vocabulary.of(self.text.split.train)
        self.indices = {n: self.vocabulary.encode(part) for n, part in self.text.split._asdict().items()}
        self.streams = data.Streams(self.indices["train"], config.batch_size, config.chunk_length, config.seed)
        self.steps = max(1, round(config.epochs * self.streams.steps_per_epoch))
        self.eval_steps = {round(self.steps * k / config.evals) for k in range(1, config.evals + 1)} - {0}
        self.model = CharLM.of(config, len(self.vocabulary))
        self.schedule = make_schedule(
            config.schedule, config.learning_rate, self.steps, self.streams.steps_per_epoch,
            config.decay, config.decay_after, min(config.warmup, self.steps // 2),
        )  # fmt: skip
        self.optimizer = make_optimizer(
            config.optimizer, self.schedule, config.clip_norm, config.momentum, config.weight_decay
        )

    def initial_state(self) -> dict[str, Any]:
        """What a checkpoint holds: all that the next step depends on."""
        key = jax.random.key(self.config.seed)
        params = self.model.init(key)
        return {
            "params": params,
            "optimizer": self.optimizer.init(params),
            "carry": self.model.initial_carry(params, self.config.batch_size),
            "key": jax.random.key_data(key),
            "position": jnp.zeros((), jnp.int32),
            "loss_sum": jnp.zeros((), SUM),
            "norm_sum": jnp.zeros((), SUM),
        }

    def make_step(self) -> Any:
        """The compiled training step: state, inputs, targets, whether to reset the carry -> state."""
        model, optimizer = self.model, self.optimizer

        def loss(params: Any, carry: Any, inputs: jax.Array, targets: jax.Array, key: jax.Array) -> Any:
            carry, logits = model.apply(params, inputs, carry, key if model.dropout else None)
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(), carry

        def step(state: Any, inputs: jax.Array, targets: jax.Array, fresh: jax.Array) -> Any:
            params = state["params"]
            key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["position"])
            initial = model.initial_carry(params, inputs.shape[1])
            carry = jax.tree.map(lambda a, b: jnp.where(fresh, a, b), initial, state["carry"])
            carry = jax.lax.stop_gradient(carry)
            (value, carry), grads = jax.value_and_grad(loss, has_aux=True)(params, carry, inputs, targets, key)
            updates, optimizer_state = optimizer.update(grads, state["optimizer"], params)
            return {
                "params": optax.apply_updates(params, updates),
                "optimizer": optimizer_state,
                "carry": carry,
                "key": state["key"],
                "position": state["position"] + 1,
                "loss_sum": state["loss_sum"] + value,
                "norm_sum": state["norm_sum"] + optax.tree.norm(grads),
            }

        return jax.jit(step, donate_argnums=0)


def train(config: Config, workdir: pathlib.Path) -> None:
    """Trains, or goes on with, the run of a folder, and measures the test split at the end.

    Raises:
      UsageError: the text can't be had, or the folder holds something else.
      Interrupted: Ctrl-C came; what was done is saved.
    """
    config = config.absolute()
    run = Run(config)
    run_folder.open_run(workdir, config)
    _keep_text(run, workdir)
    _describe(run)
    state = run.initial_state()
    checkpoints = Checkpoints(workdir / "checkpoints")
    done = checkpoints.latest() or 0
    if done:
        state = _restore(checkpoints, state)
        print(f"Going on from step {done:,} of {run.steps:,}.")
    else:
        _show("Before training", _samples(run, state["params"], workdir, 0))
    metrics = run_folder.Metrics(workdir, done)
    try:
        if done < run.steps:
            state = _loop(run, state, done, workdir, checkpoints, metrics)
        _finish(run, state["params"], workdir, metrics)
    finally:
        metrics.close()
        checkpoints.close()


def _loop(
    run: Run, state: Any, done: int, workdir: pathlib.Path, checkpoints: Checkpoints, metrics: run_folder.Metrics
) -> Any:
    """Steps `done` to the last."""
    config = run.config
    step_function = run.make_step()
    per_step = config.batch_size * config.chunk_length
    shown = ""
    bar = tqdm.tqdm(total=run.steps * per_step, initial=done * per_step, unit="char", unit_scale=True, smoothing=0.05)
    with bar, catch_interrupts() as interrupted:
        for step in range(done + 1, run.steps + 1):
            inputs, targets, fresh = run.streams.batch(step - 1)
            state = step_function(state, inputs, targets, fresh)
            if step % config.log_every == 0:
                loss, norm = (float(state[name]) / config.log_every for name in ("loss_sum", "norm_sum"))
                state = {**state, "loss_sum": jnp.zeros((), SUM), "norm_sum": jnp.zeros((), SUM)}
                rate = float(run.schedule(step - 1))
                metrics.add(step, "train", loss=loss, grad_norm=norm, learning_rate=rate)
                shown = f"loss {loss:.3f}"
                _check_finite(loss, step)
            if step in run.eval_steps:
                bar.set_postfix_str(f"{shown}, measuring the valid split")
                _measure(run, state["params"], step, "valid", metrics)
                _samples(run, state["params"], workdir, step)
                _plot(workdir)
            stop = interrupted()
            if step % config.checkpoint_every == 0 or step == run.steps or stop:
                _check_finite(float(state["loss_sum"]), step)
                _save(checkpoints, step, state)
                speed = bar.format_dict["rate"]
                if speed:
                    metrics.add_event("train/characters_per_second", speed, step)
            bar.set_postfix_str(shown, refresh=False)
            bar.update(per_step)
            if stop:
                raise Interrupted(f"\nSaved at step {step:,} of {run.steps:,}. Go on with the same command.")
    return state


def _check_finite(loss: float, step: int) -> None:
    """Stops a training that has diverged before it is saved over what was good."""
    if not np.isfinite(loss):
        raise UsageError(
            f"the loss is {loss} at step {step:,}: the training has diverged. The checkpoints before it are kept. "
            "Begin another run, with a smaller --learning-rate or with a --clip-norm that binds."
        )


def _save(checkpoints: Checkpoints, step: int, state: dict[str, Any]) -> None:
    """Saves the parameters as one item, so that they can be read alone, and the rest as another."""
    checkpoints.save(step, params=state["params"], rest={n: v for n, v in state.items() if n != "params"})


def _restore(checkpoints: Checkpoints, example: dict[str, Any]) -> dict[str, Any]:
    """The state of the newest checkpoint."""
    rest = {name: value for name, value in example.items() if name != "params"}
    items = checkpoints.restore(params=example["params"], rest=rest)
    return {"params": items["params"], **items["rest"]}


def _measure(run: Run, params: Any, step: int, split: str, metrics: run_folder.Metrics) -> dict[str, float]:
    """Both protocols on a held-out split."""
    indices = run.indices[split]
    total = 2 * (len(indices) - 1)
    with tqdm.tqdm(total=total, unit="char", unit_scale=True, leave=False, desc=f"{split} split") as bar:
        reset = evaluate.loss_reset(run.model, params, indices, bar.update)
        carried = evaluate.loss_carried(run.model, params, indices, bar.update)
    row = {
        "loss": reset,
        "loss_carried": carried,
        "bits_per_char": evaluate.bits(reset),
        "bits_per_char_carried": evaluate.bits(carried),
    }
    metrics.add(step, split, **row)
    return row


def _finish(run: Run, params: Any, workdir: pathlib.Path, metrics: run_folder.Metrics) -> None:
    """Measures the test split once, and shows what came of the run."""
    rows = [row for row in run_folder.read_metrics(workdir) if row["split"] == "test"]
    result = rows[-1] if rows else _measure(run, params, run.steps, "test", metrics)
    _plot(workdir)
    _show("After training", _samples(run, params, workdir, run.steps))
    baselines = json.loads((workdir / "baselines.json").read_text(encoding="utf-8"))
    name = f"{run.config.cell} {run.config.hidden_size}" + (f" x {run.config.layers}" if run.config.layers > 1 else "")
    table = [(f"{model} model, interpolated", loss) for model, loss in baselines.items()]
    table += [(f"{name}, carry reset every {evaluate.BLOCK}", result["loss"])]
    table += [(f"{name}, carry carried", result["loss_carried"])]
    width = max(32, *(len(label) for label, _ in table))
    title = f"test split: {len(run.indices['test']):,} characters"
    print(f"\n{title:<{width}}  nats/char  bits/char")
    for label, loss in table:
        print(f"{label:<{width}}  {loss:9.3f}  {evaluate.bits(loss):9.3f}")
    print(
        f"\nPictures: {workdir / 'curves.png'}. Samples: {workdir / 'samples'}. Numbers: {workdir / 'metrics.jsonl'}."
    )


def _keep_text(run: Run, workdir: pathlib.Path) -> None:
    """Stores the vocabulary and the n-gram models' losses, or checks that the text is still the same."""
    path = workdir / "vocabulary.json"
    ours = {"characters": run.vocabulary.characters, "text_sha256": run.text.sha256(), "source": run.text.source}
    if path.exists():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        if theirs["text_sha256"] != ours["text_sha256"]:
            raise UsageError(
                f"--data: the text of this run has changed: its characters are not those that it began with, from "
                f"{theirs['source']}. Begin another run in another folder."
            )
    if not (workdir / "baselines.json").exists():
        size = len(run.vocabulary)
        losses = {name: ngram_loss(run.indices["train"], run.indices["test"], size, n) for name, n in NGRAMS.items()}
        run_folder.write(workdir / "baselines.json", json.dumps(losses, indent=2) + "\n")
    run_folder.write(path, json.dumps(ours, indent=2) + "\n")


def _describe(run: Run) -> None:
    """Prints what is about to be trained, and on what."""
    config, split, vocabulary = run.config, run.text.split, run.vocabulary
    params = jax.eval_shape(run.model.init, jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"Text      {run.text.source}")
    print(f"  train   {len(split.train):>10,} characters, {len(vocabulary) - 1} kinds")
    for name in ("valid", "test"):
        print(
            f"  {name:<7} {len(getattr(split, name)):>10,} characters, {data.unseen(getattr(split, name), vocabulary)}"
        )
    print(f"Model     {config.layers} x {run.model.cell!r}, {size:,} parameters")
    print(
        f"Training  {run.steps:,} steps of {config.batch_size} streams x {config.chunk_length} characters, "
        f"{run.streams.steps_per_epoch:,} steps an epoch, on {jax.devices()[0].device_kind}"
    )


def _samples(run: Run, params: Any, workdir: pathlib.Path, step: int) -> str:
    """Draws a text, and keeps it under the number of the step."""
    text = sample(
        run.model, params, run.vocabulary, prompt="", length=SAMPLE_LENGTH, temperature=0.8, seed=run.config.seed
    )[0]
    folder = workdir / "samples"
    folder.mkdir(exist_ok=True)
    run_folder.write(folder / f"step_{step:07d}.txt", text)
    return text


def _show(title: str, text: str) -> None:
    """Prints a sample."""
    rule = "-" * 78
    print(f"{title}, a sample at temperature 0.8:\n{rule}\n{text}\n{rule}", flush=True)


def _plot(workdir: pathlib.Path) -> None:
    """Draws `curves.png` from the rows so far."""
    baselines = json.loads((workdir / "baselines.json").read_text(encoding="utf-8"))
    plot_curves(workdir / "curves.png", run_folder.read_metrics(workdir), baselines, "nats per character")
