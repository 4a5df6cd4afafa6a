"""What the tests of both Flax shells share: ways to call an RNN, and Flax itself as the judge of each."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from tests import cases

STEPS, ROWS, FEATURES, UNITS = 6, 5, 3, 4
LENGTHS = np.array([1, 3, STEPS, 4, 2])
RESETS = np.random.default_rng(0).random((ROWS, STEPS)) < 0.3
# Float64 on both sides, six steps of layers that multiply in another order.
CLOSE = 1e-12

CELLS = {
    "rnn": rj.RNN(UNITS, param_dtype="float64"),
    "lstm": rj.LSTM(UNITS, param_dtype="float64"),
    "gru": rj.GRU(UNITS, param_dtype="float64"),
}
LSTM = CELLS["lstm"]
# Flax has none of these.
VARIANTS = (rj.PeepholeLSTM(UNITS, param_dtype="float64"), rj.CoupledLSTM(UNITS, param_dtype="float64"))

# Options of Flax's call.
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lengths": {"seq_lengths": LENGTHS},
    "reverse": {"reverse": True},
    "reverse_keep_order": {"reverse": True, "keep_order": True},
    "keep_order": {"keep_order": True},
    "reverse_lengths": {"reverse": True, "seq_lengths": LENGTHS},
    "reverse_keep_order_lengths": {"reverse": True, "keep_order": True, "seq_lengths": LENGTHS},
    "time_major": {"time_major": True},
    "time_major_reverse_lengths": {"time_major": True, "reverse": True, "seq_lengths": LENGTHS},
}
# Every way with the cell that has two carries; the other cells in the one that has all there is.
PAIRS = [("lstm", call) for call in CALLS] + [(cell, "time_major_reverse_lengths") for cell in ("rnn", "gru")]
over_calls = pytest.mark.parametrize(("name", "call"), PAIRS)
over_calls_both_ways = pytest.mark.parametrize(
    ("call", "merge"), [("plain", {}), ("lengths", {"merge_fn": jnp.subtract}), ("time_major", {})]
)

# Options of a call, and the same for `rj.unroll`, which has time first.
UNROLLED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "lengths": ({"seq_lengths": LENGTHS}, {"lengths": LENGTHS}),
    "resets": ({"resets": RESETS}, {"resets": RESETS.T}),
    "time_major_resets": ({"resets": RESETS.T, "time_major": True}, {"resets": RESETS.T}),
    "reverse_resets": (
        {"reverse": True, "keep_order": True, "resets": RESETS, "seq_lengths": LENGTHS},
        {"reverse": True, "resets": RESETS.T, "lengths": LENGTHS},
    ),
}
over_unrolled = pytest.mark.parametrize("call", UNROLLED)


def given(cell: Any) -> cases.Data:
    """Parameters, inputs `[T, B, D]` and a carry."""
    return cases.data(cell, (ROWS,), STEPS, FEATURES)


def inputs(cell: Any, time_major: bool = False) -> Any:
    """The inputs as Flax has them, rows first."""
    xs = given(cell).xs
    return xs if time_major else jnp.moveaxis(xs, 0, 1)


def as_flax(carry: Any) -> Any:
    """A carry of ours in Flax's containers; its LSTM has the cell state first."""
    if isinstance(carry, rj.LSTMCarry):
        return carry.c, carry.h
    return carry.h if isinstance(carry, rj.RNNCarry) else tuple(map(as_flax, carry))


def assert_flax_agrees(
    ours: Callable[..., Any],
    flax: Callable[..., Any],
    cell: Any,
    carry: Any = None,
    tolerance: float = CLOSE,
    **options: Any,
) -> None:
    """Both calls give the same carry and outputs at true steps; ours are 0 at padding, where it is given NaN."""
    xs = inputs(cell, options.get("time_major", False))
    true = np.ones((ROWS, STEPS), bool)
    if "seq_lengths" in options:
        true = np.arange(STEPS) < options["seq_lengths"][:, None]
    true = (true.T if options.get("time_major") else true)[..., None]
    got_carry, got = ours(jnp.where(true, xs, jnp.nan), initial_carry=carry, return_carry=True, **options)
    before = None if carry is None else as_flax(carry)
    expected_carry, expected = flax(xs, initial_carry=before, return_carry=True, **options)
    cases.assert_close(as_flax(got_carry), expected_carry, tolerance)
    cases.assert_close(got, np.where(true, expected, 0).astype(expected.dtype), tolerance)
    assert not np.asarray(got)[~np.broadcast_to(true, got.shape)].any()
