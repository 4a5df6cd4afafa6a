"""Suites name only what there is, and what the library has is in them."""

import inspect
import itertools
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from benchmarks import __main__ as command_line
from benchmarks.cases import CASES, SWEEP_B, SWEEP_H, SWEEP_T, Case, find
from benchmarks.cells import CELLS, HEADLINE
from benchmarks.contestants import PEERS, missing, ours
from benchmarks.problem import DTYPES, FORWARD, GRADIENT, MODES, STEP, TRAIN, Job
from benchmarks.suites import SUITES, Block, Entry, Suite, entries

over_suites = pytest.mark.parametrize("name", SUITES)

SUITE = Suite(
    "a suite of two blocks that overlap",
    blocks=(
        Block((GRADIENT, FORWARD), ("tiny", "small"), ("LSTM", "GRU")),
        Block((FORWARD, TRAIN), ("small",), ("GRU",), ("float32", "float16"), ("scan",), peers=("Haiku",)),
    ),
    peers=("PyTorch", "Equinox"),
)


def names(found: list[Entry]) -> list[tuple[str, str, str, str]]:
    """The jobs in words."""
    return [(entry.job.mode, entry.job.dtype, entry.job.case_name, entry.job.cell) for entry in found]


@over_suites
def test_suite_names_only_what_exists(name: str) -> None:
    suite = SUITES[name]
    used = lambda field: set(itertools.chain.from_iterable(getattr(block, field) or () for block in suite.blocks))
    assert used("modes") <= set(MODES)
    assert used("cases") <= set(CASES)
    assert used("cells") <= set(CELLS)
    assert used("dtypes") <= set(DTYPES)
    assert used("implementations") <= set(ours.CONTESTANTS)
    assert used("peers") | set(suite.peers) <= set(PEERS)
    assert set(suite.without_accelerator or ()) <= set(CASES)
    for block in suite.blocks:
        assert all((block.modes, block.cases, block.cells, block.dtypes, block.implementations))
    assert suite.seconds > 0
    assert suite.minutes is None or suite.minutes > 0
    assert suite.purpose


@over_suites
def test_jobs_of_a_suite_are_unique_with_the_shapes_of_their_cases(name: str) -> None:
    found = entries(SUITES[name])
    jobs = [entry.job for entry in found]
    assert len(set(jobs)) == len(jobs) > 0
    for entry in found:
        assert entry.job.case == CASES[entry.job.case_name]
        assert len(set(entry.implementations)) == len(entry.implementations) > 0
        assert len(set(entry.peers)) == len(entry.peers)


@over_suites
def test_suite_never_asks_for_what_is_always_refused(name: str) -> None:
    for entry in entries(SUITES[name]):
        assert (entry.job.mode == STEP) == (entry.implementations == ours.STEPS)
        assert not set(ours.STEPS) & set(entry.implementations) or entry.job.mode == STEP
        assert not (entry.job.mode == FORWARD and "checkpoint_every=64" in entry.implementations)


def test_every_mode_cell_peer_and_implementation_is_in_a_suite() -> None:
    found = [entry for suite in SUITES.values() for entry in entries(suite)]
    assert {entry.job.mode for entry in found} == set(MODES)
    assert {entry.job.cell for entry in found} == set(CELLS)
    assert {peer for entry in found for peer in entry.peers} == set(PEERS)
    assert {name for entry in found for name in entry.implementations} == set(ours.CONTESTANTS)


def test_entries_keep_the_order_and_unite_what_occurs_twice() -> None:
    found = entries(SUITE)
    assert names(found) == [
        *((GRADIENT, "float32", case, cell) for case in ("tiny", "small") for cell in ("LSTM", "GRU")),
        *((FORWARD, "float32", case, cell) for case in ("tiny", "small") for cell in ("LSTM", "GRU")),
        (FORWARD, "float16", "small", "GRU"),
        (TRAIN, "float32", "small", "GRU"),
    ]
    # The suite's peers where the block names none; the job of both blocks has the contestants of both.
    both = ("PyTorch", "Equinox")
    assert [entry.peers for entry in found] == [both] * 7 + [(*both, "Haiku")] + [("Haiku",)] * 2
    assert [entry.implementations for entry in found] == [("scan", "fused", "native")] * 8 + [("scan",)] * 2
    assert found[0].job == Job("LSTM", "tiny", CASES["tiny"], "float32", GRADIENT)


