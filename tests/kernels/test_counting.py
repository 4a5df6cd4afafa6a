"""A cell that counts its steps: resets, gaps and reverse against sequences written out by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from recurrent_jax.kernels import REGISTRY
from tests import cases

INTEGER, FLOATING = cases.Counter(), cases.PointwiseCounter(1, param_dtype=jnp.float64)
LINEAR = cases.LinearCounter(1, param_dtype=jnp.float64)
COUNTERS = [pytest.param(INTEGER, "scan", id="integer-scan")] + [
    pytest.param(cell, kernel.NAME, id=f"{name}-{kernel.NAME}", marks=cases.skip_for(cases.refusal(cell, kernel)))
    for name, cell in (("floating", FLOATING), ("linear", LINEAR))
    for kernel in REGISTRY
]
# Seven steps of one row: the flags as 0 and 1, then what the row gives out, then its carry after each step.
WRITTEN_OUT: dict[str, tuple[dict[str, Any], str, str]] = {
    "plain": ({}, "1234567", "1234567"),
    "reverse": ({"reverse": True}, "7654321", "7654321"),
    "no_step": ({"lengths": 0}, "0000000", "0000000"),
    "one_step": ({"lengths": 1}, "1000000", "1111111"),
    "five_steps": ({"lengths": 5}, "1234500", "1234555"),
    "five_steps_reverse": ({"lengths": 5, "reverse": True}, "5432100", "5432100"),
    "gaps": ({"mask": "0110101"}, "0120304", "0122334"),
    "gaps_reverse": ({"mask": "0110101", "reverse": True}, "0430201", "4432211"),
    "resets": ({"resets": "0010011"}, "1212311", "1212311"),
    "reset_first": ({"resets": "1000000"}, "1234567", "1234567"),
    "resets_reverse": ({"resets": "0010011", "reverse": True}, "3213211", "3213211"),
    "reset_in_gap": ({"mask": "1101111", "resets": "0010000"}, "1203456", "1223456"),
    "reset_behind_end": ({"lengths": 3, "resets": "0000100"}, "1230000", "1233333"),
    "reset_at_end": ({"lengths": 3, "resets": "0010000"}, "1210000", "1211111"),
}


def flags(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `unroll` for one row from what is written above."""
    row = lambda text: np.array([[c == "1"] for c in text])
    change = {"lengths": lambda n: np.array([n]), "reverse": bool, "mask": row, "resets": row}
    return {name: change[name](value) for name, value in given.items()}


def digits(values: jax.Array) -> str:
    """`[T, 1, 1]` as text."""
    return "".join(str(int(v)) for v in np.asarray(values)[:, 0, 0])


@pytest.mark.parametrize("name", WRITTEN_OUT)
@pytest.mark.parametrize(("cell", "kernel"), COUNTERS)
def test_counts_are_those_written_out(cell: Any, kernel: str, name: str) -> None:
    given, outputs, held = WRITTEN_OUT[name]
    params = cell.init(jax.random.key(0), 2)
    carry, ys, carries = rj.unroll(
        cell, params, jnp.zeros((7, 1, 2)), **flags(given), return_carries=True, implementation=kernel
    )
    assert digits(ys) == outputs
    (leaf,) = jax.tree.leaves(carries)
    assert digits(leaf) == held
    (last,) = jax.tree.leaves(carry)
    assert int(last[0, 0]) == int(held[0 if given.get("reverse") else -1])


@pytest.mark.parametrize(("cell", "kernel"), COUNTERS)
def test_count_goes_on_from_a_given_carry_but_resets_go_to_the_initial_one(cell: Any, kernel: str) -> None:
    params = cell.init(jax.random.key(0), 2)
    start = jax.tree.map(lambda leaf: leaf + 4, cell.initial_carry(params, (1,)))
    resets = np.array([0, 0, 1, 0], bool)[:, None]
    _, ys = rj.unroll(cell, params, jnp.zeros((4, 1, 2)), start, resets=resets, implementation=kernel)
    assert digits(ys) == "5612"


def test_integer_carry_stays_integer() -> None:
    carry, ys = rj.unroll(INTEGER, (), jnp.zeros((4, 1, 2)), lengths=[3])
    assert carry.count.dtype == ys.dtype == jnp.int32


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_lengths_of_any_integer_dtype_mean_the_same(dtype: Any) -> None:
    # T is beyond what one byte can count.
    carry, _ = rj.unroll(INTEGER, (), jnp.zeros((300, 1, 2)), lengths=np.array([100], dtype))
    assert int(carry.count[0, 0]) == 100
