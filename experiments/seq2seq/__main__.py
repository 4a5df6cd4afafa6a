"""`python -m experiments.seq2seq train|evaluate|translate --workdir DIR`."""

from experiments.common.interrupt import stop_at_once

if __name__ == "__main__":
    stop_at_once()

import dataclasses
import pathlib
import sys
from typing import Any, Literal, NamedTuple

from experiments.common import cli
from experiments.common.cli import UsageError, check_new_file
from experiments.common.config import at_least, check
from experiments.common.texts import check_texts, read_texts
from experiments.seq2seq.config import MADE_FOR, PRESETS, Config

Preset = Literal["demo", "scan", "multi30k", "multi30k_large", "tiny"]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a translator of one kind of text into another; the same command again goes on."""

    workdir: pathlib.Path
    """Folder of the run: it is made, or goes on if it holds this run."""
    config: Config
    preset: Preset = "demo"
    """What all options below default to."""
    seeds: int = 1
    """Train so many models, with --seed and the seeds behind it, and show mean and spread."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure a trained translator: perplexity, sequence accuracy, BLEU and chrF."""

    workdir: pathlib.Path
    """Folder of the run."""
    split: Literal["test", "valid", "train"] = "test"
    """Part of the run's own pairs, where no --data is given."""
    data: tuple[pathlib.Path, ...] = ()
    """Other pairs: a file with two columns, or two files."""
    beams: int | None = None
    """Hypotheses of the beam search; 1 is greedy search. None: those of the run."""
    length_normalisation: float | None = None
    """Exponent of the length by which scores are divided. None: that of the run."""
    coverage_penalty: float | None = None
    """Weight of the penalty for unattended source positions. None: that of the run."""


@dataclasses.dataclass(frozen=True)
class Translate:
    """Translate texts; without --text or --file reads stdin, a text on each line."""

    workdir: pathlib.Path
    """Folder of the run."""
    text: str | None = None
    """A text."""
    file: pathlib.Path | None = None
    """A file with a text on each line."""
    beams: int | None = None
    """Hypotheses of the beam search; 1 is greedy search. None: those of the run."""
    n_best: int = 1
    """So many outputs for each text, each with its score."""
    length_normalisation: float | None = None
    """Exponent of the length by which scores are divided. None: that of the run."""
    coverage_penalty: float | None = None
    """Weight of the penalty for unattended source positions. None: that of the run."""
    replace_unknown: bool = False
    """Put the most attended word of the source in the place of an unknown one."""
    attention: pathlib.Path | None = None
    """Also draw the attention matrices of the first texts, into this new file."""


class Trained(NamedTuple):
    """What a run has left behind."""

    model: Any
    params: Any
    source: Any
    target: Any
    config: Config


def _train(arguments: Train) -> None:
    from experiments.common.sweep import sweep
    from experiments.seq2seq.train import train

    cli.check_data(arguments.preset, arguments.config, MADE_FOR)
    sweep(train, arguments.config, arguments.workdir, arguments.seeds)


def _restore(workdir: pathlib.Path) -> Trained:
    """The model of a run, and the parameters that it has kept."""
    import jax

    from experiments.common.workdir import read_config, restore_kept
    from experiments.seq2seq.model import Seq2Seq
    from experiments.seq2seq.tokens import restore

    config = read_config(workdir, Config)
    source, target = (restore(workdir, side, config.tokens) for side in ("source", "target"))
    model = Seq2Seq.of(config, len(source), len(target))
    return Trained(model, restore_kept(workdir, jax.eval_shape(model.init, jax.random.key(0))), source, target, config)


def _search(arguments: Evaluate | Translate, run: Trained) -> Any:
    """The search that the options ask for, on top of the run's own."""
    from experiments.seq2seq.translate import Search

    names = ("beams", "length_normalisation", "coverage_penalty")
    given = {name: getattr(arguments, name) for name in names}
    search = Search(**{name: getattr(run.config, name) if value is None else value for name, value in given.items()})
    if search.coverage_penalty and not run.model.attends:
        raise UsageError(f"--coverage-penalty: expected 0 without attention, got {search.coverage_penalty}")
    return search


def _check_search(arguments: Evaluate | Translate) -> None:
    """Refuses numbers that are none of a search."""
    if arguments.beams is not None:
        check(arguments, at_least(arguments, 1, "beams"))
    given = [n for n in ("length_normalisation", "coverage_penalty") if getattr(arguments, n) is not None]
    check(arguments, at_least(arguments, 0, *given))


