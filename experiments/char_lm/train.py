"""Training: truncated backpropagation through time, watched, saved, and resumed where it stopped."""

import json
import pathlib
from typing import Any

import grain
import jax
import jax.numpy as jnp
import tqdm

from experiments.char_lm import data, evaluate
from experiments.char_lm.config import Config
from experiments.char_lm.model import CharLM
from experiments.char_lm.ngram import ngram_loss
from experiments.char_lm.sample import sample
from experiments.common import workdir as run_folder
from experiments.common.cli import UsageError
from experiments.common.config import absolute
from experiments.common.losses import cross_entropy
from experiments.common.plots import TEST, TRAIN, VALID, Curve, Panel, plot_curves
from experiments.common.training import Task
from experiments.common.training import train as run_training

NGRAMS = {"unigram": 1, "trigram": 3, "5-gram": 5}
SAMPLE_LENGTH = 400


class Run:
    """Everything of one run that does not change from step to step."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.text = data.load(config)
        self.vocabulary = data.Vocabulary.of(self.text.split.train)
        self.indices = {n: self.vocabulary.encode(part) for n, part in self.text.split._asdict().items()}
        self.streams = data.Streams(
            self.indices["train"], config.batch_size, config.chunk_length, config.seed, config.epochs
        )
        self.model = CharLM.of(config, len(self.vocabulary))

    def loss(self, params: Any, carry: Any, batch: data.Batch, key: jax.Array) -> Any:
        """The mean cross-entropy of a chunk, and the carry for the next one."""
        model = self.model
        initial = model.initial_carry(params, batch.inputs.shape[1])
        carry = jax.tree.map(lambda a, b: jnp.where(batch.fresh, a, b), initial, jax.lax.stop_gradient(carry))
        carry, logits = model.apply(params, batch.inputs, carry, key if model.dropout else None)
        return cross_entropy(logits, batch.targets, self.config.label_smoothing).mean(), carry


def train(config: Config, workdir: pathlib.Path) -> dict[str, float]:
    """Trains, or goes on with, the run of a folder, and measures the test split at the end.

    Returns:
      The numbers of the test split.

    Raises:
      UsageError: the text can't be had, or the folder holds something else.
      Interrupted: Ctrl-C came; what was done is saved.
    """
    config = absolute(config, "data", "tfds_dir", "tfds_manual_dir")
    run_folder.check_run(workdir, config)
    run = Run(config)

    def look(params: Any, step: int) -> None:
        _samples(run, params, workdir, step)
        _plot(workdir, baselines)

    task = Task(
        config=config,
        init=run.model.init,
        loss=run.loss,
        batches=grain.MapDataset.source(run.streams),
        steps_per_epoch=run.streams.steps_per_epoch,
        unit="char",
        per_step=config.batch_size * config.chunk_length,
        measure=lambda params, watch: _measure(run, params, "valid", watch),
        size=2 * (len(run.indices["valid"]) - 1),
        initial_carry=lambda params: run.model.initial_carry(params, config.batch_size),
        look=look,
    )
    run_folder.open_run(workdir, config)
    _keep_text(run, workdir)
    baselines = _baselines(run, workdir)
    _describe(run)
    if not run_folder.has_step(workdir):
        _show("Before training", _samples(run, run.model.init(jax.random.key(config.seed)), workdir, 0))

    params = run_training(task, workdir)
    return _finish(run, params, workdir, baselines)


def _measure(run: Run, params: Any, split: str, watch: evaluate.Watch) -> dict[str, float]:
    """Both protocols on a held-out split."""
    indices = run.indices[split]
    reset = evaluate.loss_reset(run.model, params, indices, watch)
    carried = evaluate.loss_carried(run.model, params, indices, watch)
    return {
        "loss": reset,
        "loss_carried": carried,
        "bits_per_char": evaluate.bits(reset),
        "bits_per_char_carried": evaluate.bits(carried),
    }


def _finish(run: Run, params: Any, workdir: pathlib.Path, baselines: dict[str, float]) -> dict[str, float]:
    """Measures the test split, and shows what came of the run."""
    with tqdm.tqdm(
        total=2 * (len(run.indices["test"]) - 1), unit=" chars", unit_scale=True, leave=False, desc="test split"
    ) as bar:
        result = _measure(run, params, "test", bar.update)
    step = run_folder.append_result(workdir, **result)
    _plot(workdir, baselines)
    _show("After training", _samples(run, params, workdir, step))
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
    return result


def _keep_text(run: Run, workdir: pathlib.Path) -> None:
    """Stores the vocabulary, or checks that the text is still the same."""
    path = workdir / "vocabulary.json"
    ours = {"characters": run.vocabulary.characters, "text_sha256": run.text.sha256(), "source": run.text.source}
    if run_folder.has_step(workdir):
        sha256, source = run_folder.read_stored(path, "text_sha256", "source")
        if sha256 != ours["text_sha256"]:
            raise UsageError(
                f"--data: the text of this run has changed: its characters are not those that it began with, from "
                f"{source}. Begin another run in another folder."
            )
        return
    run_folder.write(path, json.dumps(ours, indent=2) + "\n")


def _baselines(run: Run, workdir: pathlib.Path) -> dict[str, float]:
    """The n-gram models' losses on the test split, computed once."""
    path = workdir / "baselines.json"
    if not path.exists() or not run_folder.has_step(workdir):
        size = len(run.vocabulary)
        losses = {name: ngram_loss(run.indices["train"], run.indices["test"], size, n) for name, n in NGRAMS.items()}
        run_folder.write(path, json.dumps(losses, indent=2) + "\n")
    stored = run_folder.read_stored(path, *NGRAMS, way_out="delete it, and it is computed anew")
    return dict(zip(NGRAMS, map(float, stored), strict=True))


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
        f"Training  {len(run.streams):,} steps of {config.batch_size} streams x {config.chunk_length} characters, "
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


def _plot(workdir: pathlib.Path, baselines: dict[str, float]) -> None:
    """Draws `curves.png` from the rows so far."""
    reset = f"carry reset every {evaluate.BLOCK}"
    curves = [
        Curve("train", "train", "loss", TRAIN),
        Curve(f"valid, {reset}", "valid", "loss", VALID),
        Curve("valid, carry carried", "valid", "loss_carried", {**VALID, "color": "tab:cyan"}),
        Curve(f"test, {reset}", "test", "loss", TEST),
    ]
    levels = {f"{name} on the test split": value for name, value in baselines.items()}
    panel = Panel("loss [nats per character]", curves, levels)
    plot_curves(workdir / "curves.png", run_folder.read_metrics(workdir), [panel])
