"""What the padding holds changes nothing, and what comes out of it is exactly zero."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from tests import cases
from tests.cases import Case


def run(case: Case, kernel: str, xs: Any, mask: Any, reverse: bool) -> Any:
    """One call with everything returned."""
    params, _, carry = cases.data(case.cell)
    return rj.unroll(
        case.cell,
        params,
        xs,
        carry,
        mask=mask,
        resets=cases.RESETS,
        reverse=reverse,
        return_carries=True,
        implementation=kernel,
    )


@pytest.mark.parametrize("reverse", [False, True])
@cases.over_pairs
def test_padding_changes_nothing(case: Case, kernel: str, reverse: bool) -> None:
    xs = cases.data(case.cell).xs
    keep = cases.GAPS[..., None]
    clean = run(case, kernel, jnp.where(keep, xs, 0.0), cases.GAPS, reverse)
    for poison in (np.nan, np.inf, 1e300):
        cases.assert_same(run(case, kernel, jnp.where(keep, xs, poison), cases.GAPS, reverse), clean)
    assert not np.asarray(clean[1])[~cases.GAPS].any()


@cases.over_pairs
def test_a_row_without_steps_returns_its_carry(case: Case, kernel: str) -> None:
    _, xs, carry = cases.data(case.cell)
    nothing = np.zeros_like(cases.GAPS)
    last, ys, carries = run(case, kernel, xs, nothing, False)
    cases.assert_same(last, carry)
    assert not np.asarray(ys).any()
    for held, leaf in zip(carries, carry, strict=True):
        cases.assert_same(held, jnp.broadcast_to(leaf, held.shape))


@cases.over_pairs
def test_lengths_and_the_mask_they_mean_are_the_same(case: Case, kernel: str) -> None:
    params, xs, carry = cases.data(case.cell)
    lengths = np.array([0, 1, cases.STEPS])
    mask = np.arange(cases.STEPS)[:, None] < lengths
    cases.assert_same(
        rj.unroll(case.cell, params, xs, carry, lengths=lengths, implementation=kernel),
        rj.unroll(case.cell, params, xs, carry, mask=mask, implementation=kernel),
    )
