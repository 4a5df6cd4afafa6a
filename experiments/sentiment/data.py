"""Texts and their classes: where they come from, how they are split and numbered."""

import hashlib
import io
import pathlib
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.common.batches import Plan, pad, training_batches
from experiments.common.batches import widths as few_widths
from experiments.common.cli import UsageError
from experiments.common.datasets import prepared
from experiments.common.tables import KINDS, kind, read_columns
from experiments.common.words import PAD, UNKNOWN, Vocabulary, tokenize
from experiments.sentiment.config import Config
from experiments.sentiment.reviews import generate

SPECIAL = (PAD, UNKNOWN)
SYNTHETIC = 10_000


class Example(NamedTuple):
    """A text and the name of its class."""

    text: str
    label: str


class Corpus(NamedTuple):
    """Three lists of examples, and a sentence that says where they came from."""

    source: str
    train: list[Example]
    valid: list[Example]
    test: list[Example]

    def sha256(self) -> str:
        """The hash of all examples, to notice when a run goes on with other ones."""
        digest = hashlib.sha256()
        for example in (*self.train, *self.valid, *self.test):
            digest.update(f"{example.label}\0{example.text}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def load(config: Config) -> Corpus:
    """Reads the examples that a configuration names, and splits them.

    Raises:
      UsageError: they can't be had, or are too few.
    """
    test: list[Example] | None = None
    if config.dataset is not None:
        source, examples, test = _tfds(config)
    elif config.data is not None:
        path = pathlib.Path(config.data).expanduser()
        source, (examples, test) = str(path), read("data", path, config.text_column, config.label_column)
        if config.test_data is not None:
            test_path = pathlib.Path(config.test_data).expanduser()
            test, rest = read("test-data", test_path, config.text_column, config.label_column)
            test = rest or test
            source += f" and {test_path}"
    else:
        source = "synthetic reviews, from a grammar in which the order of the words decides"
        examples = [Example(*pair) for pair in generate(SYNTHETIC, seed=0)]
    # Another seed trains another model, on the same split.
    order = np.random.default_rng(0).permutation(len(examples))
    examples = [examples[i] for i in order]
    drawn: list[Example] = []
    if test is None:
        count = round(config.test_fraction * len(examples))
        drawn, examples = examples[:count], examples[count:]
    count = round(config.valid_fraction * len(examples))
    valid, train = examples[:count], examples[count:][: config.max_examples or None]
    # The few examples of a rare class may all have been drawn: they are of use in training only.
    common = {example.label for example in train}
    train = [*train, *(example for example in (*drawn, *valid) if example.label not in common)]
    drawn, valid = ([example for example in part if example.label in common] for part in (drawn, valid))
    test = drawn if test is None else test
    if not train or not valid or not test:
        raise UsageError(
            f"--data: expected examples for training, valid and test split, got {len(train)}, {len(valid)} and "
            f"{len(test)} from {source}"
        )
    known = {example.label for example in train}
    if len(known) < 2:
        raise UsageError(f"--data: expected two classes or more to train on, got {len(known)}: {', '.join(known)}")
    check_labels("data" if config.test_data is None else "test-data", "the test split", test, known)
    return Corpus(source, train, valid, test)


def check_labels(option: str, where: str, examples: Iterable[Example], known: Iterable[str]) -> None:
    """Raises UsageError for a class that training never saw."""
    for example in examples:
        if example.label not in known:
            raise UsageError(
                f"--{option}: expected one of the classes {', '.join(map(repr, sorted(known)))}, which were trained "
                f"on, got {example.label!r} in {where}, at {example.text[:60]!r}"
            )


def read(
    option: str, path: pathlib.Path, text_column: str, label_column: str
) -> tuple[list[Example], list[Example] | None]:
    """The examples of a table, or the training and the test part of a folder or archive of texts."""
    if path.is_dir() or path.name.endswith((".tar", ".tar.gz", ".tgz")):
        return _read_tree(option, path)
    if kind(path) not in KINDS:
        raise UsageError(
            f"--{option}: expected a folder, a .tar.gz or a file of the kind {', '.join(KINDS)} (also .gz), "
            f"got {path.name}" + ("" if path.exists() else ", which is not there")
        )
    return [Example(*row) for _, row in read_columns(option, path, (text_column, label_column))], None


def _read_tree(option: str, path: pathlib.Path) -> tuple[list[Example], list[Example] | None]:
    """Texts whose paths end in SPLIT/LABEL/NAME.txt; those of the split `test` are kept apart.

    Other files, and IMDB's reviews without a class (`unsup`), are passed over.
    """
    parts: dict[str, list[Example]] = {}
    try:
        for name, raw in _members(path):
            *_, split, label, _ = ("", "", *pathlib.PurePath(name).parts)
            if split in ("train", "test") and label != "unsup":
                text = raw.decode("utf-8", errors="replace").replace("<br />", " ")
                parts.setdefault(split, []).append(Example(text, label))
    except (OSError, EOFError, tarfile.TarError) as error:
        raise UsageError(f"--{option}: {path} can't be read: {error}") from error
    if not parts:
        raise UsageError(f"--{option}: expected files train/LABEL/NAME.txt in {path}, found none")
    return parts.get("train", []), parts.get("test")


def _members(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the text files below a folder or in an archive, in order."""
    if path.is_dir():
        for file in sorted(path.rglob("*.txt")):
            yield str(file.relative_to(path)), file.read_bytes()
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".txt"):
                content = archive.extractfile(member) or io.BytesIO()
                yield member.name, content.read()


def _tfds(config: Config) -> tuple[str, list[Example], list[Example]]:
    """Training and test part of a data set of tensorflow-datasets; for SST-2, whose test part has no labels, valid."""
    builder = prepared(str(config.dataset), config.tfds_dir, config.tfds_manual_dir)
    text, test = {"imdb_reviews": ("text", "test"), "glue/sst2": ("sentence", "validation")}[str(config.dataset)]
    names = builder.info.features["label"].names

    def examples(split: str) -> list[Example]:
        rows = builder.as_data_source(split=split)
        return [
            Example(bytes(row[text]).decode("utf-8").replace("<br />", " "), names[int(row["label"])]) for row in rows
        ]

    return f"{builder.info.full_name} of tensorflow-datasets", examples("train"), examples(test)


def encode(texts: Iterable[str], vocabulary: Vocabulary, max_length: int) -> list[np.ndarray]:
    """The numbers of the last words of each text."""
    return [vocabulary.encode(tokenize(text)[-max_length:]) for text in texts]


class Batch(NamedTuple):
    """Numbers of words `[T, B]`, how many are true `[B]`, and the classes `[B]`."""

    words: Any
    lengths: Any
    labels: Any


class Encoded:
    """Examples as numbers, in batches."""

    def __init__(
        self,
        examples: list[Example],
        vocabulary: Vocabulary,
        classes: tuple[str, ...],
        max_length: int,
        widths: int,
    ) -> None:
        self.texts = encode((example.text for example in examples), vocabulary, max_length)
        self.labels = np.array([classes.index(example.label) for example in examples], np.int32)
        self.lengths = np.array([len(text) for text in self.texts], np.int32)
        self.widths = few_widths(self.lengths, widths)

    def batch(self, numbers: np.ndarray, rows: int) -> Batch:
        """The examples of some numbers, and empty ones up to `rows`."""
        words, lengths = pad([self.texts[i] for i in numbers], self.widths, rows)
        labels = np.zeros(rows, np.int32)
        labels[: len(numbers)] = self.labels[numbers]
        return Batch(words, lengths, labels)

    def plan(self, config: Config) -> Plan:
        """The order of training."""
        return Plan(self.lengths, config.batch_size, config.epochs, config.seed)

    def training_batches(self, plan: Plan):  # type: ignore[no-untyped-def]
        """The batch of each step."""
        return training_batches(plan, lambda numbers: self.batch(numbers, plan.batch_size))
