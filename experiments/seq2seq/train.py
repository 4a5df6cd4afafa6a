"""Training: from a configuration to a folder with a model, its numbers and its pictures."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments.common import workdir as run_folder
from experiments.common.cli import UsageError
from experiments.common.losses import cross_entropy
from experiments.common.plots import TEST, TRAIN, VALID, Curve, Panel, plot_curves
from experiments.common.training import Task
from experiments.common.training import train as run_training
from experiments.seq2seq import data, pictures
from experiments.seq2seq.config import Config, absolute
from experiments.seq2seq.evaluate import compare, perplexity, predicted, reference
from experiments.seq2seq.model import Seq2Seq
from experiments.seq2seq.tokens import restore
from experiments.seq2seq.translate import Output, Search, attention, translate, words

# Pairs of the valid split that are translated while training, and of the test split that are shown.
_TRANSLATED, _SHOWN, _DRAWN = 500, 5, 4
GREEDY = Search()


class Run:
    """Everything of one run that does not change from step to step."""

    def __init__(self, config: Config, workdir: pathlib.Path) -> None:
        self.config = config
        self.corpus = data.load(config)
        if run_folder.has_step(workdir):
            self.source, self.target = (restore(workdir, side, config.tokens) for side in ("source", "target"))
            lengths = data.measure(self.corpus.train, self.source, self.target)
        else:
            self.source, self.target, lengths = data.survey(config, self.corpus.train)
        rest = self.source, self.target, config.max_length, config.widths
        every = data.Encoded(self.corpus.train, *rest, lengths)
        self.train = every.trainable()
        self.left_out = len(every) - len(self.train)
        if not len(self.train):
            raise UsageError(
                f"--max-length: expected pairs with two sides of at most {config.max_length} tokens, found none"
            )
        self.valid, self.test = data.Encoded(self.corpus.valid, *rest), data.Encoded(self.corpus.test, *rest)
        few = data.Part(self.corpus.valid, np.arange(min(_TRANSLATED, len(self.valid))))
        self.few = data.Encoded(few, *rest)
        self.model = Seq2Seq.of(config, len(self.source), len(self.target))
        self.plan = self.train.plan(config)
        self.search = Search(config.beams, config.length_normalisation, config.coverage_penalty)

    def loss(self, params: Any, step: jax.Array, batch: data.Batch, key: jax.Array) -> Any:
        """The mean cross-entropy of the true tokens of a batch; what is carried on is the number of the step."""
        config = self.config
        read, wanted, there = predicted(batch)
        if config.teacher_forcing == config.teacher_forcing_end == 1:
            logits = self.model.apply(params, batch.source, batch.source_lengths, read, key)
        else:
            place = jnp.minimum(step / max(1, len(self.plan) - 1), 1)
            forcing = config.teacher_forcing + place * (config.teacher_forcing_end - config.teacher_forcing)
            logits = self.model.sampled(params, batch.source, batch.source_lengths, read, forcing, key)
        losses = jnp.where(there, cross_entropy(logits, wanted, config.label_smoothing), 0)
        return losses.sum() / jnp.maximum(there.sum(), 1), step + 1

    def measure(self, params: Any, watch: Any) -> dict[str, float]:
        """Perplexity of the valid split, and how good greedy outputs of its first pairs are."""
        values = perplexity(self.model, params, self.valid, watch)
        outputs = translate(self.model, params, self.few, GREEDY, self.config.max_length, watch)
        return {**values, **compare(outputs, self.few, self.target)[0]}


def train(config: Config, workdir: pathlib.Path) -> dict[str, float]:
    """Trains, or goes on with, the run of a folder, and measures the test split at the end.

    Returns:
      The numbers of the test split, by greedy search; those of beam search begin with `beam_`.

    Raises:
      UsageError: the pairs can't be had, or the folder holds something else.
      Interrupted: Ctrl-C came; what was done is saved.
    """
    config = absolute(config)
    run_folder.check_run(workdir, config)
    run = Run(config, workdir)
    task = Task(
        config=config,
        init=run.model.init,
        loss=run.loss,
        batches=run.train.training_batches(run.plan),
        steps_per_epoch=run.plan.steps_per_epoch,
        unit="pair",
        per_step=run.plan.batch_size,
        measure=run.measure,
        size=len(run.valid) + len(run.few),
        goal=config.goal,
        largest=config.goal != "loss",
        initial_carry=lambda params: jnp.zeros((), jnp.int32),
        look=lambda params, step: _plot(workdir),
    )
    run_folder.open_run(workdir, config)
    _keep(run, workdir)
    _describe(run)
    params = run_training(task, workdir)
    return _finish(run, params, workdir)


def _finish(run: Run, params: Any, workdir: pathlib.Path) -> dict[str, float]:
    """Measures the test split, and shows what came of the run."""
    searches = {"greedy": GREEDY, f"beam {run.search.beams}": run.search}
    outputs = {}
    with tqdm.tqdm(total=3 * len(run.test), unit=" pairs", unit_scale=True, leave=False, desc="test split") as bar:
        values = perplexity(run.model, params, run.test, bar.update)
        for name, search in searches.items():
            outputs[name] = translate(run.model, params, run.test, search, run.config.max_length, bar.update)
    compared = {name: compare(found, run.test, run.target) for name, found in outputs.items()}
    (greedy, signature), (beam, _) = compared.values()
    row = {**values, **greedy, **{f"beam_{name}": value for name, value in beam.items()}}
    run_folder.append_result(workdir, **row)
    _plot(workdir)
    best = list(outputs.values())[-1]
    _show_examples(run, params, workdir, best)
    title = f"test split: {len(run.test):,} pairs"
    print(f"\n{title:<24}{'right':>9}{'BLEU':>9}{'chrF':>9}{'log p':>9}")
    for name, found in outputs.items():
        log_prob = np.mean([one[0].log_prob for one in found])
        right, *rest = compared[name][0].values()
        print(f"{name:<24}{right:9.2%}" + "".join(f"{value:9.2f}" for value in (*rest, log_prob)))
    print(f"perplexity {values['perplexity']:.3f}, loss {values['loss']:.4f} nats per token, <eos> among them")
    print(f"BLEU {signature}")
    print(f"\nPictures: {workdir}/curves.png" + f", {workdir}/attention.png" * run.model.attends, end="")
    print(f". Outputs: {workdir}/test.tsv. Numbers: {workdir}/metrics.jsonl.")
    return row


def _show_examples(run: Run, params: Any, workdir: pathlib.Path, outputs: list[list[Output]]) -> None:
    """Writes all outputs of the test split, prints the first ones, and draws their attention."""
    texts = [run.target.join(words(found[0], run.target)) for found in outputs]
    plain = lambda text: " ".join(text.split("\t"))
    pairs = zip(_all(run.test.pairs), texts, strict=True)
    rows = ("\t".join(map(plain, (source, target, text))) for (source, target), text in pairs)
    run_folder.write(workdir / "test.tsv", "source\ttarget\toutput\n" + "\n".join(rows) + "\n")
    print("\nThe first pairs of the test split:")
    for number in range(min(_SHOWN, len(texts))):
        source, target = run.test.pairs[number]
        truth = reference(target, run.target)
        right = "right" if texts[number] == truth else f"expected {truth}"
        print(f"  {source}\n    -> {texts[number]}   ({right})")
    if run.model.attends:
        shown = [n for n in range(len(texts)) if run.test.lengths[n, 0]][:_DRAWN]
        examples = [align(run, params, run.test.pairs[n][0], outputs[n][0]) for n in shown]
        pictures.plot_attention(workdir / "attention.png", examples)


def align(run: Any, params: Any, text: str, output: Output) -> pictures.Aligned:
    """The attention between a source and its output."""
    source = run.source.encode(text)[: run.config.max_length]
    tokens = run.source.cut(text)[: run.config.max_length]
    weights = attention(run.model, params, source, output.tokens)
    return pictures.Aligned(tokens, [*run.target.names(output.tokens), "<eos>"], weights)


def _all(pairs: data.Pairs) -> list[tuple[str, str]]:
    """Every pair."""
    return [pairs[number] for number in range(len(pairs))]


def _keep(run: Run, workdir: pathlib.Path) -> None:
    """Stores the vocabularies, or checks that the pairs are still the same."""
    path = workdir / "corpus.json"
    ours = {"sha256": run.corpus.sha256(), "source": run.corpus.source}
    if run_folder.has_step(workdir):
        if [ours["sha256"]] != run_folder.read_stored(path, "sha256"):
            raise UsageError(
                "--data: the pairs of this run have changed: they are not those that it began with. Begin another run "
                "in another folder."
            )
        return
    run.source.save(workdir, "source")
    run.target.save(workdir, "target")
    run_folder.write(path, json.dumps(ours, ensure_ascii=False, indent=2) + "\n")


def _describe(run: Run) -> None:
    """Prints what is about to be trained, and on what."""
    params = jax.eval_shape(run.model.init, jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"Pairs     {run.corpus.source}")
    for name, pairs in (("train", run.train), ("valid", run.valid), ("test", run.test)):
        source, target = np.median(pairs.lengths, axis=0)
        print(f"  {name:<7} {len(pairs):>9,} pairs, in the middle {source:.0f} and {target:.0f} tokens")
    if run.left_out:
        print(
            f"  {run.left_out:,} pairs are empty or longer than {run.config.max_length} tokens and are not trained on"
        )
    if cut := run.valid.too_long() + run.test.too_long():
        print(f"  {cut:,} pairs to measure are longer: their sources, and their targets for the perplexity, are cut")
    print(f"Tokens    {run.config.tokens}: {len(run.source):,} in sources, {len(run.target):,} in targets")
    print(f"Model     encoder {run.model.encoder!r}")
    print(f"          decoder {run.model.decoder!r}")
    print(f"          {size:,} parameters")
    print(
        f"Training  {len(run.plan):,} steps of {run.plan.batch_size} pairs, {run.plan.steps_per_epoch:,} steps an "
        f"epoch, on {jax.devices()[0].device_kind}",
        flush=True,
    )


def _plot(workdir: pathlib.Path) -> None:
    """Draws `curves.png` from the rows so far."""
    loss = [Curve("train, with dropout", "train", "loss", TRAIN), Curve("valid", "valid", "loss", VALID)]
    beam = {**TEST, "color": "tab:purple"}
    panels = [Panel("loss [nats per token]", [*loss, Curve("test", "test", "loss", TEST)])]
    for label, key in (("sequences right", "sequence_accuracy"), ("BLEU", "bleu")):
        curves = [Curve("valid, greedy", "valid", key, VALID), Curve("test, greedy", "test", key, TEST)]
        panels.append(Panel(label, [*curves, Curve("test, beam", "test", f"beam_{key}", beam)]))
    plot_curves(workdir / "curves.png", run_folder.read_metrics(workdir), panels)
