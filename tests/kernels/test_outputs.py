"""Every kernel equals the oracle, whatever the flags, the batch shape and the way of compiling."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from tests import cases, oracles
from tests.cases import Case

# Float64 on both sides; a few hundred additions and six steps of gates stay far below it.
ORACLE = 1e-12


def expected(case: Case, given: cases.Data, with_carry: bool, flags: dict[str, Any]) -> Any:
    """The oracle's carry, outputs and carries, in the containers of the cell."""
    initial = case.cell.initial_carry(given.params, given.xs.shape[1:-1])
    structure = jax.tree.structure(initial)
    leaves = lambda tree: tuple(np.asarray(leaf) for leaf in jax.tree.leaves(tree))
    carry, ys, carries = oracles.unroll(
        case.oracle,
        leaves(given.params),
        np.asarray(given.xs),
        leaves(given.carry if with_carry else initial),
        leaves(initial),
        **flags,
    )
    return jax.tree.unflatten(structure, carry), ys, jax.tree.unflatten(structure, carries)


def check(case: Case, kernel: str, given: cases.Data, with_carry: bool, flags: dict[str, Any], **options: Any) -> None:
    """Carry, outputs and carries of one call against the oracle."""
    got = rj.unroll(
        case.cell,
        given.params,
        given.xs,
        given.carry if with_carry else None,
        **flags,
        **options,
        return_carries=True,
        implementation=kernel,
    )
    cases.assert_close(got, expected(case, given, with_carry, flags), ORACLE)


@cases.over_scenarios
@cases.over_pairs
def test_outputs_equal_oracle(case: Case, kernel: str, scenario: str) -> None:
    check(case, kernel, cases.data(case.cell), *cases.SCENARIOS[scenario])


@cases.over_pairs
def test_outputs_equal_oracle_without_a_batch(case: Case, kernel: str) -> None:
    rng = np.random.default_rng(1)
    draw = lambda: rng.random(cases.STEPS) < 0.6
    check(case, kernel, cases.data(case.cell, ()), True, {"mask": draw(), "resets": draw(), "reverse": True})


@pytest.mark.parametrize("batch", [(1,), (2, 2), (1, 2, 1)], ids=str)
@cases.over_kernels
def test_outputs_equal_oracle_for_any_batch_shape(kernel: str, batch: tuple[int, ...]) -> None:
    case = cases.richest(kernel)
    rng = np.random.default_rng(1)
    draw = lambda: rng.random((cases.STEPS, *batch)) < 0.6
    check(case, kernel, cases.data(case.cell, batch), True, {"mask": draw(), "resets": draw(), "reverse": True})


@cases.over_kernels
def test_checkpoint_changes_no_output(kernel: str) -> None:
    # Four steps and a remainder of two, which reverse runs first.
    case, options = cases.richest(kernel), {"checkpoint_every": 4, "unroll": 2}
    check(case, kernel, cases.data(case.cell), *cases.SCENARIOS["gaps_resets_reverse"], **options)


@cases.over_pairs
def test_no_steps_return_the_carry(case: Case, kernel: str) -> None:
    given = cases.data(case.cell, steps=0)
    carry, ys = rj.unroll(case.cell, given.params, given.xs, given.carry, implementation=kernel)
    cases.assert_same(carry, given.carry)
    assert ys.shape == (0, *cases.BATCH, cases.UNITS)


@cases.over_pairs
def test_no_rows_are_a_batch(case: Case, kernel: str) -> None:
    given = cases.data(case.cell, batch=(0,))
    carry, ys = rj.unroll(case.cell, given.params, given.xs, given.carry, implementation=kernel)
    cases.assert_same(carry, given.carry)
    assert ys.shape == (cases.STEPS, 0, cases.UNITS)


@cases.over_pairs
def test_carries_are_an_addition_to_the_same_result(case: Case, kernel: str) -> None:
    given = cases.data(case.cell)
    call = lambda **more: rj.unroll(case.cell, *given, lengths=[0, 1, 6], implementation=kernel, **more)
    carry, ys, _ = call(return_carries=True)
    cases.assert_same(call(), (carry, ys))


def test_default_carry_is_the_initial_one() -> None:
    case = cases.LEARNED_START
    given = cases.data(case.cell)
    initial = case.cell.initial_carry(given.params, cases.BATCH)
    assert float(jnp.abs(initial.c).max()) > 0
    cases.assert_same(
        rj.unroll(case.cell, given.params, given.xs), rj.unroll(case.cell, given.params, given.xs, initial)
    )
