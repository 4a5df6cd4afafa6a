"""Suites: what is compared, in the order of importance, since a suite may be cut short by its time."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.cases import SWEEP_B, SWEEP_H, SWEEP_T, find
from benchmarks.cells import CELLS, HEADLINE
from benchmarks.implementations import STEPS
from benchmarks.problem import FORWARD, GRADIENT, PADDED, STEP, TRAIN, Job

# The case that stands in the middle of all sweeps.
MIDDLE = "H=256"
SWEEPS = tuple(dict.fromkeys((*SWEEP_H, *SWEEP_B, *SWEEP_T)))
# What compiled code for CPUs is held to.
NATIVE = ("one_row", "few_rows", "tagger", "language", "translator", "large", "frames")
TRAINING = ("tagger", "language", "translator", "speech")


class Block(NamedTuple):
    """Every combination of cells, cases, dtypes and modes, each run by all contestants.

    Attributes:
      peers: None takes those of the suite.
    """

    modes: Sequence[str]
    cases: Sequence[str]
    cells: Sequence[str] = HEADLINE
    dtypes: Sequence[str] = ("float32",)
    implementations: Sequence[str] = ("scan", "fused", "native")
    peers: Sequence[str] | None = None


class Suite(NamedTuple):
    """A set of comparisons.

    Attributes:
      purpose: one line for `list`.
      blocks: in the order of importance.
      peers: who takes part beside our kernels.
      seconds: of timing, for each contestant of each job, at most.
      minutes: when they have passed, no further job is begun; None: no limit.
      without_accelerator: the cases that stand in for all others where there is only a CPU.
    """

    purpose: str
    blocks: Sequence[Block]
    peers: Sequence[str] = ()
    seconds: float = 2.0
    minutes: float | None = None
    without_accelerator: Sequence[str] | None = None


def _step(cases: Sequence[str], cells: Sequence[str] = HEADLINE, dtypes: Sequence[str] = ("float32",)) -> Block:
    """A block of single steps."""
    return Block((STEP,), cases, cells, dtypes, implementations=STEPS)


_EVERY_CELL = tuple(CELLS)
# What may run on an accelerator.
_ACCELERATED = ("scan", "fused", "mosaic_gpu", "pallas_tpu", "cudnn")
# CUDA graphs with loops in them, and none.
_GRAPHS = ("fused:graphs", "mosaic_gpu:no_graphs")
_WITH_CUDNN = ("PyTorch", "jax.experimental.rnn")
# That in which cuDNN is at its best first.
_HALF = ("float16", "bfloat16")
_LONG = Block((GRADIENT,), ("long",), implementations=("scan", "fused", "native", "checkpoint_every=64"), peers=())

SUITES = {
    "quick": Suite(
        "headline cells against PyTorch and two JAX libraries, in a few minutes on two cores",
        blocks=(
            Block((GRADIENT,), (MIDDLE, "tagger")),
            Block((FORWARD,), (MIDDLE,)),
            _step(("stream",)),
            Block((TRAIN,), (MIDDLE,)),
            Block((GRADIENT,), ("H=64", "B=1", "T=16", "H=512")),
        ),
        peers=("PyTorch", "Flax Linen", "Equinox"),
        seconds=1.5,
        minutes=7.0,
    ),
    "cpu": Suite(
        "everything that a CPU can run: all cells, all peers, sweeps over T, B and H; 20 minutes on two cores",
        blocks=(
            Block((GRADIENT,), (MIDDLE, "char_lm", *TRAINING)),
            Block((FORWARD, TRAIN), (MIDDLE, "char_lm")),
            _step(("stream", MIDDLE)),
            _LONG,
            Block((GRADIENT,), SWEEPS, peers=("PyTorch", "Flax Linen")),
            Block((GRADIENT, FORWARD), (MIDDLE,), cells=("RNN-relu", "GRU-before", "LSTM-peephole", "LSTM-coupled")),
            Block((GRADIENT, FORWARD), ("tagger", MIDDLE), dtypes=("bfloat16",)),
        ),
        peers=("PyTorch", "Flax Linen", "Flax NNX", "Haiku", "Equinox", "Keras 3"),
        seconds=1.0,
    ),
    "native": Suite(
        "compiled code for CPUs against PyTorch, Flax and our other kernels, from one row to large layers",
        blocks=(
            Block((GRADIENT, FORWARD), NATIVE),
            Block((PADDED,), ("tagger", "language", "translator", "large")),
            _step(("stream",)),
            Block((GRADIENT, FORWARD), ("language", "translator", "large"), dtypes=("bfloat16",)),
        ),
        peers=("PyTorch", "Flax Linen"),
        seconds=1.5,
    ),
    "gpu": Suite(
        "the loop in one kernel against cuDNN and scans on a GPU, in half precision and float32, within 4.5 minutes",
        blocks=(
            Block((GRADIENT,), ("sequence", "sequences"), ("LSTM",), _HALF, _ACCELERATED, ("PyTorch",)),
            Block((GRADIENT,), ("short_sequence", "sequence"), ("GRU",), _HALF, _ACCELERATED, ("PyTorch",)),
            Block((GRADIENT,), ("sequence",), ("LSTM",), ("bfloat16",), _GRAPHS, ()),
            Block((PADDED,), ("sequence",), ("LSTM",), ("float16",), _ACCELERATED, ("PyTorch",)),
            Block((GRADIENT,), ("sequence",), ("LSTM",), ("float32",), _ACCELERATED, _WITH_CUDNN),
            Block((GRADIENT,), ("sequence",), ("LSTM-coupled", "LSTM-peephole"), ("bfloat16",), _ACCELERATED, ()),
            Block((PADDED,), ("sequence",), ("GRU",), ("float16",), _ACCELERATED, ("PyTorch",)),
            Block((GRADIENT,), ("long_sequence",), ("LSTM",), _HALF, ("mosaic_gpu",), ("PyTorch",)),
            Block((GRADIENT,), ("crowd", "wide"), ("LSTM",), ("bfloat16",), _ACCELERATED, ("PyTorch",)),
            Block((GRADIENT, FORWARD), (MIDDLE,), dtypes=("float32", "bfloat16"), implementations=_ACCELERATED),
            _step(("stream",), dtypes=("float32", "bfloat16")),
            Block((GRADIENT,), ("wide", "crowd"), implementations=_ACCELERATED),
            Block((TRAIN,), (MIDDLE,)),
            _LONG,
        ),
        peers=("PyTorch", "jax.experimental.rnn", "Flax Linen"),
        seconds=0.5,
        minutes=4.5,
        without_accelerator=("small", "tiny"),
    ),
    "cells": Suite(
        "every cell of the library with every kernel, without peers: which cell is how fast",
        blocks=(
            Block((GRADIENT, FORWARD, TRAIN), (MIDDLE, "char_lm"), _EVERY_CELL),
            _step(("stream", MIDDLE), _EVERY_CELL),
        ),
    ),
}


class Entry(NamedTuple):
    """A job, and who takes part in it."""

    job: Job
    implementations: tuple[str, ...]
    peers: tuple[str, ...]


def entries(
    suite: Suite,
    *,
    cells: Sequence[str] | None = None,
    cases: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    modes: Sequence[str] | None = None,
    implementations: Sequence[str] | None = None,
    peers: Sequence[str] | None = None,
) -> list[Entry]:
    """The jobs of a suite, each once, and their contestants. What is given replaces what the suite says.

    Raises:
      ValueError: a case is unknown.
    """
    found: dict[tuple[Any, ...], Entry] = {}
    for block in suite.blocks:
        others = tuple(peers if peers is not None else suite.peers if block.peers is None else block.peers)
        axes = (
            [mode for mode in block.modes if modes is None or mode in modes],
            dtypes or block.dtypes, cases or block.cases, cells or block.cells,
        )  # fmt: skip
        for mode, dtype, case, cell in itertools.product(*axes):
            # Half precision leaves no room for Adam's epsilon without scaling the loss, which is another subject.
            if (mode, dtype) == (TRAIN, "float16"):
                continue
            # A step is measured by itself.
            asked = implementations or block.implementations
            ours = tuple(name for name in asked if (name in STEPS) == (mode == STEP))
            if ours:
                job = Job(cell, case, find(case), dtype, mode)
                # Cases of one shape are one job, by the name that comes first.
                same = (cell, job.shape, dtype, mode)
                before = found.get(same, Entry(job, (), ()))
                unite = lambda old, new: tuple(dict.fromkeys((*old, *new)))
                found[same] = Entry(before.job, unite(before.implementations, ours), unite(before.peers, others))
    return list(found.values())
