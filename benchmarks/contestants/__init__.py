"""The contestants: this library's kernels, and peers that are loaded only when they are asked for."""

import importlib
import importlib.util
from typing import NamedTuple

from benchmarks.contestants.base import Contestant


class Peer(NamedTuple):
    """Where a peer is written.

    Attributes:
      module: within this package; it has a `CONTESTANT`.
      package: what must be installed.
      own_process: its thread pool and JAX's would slow each other down in one process.
    """

    module: str
    package: str
    own_process: bool = False


PEERS = {
    "PyTorch": Peer("pytorch", "torch", own_process=True),
    "Flax Linen": Peer("flax_linen", "flax"),
    "Flax NNX": Peer("flax_nnx", "flax"),
    "Haiku": Peer("haiku", "haiku"),
    "Equinox": Peer("equinox", "equinox"),
    "Keras 3": Peer("keras", "keras"),
    "jax.experimental.rnn": Peer("cudnn", "jax"),
}


def missing(name: str) -> str | None:
    """Why a peer can't be loaded, or None."""
    package = PEERS[name].package
    return None if importlib.util.find_spec(package) else f"{package} is not installed"


def load(name: str) -> Contestant:
    """A peer, its framework imported."""
    module = importlib.import_module(f"{__name__}.{PEERS[name].module}")
    contestant: Contestant = module.CONTESTANT
    return contestant
