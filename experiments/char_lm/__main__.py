"""`python -m experiments.char_lm train|evaluate|sample --workdir DIR`."""

from experiments.common.interrupt import stop_at_once

if __name__ == "__main__":
    stop_at_once()

import dataclasses
import pathlib
import sys
from typing import Any, Literal

from experiments.char_lm.config import PRESETS, Config
from experiments.common import cli
from experiments.common.cli import UsageError

Preset = Literal["demo", "small", "large", "tiny"]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a model; the same command again goes on from the last checkpoint."""

    workdir: pathlib.Path
    """Folder of the run: it is made, or goes on if it holds this run."""
    config: Config
    preset: Preset = "demo"
    """What all options below default to."""
    seeds: int = 1
    """Train so many models, with --seed and the seeds behind it, and show mean and spread."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure a trained model on text, in nats and bits per character."""

    workdir: pathlib.Path
    """Folder of the run."""
    split: Literal["held-out", "train", "valid", "test"] = "held-out"
    """Part of the run's own text, where no --data is given; held-out is valid and test together."""
    data: str | None = None
    """A file or folder to measure in place of the run's text."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Draw text from a trained model."""

    workdir: pathlib.Path
    """Folder of the run."""
    prompt: str = ""
    """Text to continue."""
    length: int = 500
    """Characters to draw."""
    streams: int = 1
    """Number of texts."""
    temperature: float = 0.8
    """Divides the logits; 0 takes the likeliest character."""
    top_k: int = 0
    """Draw among so many likeliest characters only; 0 draws among all."""
    seed: int = 0
    """Of the draws."""


def _train(arguments: Train) -> None:
    from experiments.char_lm.train import train
    from experiments.common.sweep import sweep

    sweep(train, arguments.config, arguments.workdir, arguments.seeds)


def _restore(workdir: pathlib.Path) -> tuple[Any, Any, Any, Config]:
    """The model of a run, the parameters that it has kept, its vocabulary and its configuration."""
    import jax

    from experiments.char_lm.data import Vocabulary
    from experiments.char_lm.model import CharLM
    from experiments.common.workdir import read_config, read_stored, restore_kept

    config = read_config(workdir, Config)
    vocabulary = Vocabulary(*read_stored(workdir / "vocabulary.json", "characters"))
    model = CharLM.of(config, len(vocabulary))
    params = restore_kept(workdir, jax.eval_shape(model.init, jax.random.key(0)))
    return model, params, vocabulary, config


def _evaluate(arguments: Evaluate) -> None:
    import tqdm

    from experiments.char_lm import data, evaluate
    from experiments.common.workdir import read_stored

    model, params, vocabulary, config = _restore(arguments.workdir)
    if arguments.data is None:
        text_now = data.load(config)
        if [text_now.sha256()] != read_stored(arguments.workdir / "vocabulary.json", "text_sha256"):
            raise UsageError("--data: the text of this run has changed since it was trained; name a text with --data")
        parts = text_now.split
        chosen = {"held-out": parts.valid + parts.test, **parts._asdict()}
        name, text = f"{arguments.split} split", chosen[arguments.split]
    else:
        name, text = data.read(arguments.data)
    if len(text) < 2:
        raise UsageError(f"--data: expected at least 2 characters, got {len(text)}")
    print(f"{name}: {len(text):,} characters, {data.unseen(text, vocabulary)}")
    indices = vocabulary.encode(text)
    with tqdm.tqdm(total=2 * (len(indices) - 1), unit="char", unit_scale=True, leave=False) as bar:
        losses = {
            f"carry reset every {evaluate.BLOCK}": evaluate.loss_reset(model, params, indices, bar.update),
            "carry carried": evaluate.loss_carried(model, params, indices, bar.update),
        }
    print(f"{'':<24}  nats/char  bits/char")
    for label, loss in losses.items():
        print(f"{label:<24}  {loss:9.4f}  {evaluate.bits(loss):9.4f}")


def _sample(arguments: Sample) -> None:
    from experiments.char_lm import data
    from experiments.char_lm.sample import sample

    rules = [("length", arguments.length >= 1, "1 or more"), ("streams", arguments.streams >= 1, "1 or more")]
    rules += [("temperature", arguments.temperature >= 0, "0 or more"), ("top-k", arguments.top_k >= 0, "0 or more")]
    for name, holds, expected in rules:
        if not holds:
            raise UsageError(f"--{name}: expected {expected}, got {getattr(arguments, name.replace('-', '_'))}")
    model, params, vocabulary, _ = _restore(arguments.workdir)
    if any(c not in vocabulary.characters[1:] for c in arguments.prompt):
        print(f"note: of the prompt {data.unseen(arguments.prompt, vocabulary)}", file=sys.stderr)
    texts = sample(
        model, params, vocabulary,
        prompt=arguments.prompt, length=arguments.length, streams=arguments.streams,
        temperature=arguments.temperature, top_k=arguments.top_k, seed=arguments.seed,
    )  # fmt: skip
    for number, text in enumerate(texts):
        if arguments.streams > 1:
            print(f"--- {number + 1} of {arguments.streams} " + "-" * 40)
        print(arguments.prompt + text)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return cli.run(
        program="python -m experiments.char_lm",
        description="A character language model: train it on any text, measure it, let it write.",
        commands={"train": (Train, _train), "evaluate": (Evaluate, _evaluate), "sample": (Sample, _sample)},
        presets=PRESETS,
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
