"""Words: cutting a text into them, and numbering them."""

import collections
import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

# Marks that stand on or beside a letter: vowels of Indic scripts, accents that have no letter of their own.
_MARKS = "".join(re.escape(chr(c)) for c in range(0x300, 0x10000) if unicodedata.category(chr(c)).startswith("M"))
# Words with inner apostrophes, the short forms that corpora split off, or one other sign.
_WORD = re.compile(
    rf"\w[\w{_MARKS}]*(?:['\u2019]\w[\w{_MARKS}]*)*|['\u2019](?:s|re|ve|ll|d|m|t)\b|[^\w\s]", re.IGNORECASE
)

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<sos>", "<eos>"


def tokenize(text: str) -> list[str]:
    """The lower-cased words and signs of a text.

    Example:
      >>> tokenize("It isn't bad, it 's GREAT!")
      ['it', "isn't", 'bad', ',', 'it', "'s", 'great', '!']
    """
    return _WORD.findall(unicodedata.normalize("NFC", text.lower()))


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Words by number: the special ones, then others, the most frequent first."""

    words: tuple[str, ...]

    @staticmethod
    def of(texts: Iterable[Sequence[str]], size: int, min_count: int, special: Sequence[str]) -> "Vocabulary":
        """The most frequent words of some texts: see `most_frequent`."""
        counts = collections.Counter(word for text in texts for word in text)
        return Vocabulary.most_frequent(counts, size, min_count, special)

    @staticmethod
    def most_frequent(counts: Mapping[str, int], size: int, min_count: int, special: Sequence[str]) -> "Vocabulary":
        """The words that occur `min_count` times or more, `size` with the special ones at most."""
        # Words of one count in the order of the alphabet, so that equal texts give equal vocabularies.
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        words = [word for word, count in ranked if count >= min_count and word not in special]
        return Vocabulary((*special, *words[: max(0, size - len(special))]))

    def __post_init__(self) -> None:
        # A text that spells a special token does not mean it.
        known = {word: number for number, word in enumerate(self.words) if word not in (PAD, START, END)}
        object.__setattr__(self, "_numbers", known)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._numbers  # type: ignore[attr-defined]

    def encode(self, text: Sequence[str]) -> np.ndarray:
        """The number of each word; that of `<unk>` for unknown ones."""
        numbers: dict[str, int] = self._numbers  # type: ignore[attr-defined]
        unknown = numbers[UNKNOWN]
        return np.array([numbers.get(word, unknown) for word in text], np.int32)

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """The words of some numbers."""
        return [self.words[int(number)] for number in numbers]
