"""How unrollings compose: in time, backwards, over rows, and under jit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from tests import cases
from tests.cases import Case

# The same float64 operations in a program of another shape: the order of a sum may differ.
REORDERED = 1e-13


@cases.over_pairs
def test_a_sequence_is_its_first_part_then_the_rest(case: Case, kernel: str) -> None:
    cut = 4
    params, xs, carry = cases.data(case.cell)
    run = lambda part, start: rj.unroll(
        case.cell,
        params,
        xs[part],
        start,
        mask=cases.GAPS[part],
        resets=cases.RESETS[part],
        implementation=kernel,
    )
    middle, first = run(slice(None, cut), carry)
    last, second = run(slice(cut, None), middle)
    cases.assert_close((last, jnp.concatenate([first, second])), run(slice(None), carry), REORDERED)


@cases.over_kernels
def test_reverse_is_flip_run_flip(kernel: str) -> None:
    case = cases.richest(kernel)
    params, xs, carry = cases.data(case.cell)
    run = lambda xs, mask, resets, reverse: rj.unroll(
        case.cell,
        params,
        xs,
        carry,
        mask=mask,
        resets=resets,
        reverse=reverse,
        return_carries=True,
        implementation=kernel,
    )
    last, *flipped = run(xs[::-1], cases.GAPS[::-1], cases.RESETS[::-1], False)
    expected = (last, *jax.tree.map(lambda leaf: leaf[::-1], flipped))
    cases.assert_close(run(xs, cases.GAPS, cases.RESETS, True), expected, REORDERED)


@cases.over_kernels
def test_lengths_are_the_row_cut_short(kernel: str) -> None:
    case = cases.richest(kernel)
    params, xs, carry = cases.data(case.cell)
    lengths = np.array([2, 2, 2])
    whole = rj.unroll(case.cell, params, xs, carry, lengths=lengths, reverse=True, implementation=kernel)
    last, ys = rj.unroll(case.cell, params, xs[:2], carry, reverse=True, implementation=kernel)
    padded = jnp.concatenate([ys, jnp.zeros((cases.STEPS - 2, *ys.shape[1:]))])
    cases.assert_close(whole, (last, padded), REORDERED)


@cases.over_pairs
def test_rows_are_independent(case: Case, kernel: str) -> None:
    params, xs, carry = cases.data(case.cell)
    run = lambda xs, carry, mask, resets: rj.unroll(
        case.cell, params, xs, carry, mask=mask, resets=resets, implementation=kernel
    )
    last, ys = run(xs, carry, cases.GAPS, cases.RESETS)
    other = run(
        xs.at[:, 1:].set(jnp.nan), jax.tree.map(lambda leaf: leaf.at[1:].set(7.0), carry), cases.GAPS, cases.RESETS
    )
    first = lambda out: (jax.tree.map(lambda leaf: leaf[:1], out[0]), out[1][:, :1])
    cases.assert_same(first(other), first((last, ys)))
    alone = run(xs[:, 0], jax.tree.map(lambda leaf: leaf[0], carry), cases.GAPS[:, 0], cases.RESETS[:, 0])
    cases.assert_close(alone, (jax.tree.map(lambda leaf: leaf[0], last), ys[:, 0]), REORDERED)


@cases.over_kernels
def test_jit_changes_nothing(kernel: str) -> None:
    case = cases.richest(kernel)
    params, xs, carry = cases.data(case.cell)
    run = lambda params, xs, carry, lengths: rj.unroll(
        case.cell, params, xs, carry, lengths=lengths, implementation=kernel
    )
    lengths = np.array([0, 4, 6])
    cases.assert_close(
        jax.jit(run)(params, xs, carry, jnp.asarray(lengths)), run(params, xs, carry, lengths), REORDERED
    )


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, list], ids=["numpy", "jax", "list"])
def test_lengths_fixed_outside_of_jit_are_allowed_within(kind: Any) -> None:
    case = cases.LEARNED_START
    params, xs, carry = cases.data(case.cell)
    lengths = kind([0, 4, 6])
    run = lambda xs: rj.unroll(case.cell, params, xs, carry, lengths=lengths)
    cases.assert_close(jax.jit(run)(xs), run(xs), REORDERED)


@cases.over_kernels
def test_without_any_jit_the_result_is_the_same(kernel: str) -> None:
    given = cases.data(cases.richest(kernel).cell)
    run = lambda: rj.unroll(cases.richest(kernel).cell, *given, lengths=[0, 4, 6], implementation=kernel)
    with jax.disable_jit():
        eager = run()
    cases.assert_close(eager, run(), REORDERED)
