"""Training: from a configuration to a folder with a model, its numbers and its pictures."""

import collections
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import workdir as run_folder
from experiments.common.cli import UsageError
from experiments.common.config import absolute
from experiments.common.losses import cross_entropy
from experiments.common.plots import TEST, TRAIN, VALID, Curve, Panel, plot_curves
from experiments.common.training import Task
from experiments.common.training import train as run_training
from experiments.common.vectors import read_vectors
from experiments.common.words import Vocabulary, tokenize
from experiments.sentiment import data, pictures
from experiments.sentiment.baseline import bag_of_words, majority
from experiments.sentiment.config import Config
from experiments.sentiment.evaluate import log_probabilities, measure
from experiments.sentiment.model import Classifier
from experiments.sentiment.predict import Trained, word_by_word


class Run:
    """Everything of one run that does not change from step to step."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.corpus = data.load(config)
        counts = collections.Counter(example.label for example in self.corpus.train)
        self.classes = tuple(sorted(counts))
        self.counts = np.array([counts[label] for label in self.classes])
        words = (tokenize(example.text)[-config.max_length :] for example in self.corpus.train)
        self.vocabulary = Vocabulary.of(words, config.vocabulary_size, config.min_count, data.SPECIAL)
        self.splits = {
            name: data.Encoded(
                getattr(self.corpus, name), self.vocabulary, self.classes, config.max_length, config.widths
            )
            for name in ("train", "valid", "test")
        }
        self.model = Classifier.of(config, len(self.vocabulary), len(self.classes))
        self.plan = self.splits["train"].plan(config)
        self.vectors = None
        if config.vectors is not None:
            self.vectors = read_vectors("vectors", pathlib.Path(config.vectors), self.vocabulary, config.embedding_size)

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """The weight of each class in the loss; their mean over the training examples is 1."""
        if not self.config.balance:
            return np.ones(len(self.classes), np.float32)
        return (self.counts.sum() / (len(self.classes) * self.counts)).astype(np.float32)

    def init(self, key: jax.Array) -> Any:
        """Draws the parameters; word vectors that are given take the place of drawn ones."""
        params = self.model.init(key)
        if self.vectors is not None:
            table = params["embed"]["params"]["embedding"]
            params["embed"]["params"]["embedding"] = table.at[self.vectors.rows].set(self.vectors.values)
        return params

    def loss(self, params: Any, carry: Any, batch: data.Batch, key: jax.Array) -> Any:
        """The mean cross-entropy of a batch."""
        logits = self.model.apply(params, batch.words, batch.lengths, key)
        losses = cross_entropy(logits, batch.labels, self.config.label_smoothing)
        return (losses * jnp.asarray(self.weights)[batch.labels]).mean(), carry


def train(config: Config, workdir: pathlib.Path) -> dict[str, float]:
    """Trains, or goes on with, the run of a folder, and measures the test split at the end.

    Returns:
      The numbers of the test split.

    Raises:
      UsageError: the texts can't be had, or the folder holds something else.
      Interrupted: Ctrl-C came; what was done is saved.
    """
    config = absolute(config, "data", "test_data", "tfds_dir", "tfds_manual_dir", "vectors")
    run_folder.check_run(workdir, config)
    run = Run(config)
    valid = run.splits["valid"]
    task = Task(
        config=config,
        init=run.init,
        loss=run.loss,
        batches=run.splits["train"].training_batches(run.plan),
        steps_per_epoch=run.plan.steps_per_epoch,
        unit="example",
        per_step=run.plan.batch_size,
        measure=lambda params, watch: measure(log_probabilities(run.model, params, valid, watch), valid.labels),
        size=len(valid.labels),
        goal="accuracy",
        largest=True,
        look=lambda params, step: _plot(workdir, baselines),
    )
    run_folder.open_run(workdir, config)
    _keep_words(run, workdir)
    _describe(run)
    baselines = _baselines(run, workdir)
    params = run_training(task, workdir)
    return _finish(run, params, workdir, baselines)


def _finish(run: Run, params: Any, workdir: pathlib.Path, baselines: dict[str, float]) -> dict[str, float]:
    """Measures the test split, and shows what came of the run."""
    test = run.splits["test"]
    log_probs = log_probabilities(run.model, params, test)
    values = measure(log_probs, test.labels)
    run_folder.append_result(workdir, **values)
    _plot(workdir, baselines)
    pictures.plot_split(workdir / "test.png", log_probs, test.labels, test.lengths, run.classes)
    _show_examples(run, params, workdir, log_probs)
    config = run.config
    arrow = "bidirectional " if config.bidirectional else ""
    table = {name: f"{value:9.2%}" for name, value in baselines.items()}
    table[f"{arrow}{config.cell} {config.hidden_size} x {config.layers}"] = (
        f"{values['accuracy']:9.2%}  {values['macro_f1']:8.4f}  {values['loss']:6.4f}"
    )
    title = f"test split: {len(test.labels):,} texts"
    width = max(len(title), *map(len, table))
    print(f"\n{title:<{width}}  accuracy  macro F1    loss")
    for name, numbers in table.items():
        print(f"{name:<{width}}  {numbers.strip():>8}")
    print(f"\nPictures: {workdir}/curves.png, test.png, words.html. Numbers: {workdir}/metrics.jsonl.")
    return values


def _show_examples(run: Run, params: Any, workdir: pathlib.Path, log_probs: np.ndarray) -> None:
    """Shows, of test texts of middling length, the surest guess of each of two classes, word by word."""
    test = run.splits["test"]
    trained = Trained(run.model, params, run.vocabulary, run.classes, run.config)
    short = (test.lengths > 0) & (test.lengths <= max(1, np.quantile(test.lengths, 0.6)))
    shown = []
    for label in range(min(2, len(run.classes)) if short.any() else 0):
        score = np.where(short, log_probs[:, label], -np.inf)
        text = run.corpus.test[int(score.argmax())].text
        shown.append(word_by_word(trained, text))
    run_folder.write(workdir / "words.html", pictures.page(shown, run.classes))
    if not shown:
        return
    words, probabilities = shown[-1]
    print("\nA text of the test split, word by word:")
    print(pictures.terminal(words[-40:], probabilities[-40:], run.classes))


def _keep_words(run: Run, workdir: pathlib.Path) -> None:
    """Stores the vocabulary, or checks that the texts are still the same."""
    path = workdir / "vocabulary.json"
    ours = {
        "words": list(run.vocabulary.words), "classes": list(run.classes), "data_sha256": run.corpus.sha256(),
        "source": run.corpus.source,
    }  # fmt: skip
    if run_folder.has_step(workdir):
        sha256, source = run_folder.read_stored(path, "data_sha256", "source")
        if sha256 != ours["data_sha256"]:
            raise UsageError(
                f"--data: the texts of this run have changed: they are not those that it began with, from "
                f"{source}. Begin another run in another folder."
            )
        return
    run_folder.write(path, json.dumps(ours, ensure_ascii=False) + "\n")


def _baselines(run: Run, workdir: pathlib.Path) -> dict[str, float]:
    """Test accuracies without a network, computed once."""
    path, names = workdir / "baselines.json", ("majority class", "bag of words")
    if not path.exists() or not run_folder.has_step(workdir):
        train, valid, test = (run.splits[name] for name in ("train", "valid", "test"))
        values = majority(train, test), bag_of_words(train, valid, test, len(run.vocabulary))
        run_folder.write(path, json.dumps(dict(zip(names, values, strict=True)), indent=2) + "\n")
    stored = run_folder.read_stored(path, *names, way_out="delete it, and it is computed anew")
    return dict(zip(names, map(float, stored), strict=True))


def _describe(run: Run) -> None:
    """Prints what is about to be trained, and on what."""
    params = jax.eval_shape(run.model.init, jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"Texts     {run.corpus.source}")
    for name, split in run.splits.items():
        total = max(1, sum(map(len, split.texts)))
        unknown = sum(int(np.sum(text == 1)) for text in split.texts)
        print(
            f"  {name:<7} {len(split.texts):>8,} texts, {total:>10,} words read, {np.median(split.lengths):.0f} in the "
            f"middle one, {unknown / total:.1%} unknown"
        )
    shown = zip(run.classes, run.counts, run.weights, strict=True)
    print("Classes   " + ", ".join(f"{name} {count:,} (weight {weight:.2f})" for name, count, weight in shown))
    if run.vectors is not None:
        print(f"Vectors   of {len(run.vectors.rows):,} words, from {run.config.vectors}")
    print(f"Model     {run.model.encoder!r}\n          {len(run.vocabulary):,} words, {size:,} parameters")
    print(
        f"Training  {len(run.plan):,} steps of {run.plan.batch_size} texts, {run.plan.steps_per_epoch:,} steps an "
        f"epoch, on {jax.devices()[0].device_kind}",
        flush=True,
    )


def _plot(workdir: pathlib.Path, baselines: dict[str, float]) -> None:
    """Draws `curves.png` from the rows so far."""
    loss = [Curve("train, with dropout", "train", "loss", TRAIN), Curve("valid", "valid", "loss", VALID)]
    accuracy = [Curve("valid", "valid", "accuracy", VALID), Curve("test", "test", "accuracy", TEST)]
    panels = [Panel("loss [nats]", loss), Panel("accuracy", accuracy, baselines)]
    plot_curves(workdir / "curves.png", run_folder.read_metrics(workdir), panels)