def test_block_without_peers_has_none() -> None:
    (entry,) = entries(Suite("", (Block((FORWARD,), ("tiny",), ("GRU",), peers=()),), peers=("PyTorch",)))
    assert entry.peers == ()


@pytest.mark.parametrize(
    ("filters", "jobs"),
    [
        # Modes are a choice of the suite's; everything else takes the place of what the suite says.
        (
            {"modes": (TRAIN,)},
            [(TRAIN, "float32", "small", "GRU")],
        ),
        (
            {"modes": (FORWARD, STEP), "cells": ("RNN",)},
            [
                (FORWARD, "float32", "tiny", "RNN"),
                (FORWARD, "float32", "small", "RNN"),
                (FORWARD, "float16", "small", "RNN"),
            ],
        ),
        (
            {"modes": (GRADIENT,), "cases": ("T=2,B=3,D=4,H=5",), "cells": ("LSTM",)},
            [(GRADIENT, "float32", "T=2,B=3,D=4,H=5", "LSTM")],
        ),
        (
            {"dtypes": ("bfloat16", "float64"), "cells": ("GRU",), "cases": ("tiny",), "modes": (GRADIENT,)},
            [(GRADIENT, "bfloat16", "tiny", "GRU"), (GRADIENT, "float64", "tiny", "GRU")],
        ),
        ({"modes": (STEP,)}, []),
    ],
    ids=["modes", "cells", "cases", "dtypes", "none"],
)
def test_filters_take_the_place_of_what_the_suite_says(filters: dict[str, Any], jobs: list[Any]) -> None:
    assert names(entries(SUITE, **filters)) == jobs


def test_contestants_take_the_place_of_every_blocks() -> None:
    found = entries(SUITE, implementations=("fused",), peers=("Keras 3",))
    assert {(entry.implementations, entry.peers) for entry in found} == {(("fused",), ("Keras 3",))}
    # None is an answer too.
    assert {entry.peers for entry in entries(SUITE, peers=())} == {()}


def test_case_of_ones_own_has_its_shape() -> None:
    found = entries(SUITE, cases=("T=2,B=3,D=4,H=5",))
    assert {entry.job.case for entry in found} == {Case(2, 3, 4, 5)}


def test_cases_of_one_shape_are_one_job_by_the_first_name() -> None:
    block = Block((GRADIENT,), ("tiny", "T=7,B=3,D=5,H=11"), ("RNN",))
    (found,) = entries(Suite("one shape, two names", (block,)))
    assert found.job.case_name == "tiny"
    # Of a single step T is not part of the shape.
    step = Block((STEP,), ("tiny", "T=9,B=3,D=5,H=11"), ("RNN",), implementations=("cell.step",))
    assert len(entries(Suite("one step, two names", (step,)))) == 1


def test_unknown_case_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one of .*, got 'tinny'"):
        entries(SUITE, cases=("tinny",))


def test_training_in_float16_is_left_out() -> None:
    for suite in (SUITE, *SUITES.values()):
        assert not [entry for entry in entries(suite) if (entry.job.mode, entry.job.dtype) == (TRAIN, "float16")]
        found = entries(suite, dtypes=("float16", "bfloat16"))
        assert {entry.job.mode for entry in found if entry.job.dtype == "float16"} == {
            mode for block in suite.blocks for mode in block.modes
        } - {TRAIN}
    assert entries(SUITE, dtypes=("float16",), modes=(TRAIN,)) == []


def test_suites_that_need_an_accelerator_have_small_stand_ins() -> None:
    assert SUITES["gpu"].without_accelerator
    largest = CASES["small"]
    for name in SUITES["gpu"].without_accelerator or ():
        assert all(size <= most for size, most in zip(CASES[name], largest, strict=True))


def test_sweeps_change_one_thing() -> None:
    for letter, sweep in {"H": SWEEP_H, "B": SWEEP_B, "T": SWEEP_T}.items():
        values = [getattr(case, letter) for case in sweep.values()]
        assert values == sorted(set(values))
        assert [f"{letter}={value}" for value in values] == list(sweep)
        # D goes along with H.
        constant = {case._replace(**{letter: 0}, **({"D": 0} if letter == "H" else {})) for case in sweep.values()}
        assert len(constant) == 1


