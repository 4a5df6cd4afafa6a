"""Texts as numbers of tokens, and back."""

import io
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from experiments.common import workdir as run_folder
from experiments.common.cli import UsageError
from experiments.common.words import END, PAD, START, UNKNOWN, Vocabulary, tokenize
from experiments.seq2seq.config import Tokens

SPECIAL = (PAD, START, END, UNKNOWN)
PLAIN = "13a"
PAD_ID, START_ID, END_ID, UNKNOWN_ID = range(4)


class Tokenizer(Protocol):
    """One side's way from texts to numbers and back; the first four numbers are those of `SPECIAL`.

    `bleu` is how sacrebleu is to cut the text that `join` makes: as plain text, by character, or at blanks alone.
    """

    bleu: str

    def __len__(self) -> int:
        """The number of tokens."""

    def cut(self, text: str) -> list[str]:
        """The tokens of a text, as they stand there."""

    def encode(self, text: str) -> np.ndarray:
        """Their numbers."""

    def names(self, numbers: Iterable[int]) -> list[str]:
        """The tokens of some numbers."""

    def join(self, tokens: Sequence[str]) -> str:
        """The text that tokens make."""

    def save(self, folder: pathlib.Path, side: str) -> None:
        """Keeps it in the folder of a run."""


CUTS: dict[Tokens, Any] = {"words": tokenize, "spaces": str.split, "characters": list}


class Words:
    """Words or characters of a vocabulary."""

    def __init__(self, kind: Tokens, vocabulary: Vocabulary) -> None:
        self.bleu = "char" if kind == "characters" else "none"
        self.kind, self.vocabulary = kind, vocabulary
        self.cut = CUTS[kind]

    @staticmethod
    def of(kind: Tokens, counts: Mapping[str, int], size: int, min_count: int) -> "Words":
        """The most frequent tokens."""
        return Words(kind, Vocabulary.most_frequent(counts, size, min_count, SPECIAL))

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> np.ndarray:
        """The numbers of a text's tokens."""
        return self.vocabulary.encode(self.cut(text))

    def names(self, numbers: Iterable[int]) -> list[str]:
        """The tokens of some numbers."""
        return self.vocabulary.decode(numbers)

    def join(self, tokens: Sequence[str]) -> str:
        """The text that tokens make."""
        return ("" if self.kind == "characters" else " ").join(tokens)

    def save(self, folder: pathlib.Path, side: str) -> None:
        """Writes `SIDE.json`."""
        run_folder.write(folder / f"{side}.json", json.dumps(list(self.vocabulary.words), ensure_ascii=False) + "\n")


class Pieces:
    """Subwords of a sentencepiece model."""

    bleu = PLAIN

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        self.model = model
        self._processor: Any = sentencepiece.SentencePieceProcessor()
        self._processor.load_from_serialized_proto(model)

    @staticmethod
    def of(texts: Iterable[str], size: int) -> "Pieces":
        """Trains a unigram model."""
        import sentencepiece

        written = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_writer=written, vocab_size=size, hard_vocab_limit=False,
                character_coverage=1.0, input_sentence_size=100_000, shuffle_input_sentence=False, minloglevel=2,
                pad_id=PAD_ID, bos_id=START_ID, eos_id=END_ID, unk_id=UNKNOWN_ID,
                pad_piece=PAD, bos_piece=START, eos_piece=END, unk_piece=UNKNOWN,
            )  # fmt: skip
        except (RuntimeError, OSError) as error:
            raise UsageError(
                f"--tokens: sentencepiece made no pieces with --vocabulary-size {size}: {error}"
            ) from error
        return Pieces(written.getvalue())

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    def cut(self, text: str) -> list[str]:
        """The pieces of a text."""
        return list(self._processor.encode(text, out_type=str))

    def encode(self, text: str) -> np.ndarray:
        """Their numbers."""
        return np.array(self._processor.encode(text), np.int32)

    def names(self, numbers: Iterable[int]) -> list[str]:
        """The pieces of some numbers."""
        return [self._processor.id_to_piece(int(number)) for number in numbers]

    def join(self, tokens: Sequence[str]) -> str:
        """The text that pieces make."""
        return str(self._processor.decode_pieces(list(tokens)))

    def save(self, folder: pathlib.Path, side: str) -> None:
        """Writes `SIDE.model`, which other programs can read too."""
        (folder / f"{side}.model").write_bytes(self.model)


def restore(folder: pathlib.Path, side: str, kind: Tokens) -> Tokenizer:
    """The tokenizer that a run has kept."""
    path = folder / (f"{side}.model" if kind == "pieces" else f"{side}.json")
    with run_folder.reading(path):
        if kind == "pieces":
            return Pieces(path.read_bytes())
        return Words(kind, Vocabulary(tuple(json.loads(path.read_text(encoding="utf-8")))))
