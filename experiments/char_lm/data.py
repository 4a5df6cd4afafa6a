"""Text: where it comes from, its split, its vocabulary, and the streams that training reads."""

import collections
import dataclasses
import functools
import gzip
import hashlib
import pathlib
import sys
import sysconfig
import zlib
from typing import Any, NamedTuple

import numpy as np

from experiments.char_lm.config import Config
from experiments.common.cli import UsageError
from experiments.common.datasets import prepared

UNKNOWN = "\ufffd"


class Split(NamedTuple):
    """The three parts of a text, in its order."""

    train: str
    valid: str
    test: str


class Text(NamedTuple):
    """A text, cut, and a sentence that says where it came from."""

    source: str
    split: Split

    def sha256(self) -> str:
        """The hash of the three parts, to notice when a run goes on with another text."""
        return hashlib.sha256("\0".join(self.split).encode("utf-8", "surrogatepass")).hexdigest()


def load(config: Config) -> Text:
    """Reads the text that a configuration names.

    Raises:
      UsageError: it can't be had, or is too short.
    """
    if config.dataset is not None:
        source, split = _tfds(config)
        if config.max_chars:
            raise UsageError("--max-chars: expected 0 with --dataset, which brings its own split")
    else:
        source, whole = read(config.data) if config.data is not None else standard_library()
        whole = whole[: config.max_chars or None]
        test = len(whole) - int(len(whole) * config.test_fraction)
        valid = test - int(len(whole) * config.valid_fraction)
        split = Split(whole[:valid], whole[valid:test], whole[test:])
    needed = config.batch_size * (config.chunk_length + 1)
    if len(split.train) < needed or min(len(split.valid), len(split.test)) < 2:
        raise UsageError(
            f"{source}: expected at least {needed:,} characters to train on (--batch-size x (--chunk-length + 1)) and "
            f"2 in each other part, got {len(split.train):,}, {len(split.valid):,} and {len(split.test):,}"
        )
    return Text(source, split)


@functools.cache
def standard_library() -> tuple[str, str]:
    """The source code of the modules of Python's standard library, as the running interpreter has them."""
    folder = pathlib.Path(sysconfig.get_path("stdlib"))
    paths = sorted(folder.glob("*.py"))
    if not paths:
        raise UsageError(f"--data: this Python has no source files in {folder}; name a text with --data")
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
    version = ".".join(map(str, sys.version_info[:3]))
    return f"source code of the standard library of Python {version}, {len(paths)} modules", text


def read(name: str) -> tuple[str, str]:
    """The text of a file, or of the text files below a folder, joined, and a name for it."""
    path = pathlib.Path(name).expanduser()
    if path.is_file():
        text = _decode(path)
        if "\0" in text:
            raise UsageError(f"--data: expected text, {path} holds binary data")
        return str(path), text
    if not path.exists():
        raise UsageError(f"--data: expected a file or a folder, found no {path}")
    found = sorted(
        p for p in path.rglob("*") if p.is_file() and not any(q.startswith(".") for q in p.relative_to(path).parts)
    )
    texts = [text for p in found if "\0" not in (text := _decode(p))]
    if not texts:
        raise UsageError(f"--data: expected text files in {path}, found none")
    left = f" ({len(found) - len(texts)} others are not text)" if len(texts) < len(found) else ""
    return f"{path}, {len(texts)} files{left}", "".join(texts)


def _decode(path: pathlib.Path) -> str:
    """The text of a file as it stands, line ends too; bytes that are not UTF-8 become U+FFFD."""
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"--data: {path} can't be read: {error}") from error


def _tfds(config: Config) -> tuple[str, Split]:
    """A text of tensorflow-datasets with the split that its builder makes."""
    builder = prepared(str(config.dataset), config.tfds_dir, config.tfds_manual_dir)

    def text(split: str) -> str:
        rows = builder.as_data_source(split=split)
        return "".join(bytes(row["text"]).decode("utf-8") for row in rows)

    return f"{builder.info.full_name} of tensorflow-datasets", Split(text("train"), text("validation"), text("test"))


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The characters of the training text; index 0 stands for all others."""

    characters: str

    @staticmethod
    def of(text: str) -> "Vocabulary":
        """The characters of a text, in order of their code."""
        return Vocabulary(UNKNOWN + "".join(sorted(set(text) - {UNKNOWN})))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """The index of each character `[N]`; 0 for an unknown one."""
        known = np.array([ord(c) for c in self.characters[1:]], np.uint32)
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        if not len(known):
            return np.zeros(len(codes), np.int32)
        place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        return np.where(known[place] == codes, place + 1, 0).astype(np.int32)

    def decode(self, indices: Any) -> str:
        """The text of some indices."""
        return "".join(self.characters[int(i)] for i in indices)


def unseen(text: str, vocabulary: Vocabulary) -> str:
    """How many characters of a text the training text lacks, in words."""
    known = set(vocabulary.characters[1:])
    counts = collections.Counter(c for c in text if c not in known)
    if not counts:
        return "none unseen in training"
    common = ", ".join(repr(c) for c, _ in counts.most_common(5))
    return f"{counts.total():,} ({counts.total() / len(text):.2%}) unseen in training, {len(counts)} kinds: {common}"


class Batch(NamedTuple):
    """Inputs and targets `[T, B]`, and whether a new carry begins there."""

    inputs: Any
    targets: Any
    fresh: Any


class Streams:
    """The training text as `batch_size` parallel streams, read in chunks, epoch after epoch: a batch for each step.

    Stream b reads the b-th of equal contiguous parts of the text, so that a carry can be passed on
    from each chunk to the next. Every epoch begins a little further into the text (by less than a
    chunk, drawn from the seed), so that the borders of the chunks move. The batch of a step is a
    function of the step alone: going on from a checkpoint needs no other position.
    """

    def __init__(self, indices: np.ndarray, batch_size: int, chunk_length: int, seed: int, epochs: float = 1.0) -> None:
        self._indices, self._batch_size, self._chunk_length, self._seed = indices, batch_size, chunk_length, seed
        per_stream = (len(indices) - 1) // batch_size
        self.steps_per_epoch = per_stream // chunk_length
        self._slack = per_stream - self.steps_per_epoch * chunk_length
        self._steps = max(1, round(epochs * self.steps_per_epoch))

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        epoch, position = divmod(step, self.steps_per_epoch)
        offset = int(np.random.default_rng((self._seed, epoch)).integers(self._slack + 1))
        length = (len(self._indices) - 1) // self._batch_size
        starts = np.arange(self._batch_size) * length + offset + position * self._chunk_length
        window = self._indices[starts + np.arange(self._chunk_length + 1)[:, None]]
        return Batch(window[:-1], window[1:], np.asarray(position == 0))
