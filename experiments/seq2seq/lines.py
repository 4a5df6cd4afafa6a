"""Lines of files, found by number without holding the file in memory."""

import gzip
import mmap
import pathlib
import zlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from experiments.common.cli import UsageError


class Pairs(Protocol):
    """Sources and targets by number."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, number: int) -> tuple[str, str]:
        """The source and the target."""


class Lines:
    """The lines of a file: what is kept for each of them is the place where it begins.

    Bytes that are not UTF-8 become U+FFFD.
    """

    def __init__(self, option: str, path: pathlib.Path) -> None:
        self.path = path
        if not path.is_file():
            found = f"a folder at {path}" if path.is_dir() else f"no {path}"
            raise UsageError(f"--{option}: expected a file, found {found}")
        try:
            if path.suffix == ".gz":
                self._bytes: bytes | mmap.mmap = gzip.decompress(path.read_bytes())
            elif path.stat().st_size:
                with path.open("rb") as file:
                    self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            else:
                self._bytes = b""
        except (OSError, EOFError, zlib.error) as error:
            raise UsageError(f"--{option}: {path} can't be read: {error}") from error
        self._starts = np.fromiter(self._line_starts(), np.int64)
        if len(self) == 0:
            raise UsageError(f"--{option}: expected lines, {path} has none")

    def _line_starts(self) -> Iterator[int]:
        """Where each line begins, and where the last one ends."""
        place = 3 if self._bytes[:3] == b"\xef\xbb\xbf" else 0
        end = len(self._bytes)
        while place < end:
            yield place
            place = self._bytes.find(b"\n", place) + 1 or end
        yield end

    def __len__(self) -> int:
        return max(0, len(self._starts) - 1)

    def __getitem__(self, number: int) -> str:
        begin, end = self._starts[number : number + 2]
        return self._bytes[begin:end].decode("utf-8", errors="replace").rstrip("\r\n")


class Columns:
    """Pairs that stand on a line each, as SOURCE<tab>TARGET or as SCAN's `IN: SOURCE OUT: TARGET`."""

    def __init__(self, option: str, path: pathlib.Path) -> None:
        self._option, self._lines = option, Lines(option, path)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, number: int) -> tuple[str, str]:
        line = self._lines[number]
        columns = line.split("\t")
        if len(columns) == 1 and line.startswith("IN: ") and " OUT: " in line:
            columns = line.removeprefix("IN: ").split(" OUT: ")
        if len(columns) != 2 and line.strip():
            raise UsageError(
                f"--{self._option}: expected two columns, SOURCE<tab>TARGET, in line {number + 1} of "
                f"{self._lines.path}, got {len(columns)}"
            )
        return (columns[0], columns[1]) if line.strip() else ("", "")


class Parallel:
    """Pairs whose sources and targets stand on the same lines of two files."""

    def __init__(self, option: str, source: pathlib.Path, target: pathlib.Path) -> None:
        self._source, self._target = Lines(option, source), Lines(option, target)
        if len(self._source) != len(self._target):
            raise UsageError(
                f"--{option}: expected as many lines in both files, got {len(self._source):,} in {source} and "
                f"{len(self._target):,} in {target}"
            )

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, number: int) -> tuple[str, str]:
        return self._source[number], self._target[number]


class Part:
    """Some of the pairs of another."""

    def __init__(self, pairs: Pairs, numbers: np.ndarray) -> None:
        self._pairs, self._numbers = pairs, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> tuple[str, str]:
        return self._pairs[int(self._numbers[number])]


def read(option: str, paths: tuple[str, ...]) -> Pairs:
    """The pairs of one file with two columns, or of two files; blank lines are none."""
    if not 1 <= len(paths) <= 2:
        raise UsageError(f"--{option}: expected one or two files, got {len(paths)}")
    files = [pathlib.Path(path).expanduser() for path in paths]
    pairs = Columns(option, *files) if len(files) == 1 else Parallel(option, *files)
    numbers = [number for number in range(len(pairs)) if any(side.strip() for side in pairs[number])]
    if not numbers:
        raise UsageError(f"--{option}: expected pairs, {' and '.join(map(str, files))} has only blank lines")
    return pairs if len(numbers) == len(pairs) else Part(pairs, np.array(numbers))
