"""A program keeps its problems apart, call by call."""

import jax
import numpy as np
import pytest

from benchmarks import problem
from benchmarks.contestants import ours
from benchmarks.contestants.jax_program import JaxContestant
from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.problem import FORWARD, TRAIN
from tests.benchmarks.small_runs import entry


@pytest.mark.parametrize("mode", [FORWARD, TRAIN])
def test_calls_take_the_problems_in_turn(mode: str) -> None:
    # Over all blocks, so that no call repeats the one before it.
    job = entry(mode=mode).job
    problems = problem.draw(job, 3)
    program = ours.CONTESTANTS["scan"].build(job, problems)
    compiled, seen = program.compiled, []
    program.compiled = lambda *arguments: seen.append(np.asarray(arguments[1])) or compiled(*arguments)
    assert [len(program.time(calls)) for calls in (2, 1, 4)] == [2, 1, 4]
    for number, xs in enumerate(seen):
        np.testing.assert_array_equal(xs, problems[number % 3].xs)


def test_options_reach_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    job = entry().job
    contestant = JaxContestant("scan", ours.CONTESTANTS["scan"].layer, gpu_options={"xla_no_such_option": 1})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        contestant.build(job, problem.draw(job, 3))


@pytest.mark.parametrize("name", [name for name, one in IMPLEMENTATIONS.items() if one.gpu_options])
def test_options_of_a_gpus_compiler_are_known_to_this_jax(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job, layer = entry().job, ours.CONTESTANTS["scan"].layer
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    contestant = JaxContestant(name, layer, gpu_options=IMPLEMENTATIONS[name].gpu_options)
    assert contestant.build(job, problem.draw(job, 3)).answer()


def test_answer_of_a_training_step_is_the_same_behind_timed_steps() -> None:
    # A step consumes its state: neither the answer's nor the timed ones may be the parameters themselves.
    job = entry(mode=TRAIN).job
    program = ours.CONTESTANTS["scan"].build(job, problem.draw(job, 3))
    before = program.answer()
    program.time(3)
    for name, leaf in program.answer().items():
        np.testing.assert_array_equal(leaf, before[name])