def _evaluate(arguments: Evaluate) -> None:
    _check_search(arguments)
    import tqdm

    from experiments.common.workdir import read_stored
    from experiments.seq2seq import data
    from experiments.seq2seq.evaluate import compare, perplexity
    from experiments.seq2seq.lines import read
    from experiments.seq2seq.translate import translate

    run = _restore(arguments.workdir)
    if arguments.data:
        name, pairs = " and ".join(map(str, arguments.data)), read("data", tuple(map(str, arguments.data)))
    else:
        corpus = data.load(run.config)
        if [corpus.sha256()] != read_stored(arguments.workdir / "corpus.json", "sha256"):
            raise UsageError("--data: the pairs of this run have changed since it was trained; name others with --data")
        name, pairs = f"{arguments.split} split", getattr(corpus, arguments.split)
    search = _search(arguments, run)
    encoded = data.Encoded(pairs, run.source, run.target, run.config.max_length, run.config.widths)
    with tqdm.tqdm(total=2 * len(pairs), unit=" pairs", leave=False) as bar:
        values = perplexity(run.model, run.params, encoded, bar.update)
        outputs = translate(run.model, run.params, encoded, search, run.config.max_length, bar.update)
    scores, signature = compare(outputs, encoded, run.target)
    print(f"{name}: {len(pairs):,} pairs, {search}")
    for key, value in {**values, **scores}.items():
        print(f"{key.replace('_', ' '):<20}{value:10.4f}")
    print(f"BLEU {signature}")


def _translate(arguments: Translate) -> None:
    check_texts(arguments.text, arguments.file)
    check_new_file("attention", arguments.attention)
    check(arguments, at_least(arguments, 1, "n_best"))
    _check_search(arguments)
    from experiments.seq2seq import data, pictures
    from experiments.seq2seq.tokens import UNKNOWN_ID
    from experiments.seq2seq.train import align
    from experiments.seq2seq.translate import translate, words

    run = _restore(arguments.workdir)
    if not run.model.attends:
        for name, given in (("attention", arguments.attention), ("replace-unknown", arguments.replace_unknown)):
            if given:
                raise UsageError(f"--{name}: expected a model with attention, this one has none")
    search = _search(arguments, run)
    if arguments.n_best > search.beams:
        raise UsageError(f"--n-best: expected at most --beams, {search.beams}, got {arguments.n_best}")
    texts = read_texts(arguments.text, arguments.file)
    cut = [len(run.source.cut(text)) for text in texts]
    if max(cut) > run.config.max_length:
        longer = sum(count > run.config.max_length for count in cut)
        print(f"note: only the first {run.config.max_length} tokens are read of {longer} texts", file=sys.stderr)
    if min(cut) == 0:
        print(f"note: {cut.count(0)} texts are empty: so are their outputs", file=sys.stderr)
    numbered = [pair for text in texts for pair in zip(run.source.cut(text), run.source.encode(text), strict=True)]
    unknown = [token for token, number in numbered if number == UNKNOWN_ID]
    if unknown:
        print(f"note: never seen in training: {', '.join(dict.fromkeys(unknown))}", file=sys.stderr)
    pairs = data.Encoded(
        [(text, "") for text in texts], run.source, run.target, run.config.max_length, run.config.widths
    )
    outputs = translate(run.model, run.params, pairs, search, run.config.max_length)
    single = len(texts) == 1
    drawn = []
    for text, count, found in zip(texts, cut, outputs, strict=True):
        for output in found[: arguments.n_best] if count else []:
            shown = run.model.attends and (single or arguments.attention is not None or arguments.replace_unknown)
            aligned = align(run, run.params, text, output) if shown else None
            replacing = (aligned.source, aligned.weights) if aligned and arguments.replace_unknown else ()
            line = run.target.join(words(output, run.target, *replacing))
            print(line if arguments.n_best == 1 else f"{output.score:9.4f}  {line}")
            if aligned and output is found[0]:
                drawn.append(aligned)
        if not count:
            print()
    if single and drawn:
        print("\n" + pictures.terminal(drawn[0]))
    if arguments.attention is not None and drawn:
        pictures.plot_attention(arguments.attention, drawn[:8])


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return cli.run(
        program="python -m experiments.seq2seq",
        description="From one sequence to another, such as a translation: train, measure, translate.",
        commands={"train": (Train, _train), "evaluate": (Evaluate, _evaluate), "translate": (Translate, _translate)},
        presets=PRESETS,
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
