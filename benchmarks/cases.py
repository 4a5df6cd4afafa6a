"""The named shapes that benchmarks run."""

from typing import NamedTuple


class Case(NamedTuple):
    """One shape: T time steps, B rows, D input features, H units."""

    T: int
    B: int
    D: int
    H: int

    def __str__(self) -> str:
        return f"T={self.T} B={self.B} D={self.D} H={self.H}"


TRAINING = (Case(100, 32, 64, 128), Case(128, 64, 256, 256), Case(100, 32, 512, 512), Case(256, 16, 128, 256))
LONG = Case(4096, 8, 64, 128)
