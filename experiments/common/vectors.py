"""Word vectors that others have trained, in GloVe's text format."""

import pathlib
from typing import NamedTuple

import numpy as np

from experiments.common.cli import UsageError
from experiments.common.tables import open_text
from experiments.common.words import Vocabulary


class Vectors(NamedTuple):
    """Numbers of words `[N]` and their vectors `[N, size]`."""

    rows: np.ndarray
    values: np.ndarray


def read_vectors(option: str, path: pathlib.Path, vocabulary: Vocabulary, size: int) -> Vectors:
    """The vectors of the words that a vocabulary and a file have in common.

    Args:
      option: the option that named the file, for errors.
      path: a text file with a word and its `size` numbers on each line, separated by blanks; also .gz.
      vocabulary: the words that are wanted.
      size: numbers of each vector.

    Raises:
      UsageError: the file can't be read, holds vectors of another size, or none of the words.
    """
    if not path.is_file():
        raise UsageError(f"--{option}: expected a file, found no {path}")
    found: dict[str, np.ndarray] = {}
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                # From the right: GloVe's largest file has words with blanks in them.
                word, *values = line.rstrip().rsplit(" ", size)
                # word2vec's text format begins with the number of words and their size.
                if number == 1 and line.count(" ") == 1:
                    continue
                if len(values) != size or (number == 1 and line.count(" ") != size):
                    raise UsageError(
                        f"--{option}: expected {size} numbers (--embedding-size) behind each word of {path}, got "
                        f"{line.count(' ')} in line {number}"
                    )
                if word in vocabulary:
                    found[word] = np.array(values, np.float32)
    except (OSError, EOFError, ValueError) as error:
        raise UsageError(f"--{option}: {path} can't be read: {error}") from error
    if not found:
        raise UsageError(f"--{option}: expected vectors of words in the texts, {path} has none")
    return Vectors(vocabulary.encode(list(found)), np.stack(list(found.values())))
