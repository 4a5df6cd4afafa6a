"""The named shapes that benchmarks run."""

import re
from typing import NamedTuple


class Case(NamedTuple):
    """One shape: T time steps, B rows, D input features, H units."""

    T: int
    B: int
    D: int
    H: int

    def __str__(self) -> str:
        return f"T={self.T} B={self.B} D={self.D} H={self.H}"


# The middle of every sweep.
MIDDLE = Case(128, 32, 256, 256)

SWEEP_H = {f"H={size}": MIDDLE._replace(D=size, H=size) for size in (64, 128, 256, 512, 1024)}
SWEEP_B = {f"B={rows}": MIDDLE._replace(B=rows) for rows in (1, 4, 16, 64, 256)}
SWEEP_T = {f"T={steps}": MIDDLE._replace(T=steps) for steps in (16, 64, 256, 1024)}

CASES = {
    # experiments/char_lm, its preset demo: one-hot characters of Python's source code.
    "char_lm": Case(64, 32, 96, 256),
    # Shapes of a small tagger, a language model, a translator's layer, and frames of speech.
    "tagger": Case(100, 32, 64, 128),
    "language": Case(128, 64, 256, 256),
    "translator": Case(100, 32, 512, 512),
    "speech": Case(256, 16, 128, 256),
    # From one row that is bound by memory to a layer that is bound by arithmetic, and a thousand steps of little work.
    "one_row": Case(100, 1, 128, 256),
    "few_rows": Case(100, 8, 128, 256),
    "large": Case(64, 128, 512, 1024),
    "frames": Case(1000, 16, 64, 128),
    # So long that storing every step hurts.
    "long": Case(4096, 8, 64, 128),
    # One row that arrives step by step.
    "stream": Case(64, 1, 128, 256),
    # What one kernel over all of time is for, and where cuDNN is at its best.
    "sequence": Case(512, 16, 512, 512),
    "sequences": Case(512, 64, 512, 512),
    "short_sequence": Case(512, 16, 256, 256),
    "long_sequence": Case(1024, 16, 512, 512),
    # What fills an accelerator.
    "wide": Case(256, 64, 1024, 1024),
    "crowd": Case(128, 512, 512, 512),
    # So small that tests and machines without an accelerator run it in no time; no size divides another.
    "tiny": Case(7, 3, 5, 11),
    "small": Case(20, 4, 24, 32),
    **SWEEP_H,
    **SWEEP_B,
    **SWEEP_T,
}

_SHAPE = re.compile(r"T=(\d+),B=(\d+),D=(\d+),H=(\d+)")


def find(name: str) -> Case:
    """The case of a name, or of a shape written as `T=100,B=32,D=64,H=128`.

    Raises:
      ValueError: it is neither.
    """
    if name in CASES:
        return CASES[name]
    match = _SHAPE.fullmatch(name)
    if match is None or not all(map(int, match.groups())):
        raise ValueError(f"expected one of {', '.join(CASES)}, or a shape such as T=100,B=32,D=64,H=128, got {name!r}")
    return Case(*map(int, match.groups()))