@pytest.mark.parametrize("name", CASES)
def test_case_is_found_by_its_name_and_by_its_shape(name: str) -> None:
    assert find(name) == CASES[name]
    assert find(str(CASES[name]).replace(" ", ",")) == CASES[name]


@pytest.mark.parametrize("word", ["", "T=0,B=1,D=1,H=1", "T=1,B=1,D=1", "T=1,B=1,H=1,D=1", "T=-1,B=1,D=1,H=1", "Tiny "])
def test_shape_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"or a shape such as T=100,B=32,D=64,H=128, got "):
        find(word)


def test_headline_cells_exist() -> None:
    assert set(HEADLINE) <= set(CELLS)


def test_names_of_the_command_line_are_those_of_the_contestants() -> None:
    assert tuple(ours.CONTESTANTS) == tuple(command_line.IMPLEMENTATIONS)
    assert {name: contestant.name for name, contestant in ours.CONTESTANTS.items()} == {
        name: name for name in ours.CONTESTANTS
    }


def test_names_are_told_apart_without_case_and_punctuation() -> None:
    for known in (CELLS, DTYPES, MODES, (*PEERS, "none"), command_line.IMPLEMENTATIONS):
        parse = command_line.one_of(known)
        assert [parse(name) for name in known] == list(known)
        assert [parse(name.upper().replace(" ", "-")) for name in known] == list(known)


def test_no_peer_has_the_name_of_a_kernel() -> None:
    assert not set(PEERS) & set(ours.CONTESTANTS)


@pytest.mark.parametrize("name", PEERS)
def test_peer_has_a_module(name: str) -> None:
    folder = inspect.getfile(ours).rsplit("/", 1)[0]
    with open(f"{folder}/{PEERS[name].module}.py") as file:
        assert "\nCONTESTANT = " in file.read()


def test_missing_says_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "Haiku", PEERS["Haiku"]._replace(package="no_such_package"))
    monkeypatch.setitem(PEERS, "Equinox", PEERS["Equinox"]._replace(package="numpy"))
    assert missing("Haiku") == "no_such_package is not installed"
    assert missing("Equinox") is None


def test_every_cell_of_the_library_is_compared() -> None:
    assert list(ours.MAKE) == list(CELLS)
    exported = {getattr(rj, name) for name in rj.__all__}
    library = {thing for thing in exported if isinstance(thing, type) and issubclass(thing, rj.PointwiseCell)}
    library -= {rj.PointwiseCell}
    assert library
    assert {type(make(3)) for make in ours.MAKE.values()} == library


@pytest.mark.parametrize("name", CELLS)
def test_cell_has_the_parameters_and_the_carry_that_are_said(name: str) -> None:
    said, cell = CELLS[name], ours.MAKE[name](5)
    params = cell.init(jax.random.key(0), in_size=4)
    gates = said.gates * 5
    shapes = [(4, gates), (5, gates), (gates,), *[(5,)] * len(said.vectors)]
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == shapes
    assert said.params == tuple(name for name, leaf in params._asdict().items() if leaf is not None)
    assert cell.initial_carry(params, (3,))._fields == said.carry


def test_every_choice_of_a_cell_is_compared_once() -> None:
    cells = [make(3) for make in ours.MAKE.values()]
    for cell in cells:
        assert cells.count(cell) == 1
        for name, annotation in typing.get_type_hints(type(cell)).items():
            if typing.get_origin(annotation) is typing.Literal:
                alike = {getattr(other, name) for other in cells if type(other) is type(cell)}
                assert alike == set(typing.get_args(annotation))


def test_every_kernel_of_the_library_is_a_contestant() -> None:
    cell = rj.RNN(2)
    params = cell.init(jax.random.key(0), in_size=1)
    kernels = [kernel for kernel, _ in rj.explain(cell, params, jnp.asarray(np.ones((3, 1), np.float32))).verdicts]
    assert set(kernels) <= set(ours.CONTESTANTS)
    # The contestant runs the kernel of its name.
    for kernel in kernels:
        assert ours.CONTESTANTS[kernel].layer.args == (kernel, {"implementation": kernel})
