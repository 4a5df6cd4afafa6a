"""Texts that a user gives on the command line, in a file, or on stdin."""

import pathlib
import sys

from experiments.common.cli import UsageError
from experiments.common.tables import read_lines


def check_texts(text: str | None, file: pathlib.Path | None) -> None:
    """Refuses, before any work is done, two sources of texts at once, or a file that is not there."""
    if text is not None and file is not None:
        raise UsageError("--file: expected --text or --file, got both")
    if file is not None and not file.is_file():
        raise UsageError(f"--file: expected a file, found no {file}")


def read_texts(text: str | None, file: pathlib.Path | None) -> list[str]:
    """The text that is given, or a text from each line of a file, or of stdin where neither is."""
    if text is not None:
        return [text]
    texts = read_lines(file) if file is not None else [line.rstrip("\n") for line in sys.stdin]
    if not texts:
        raise UsageError(f"--{'file' if file else 'text'}: expected a text, got none")
    return texts
