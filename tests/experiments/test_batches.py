"""Batches of like length: every sequence once an epoch, little padding, a few widths."""

import numpy as np
import pytest

from experiments.common.batches import Plan, evaluation_batches, joint_widths, pad, widths

LENGTHS = np.random.default_rng(0).integers(1, 90, 1000)


def test_every_epoch_reads_each_sequence_once_and_in_another_order() -> None:
    plan = Plan(LENGTHS, batch_size=16, epochs=3.0, seed=0)
    assert plan.steps_per_epoch == 1000 // 16
    assert len(plan) == 3 * plan.steps_per_epoch
    epochs = [
        np.concatenate([plan[e * plan.steps_per_epoch + i] for i in range(plan.steps_per_epoch)]) for e in range(3)
    ]
    for epoch in epochs:
        assert len(np.unique(epoch)) == len(epoch) == 16 * plan.steps_per_epoch
    left_out = {tuple(sorted(set(range(1000)) - set(epoch.tolist()))) for epoch in epochs}
    assert len(left_out) == 3, "other sequences are left out each time"


def test_plan_is_a_function_of_seed_and_step() -> None:
    steps = [5, 0, 130, 61, 62]
    one, other, third = (Plan(LENGTHS, 16, 3.0, seed) for seed in (1, 1, 2))
    ahead = [one[step] for step in steps]
    assert all((a == other[step]).all() for a, step in zip(ahead, steps, strict=True))
    assert any((a != third[step]).any() for a, step in zip(ahead, steps, strict=True))


def test_rows_of_a_batch_are_of_like_length() -> None:
    plan = Plan(LENGTHS, batch_size=10, epochs=1.0, seed=0)
    true = sum(LENGTHS[plan[step]].sum() for step in range(len(plan)))
    padded = sum(10 * LENGTHS[plan[step]].max() for step in range(len(plan)))
    assert padded / true < 1.1
    means = [LENGTHS[plan[step]].mean() for step in range(len(plan))]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4, "batches of one length do not follow one another"


def test_few_sequences_make_a_batch_of_their_own() -> None:
    plan = Plan(np.array([3, 4, 5]), batch_size=64, epochs=2.0, seed=0)
    assert (plan.batch_size, len(plan)) == (3, 2)
    assert sorted(plan[1].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("lengths", [LENGTHS, np.array([7]), np.array([0, 0]), np.zeros(0, int), np.full(9, 200)])
def test_widths_are_few_and_hold_every_length(lengths: np.ndarray) -> None:
    allowed = widths(lengths, 4)
    assert 1 <= len(allowed) <= 4
    assert (np.diff(allowed) > 0).all()
    assert allowed[0] >= 1
    assert allowed[-1] == max(1, lengths.max(initial=0))


def test_widths_hold_equal_shares() -> None:
    shares = np.diff([0, *np.searchsorted(np.sort(LENGTHS), widths(LENGTHS, 4), side="right")]) / len(LENGTHS)
    assert abs(shares - 0.25).max() < 0.1


def test_joint_widths_grow_on_both_sides_and_hold_every_pair() -> None:
    sources, targets = LENGTHS, np.random.default_rng(1).integers(2, 30, 1000)
    allowed = joint_widths(sources, targets, 3)
    assert len(allowed) == 3
    assert (np.diff(allowed, axis=0) >= 0).all()
    assert allowed[-1].tolist() == [sources.max(), targets.max()]


def test_padding_is_zero_behind_the_sequences() -> None:
    words, lengths = pad([np.array([1, 2, 3]), np.array([4])], np.array([2, 5, 9]), rows=4)
    assert words.T.tolist() == [[1, 2, 3, 0, 0], [4, 0, 0, 0, 0], [0] * 5, [0] * 5]
    assert lengths.tolist() == [3, 1, 0, 0]


def test_evaluation_reads_everything_once() -> None:
    batches = evaluation_batches(LENGTHS, 64)
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert {len(batch) for batch in batches[:-1]} == {64}
    assert (np.diff(np.concatenate([LENGTHS[batch] for batch in batches])) >= 0).all()
