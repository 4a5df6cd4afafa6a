"""`python -m experiments.sentiment train|evaluate|predict --workdir DIR`."""

from experiments.common.interrupt import stop_at_once

if __name__ == "__main__":
    stop_at_once()

import dataclasses
import pathlib
import sys
from typing import TYPE_CHECKING, Literal

from experiments.common import cli
from experiments.common.cli import UsageError, check_new_file
from experiments.common.texts import check_texts, read_texts
from experiments.sentiment.config import MADE_FOR, PRESETS, Config

if TYPE_CHECKING:
    from experiments.sentiment.predict import Trained

Preset = Literal["demo", "imdb", "sst2", "tiny"]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a classifier of texts; the same command again goes on from the last checkpoint."""

    workdir: pathlib.Path
    """Folder of the run: it is made, or goes on if it holds this run."""
    config: Config
    preset: Preset = "demo"
    """What all options below default to."""
    seeds: int = 1
    """Train so many models, with --seed and the seeds behind it, and show mean and spread."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure a trained classifier."""

    workdir: pathlib.Path
    """Folder of the run."""
    split: Literal["test", "valid", "train"] = "test"
    """Part of the run's own texts, where no --data is given."""
    data: pathlib.Path | None = None
    """A table of other texts, with the columns of the run's own."""


@dataclasses.dataclass(frozen=True)
class Predict:
    """Show the class of texts, and how the score moves word by word; without --text or --file reads stdin."""

    workdir: pathlib.Path
    """Folder of the run."""
    text: str | None = None
    """A text."""
    file: pathlib.Path | None = None
    """A file with a text on each line."""
    html: pathlib.Path | None = None
    """Also write a page with all texts word by word, to this new file."""


def _train(arguments: Train) -> None:
    from experiments.common.sweep import sweep
    from experiments.sentiment.train import train

    cli.check_data(arguments.preset, arguments.config, MADE_FOR)
    sweep(train, arguments.config, arguments.workdir, arguments.seeds)


def _restore(workdir: pathlib.Path) -> "Trained":
    """The model of a run, and the parameters that it has kept."""
    import jax

    from experiments.common.words import Vocabulary
    from experiments.common.workdir import read_config, read_stored, restore_kept
    from experiments.sentiment.model import Classifier
    from experiments.sentiment.predict import Trained

    config = read_config(workdir, Config)
    words, classes = map(tuple, read_stored(workdir / "vocabulary.json", "words", "classes"))
    vocabulary = Vocabulary(words)
    model = Classifier.of(config, len(vocabulary), len(classes))
    params = restore_kept(workdir, jax.eval_shape(model.init, jax.random.key(0)))
    return Trained(model, params, vocabulary, classes, config)


def _evaluate(arguments: Evaluate) -> None:
    import tqdm

    from experiments.common.workdir import read_stored
    from experiments.sentiment import data
    from experiments.sentiment.evaluate import calibration, log_probabilities, measure

    run = _restore(arguments.workdir)
    if arguments.data is None:
        corpus = data.load(run.config)
        if [corpus.sha256()] != read_stored(arguments.workdir / "vocabulary.json", "data_sha256"):
            raise UsageError("--data: the texts of this run have changed since it was trained; name others with --data")
        name, examples = f"{arguments.split} split", getattr(corpus, arguments.split)
    else:
        columns = run.config.text_column, run.config.label_column
        name, (examples, test) = str(arguments.data), data.read("data", arguments.data, *columns)
        examples = test or examples
        data.check_labels("data", name, examples, run.classes)
    encoded = run.encoded(examples)
    with tqdm.tqdm(total=len(examples), unit=" texts", leave=False) as bar:
        log_probs = log_probabilities(run.model, run.params, encoded, bar.update)
    values = {**measure(log_probs, encoded.labels), "calibration_error": calibration(log_probs, encoded.labels)[1]}
    print(f"{name}: {len(examples):,} texts")
    for key, value in values.items():
        print(f"{key.replace('_', ' '):<20}{value:9.4f}")
    width = max(map(len, ("true class", *run.classes)))
    print(f"\n{'true class':<{width}}  texts  right")
    for number, label in enumerate(run.classes):
        own = log_probs[encoded.labels == number]
        right = f"{(own.argmax(axis=1) == number).mean():6.1%}" if len(own) else "     -"
        print(f"{label:<{width}} {len(own):>6,} {right}")


def _predict(arguments: Predict) -> None:
    check_new_file("html", arguments.html)
    check_texts(arguments.text, arguments.file)
    from experiments.common.workdir import write
    from experiments.sentiment import pictures
    from experiments.sentiment.predict import classify, word_by_word

    run = _restore(arguments.workdir)
    texts = read_texts(arguments.text, arguments.file)
    width = max(map(len, run.classes))
    for text, row in zip(texts, classify(run, texts), strict=True):
        note = "" if text.strip() else "   (an empty text)"
        print(f"{run.classes[row.argmax()]:<{width}}  {row.max():6.1%}  {text}{note}")
    if len(texts) == 1 and texts[0].strip():
        words, probabilities = word_by_word(run, texts[0])
        unknown = [word for word in words if word not in run.vocabulary]
        print("\n" + pictures.terminal(words, probabilities, run.classes))
        if unknown:
            print(f"note: never seen in training: {', '.join(dict.fromkeys(unknown))}", file=sys.stderr)
    if arguments.html is not None:
        shown = [word_by_word(run, text) for text in texts if text.strip()]
        write(arguments.html, pictures.page(shown, run.classes))


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return cli.run(
        program="python -m experiments.sentiment",
        description="The class of a text, such as whether a review is positive: train, measure, predict.",
        commands={"train": (Train, _train), "evaluate": (Evaluate, _evaluate), "predict": (Predict, _predict)},
        presets=PRESETS,
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
