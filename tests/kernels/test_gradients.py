"""Every kernel's gradient equals the scan's and finite differences of the outputs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from tests import cases
from tests.cases import Case

# Float64 in two orders of summation, over six steps.
AGAINST_SCAN = 1e-12
# Central differences: the step's square, 1e-10, times a third derivative of order ten, above rounding of 1e-16 / step.
STEP = 1e-5
AGAINST_DIFFERENCES = 1e-8
# For every pair: none of the flags, and all of them. What lies between is seen on one cell.
FLAGS_NONE_OR_ALL = ("plain", "gaps_resets_reverse")


@functools.cache
def loss_of(case: Case, kernel: str, scenario: str, options: tuple[tuple[str, Any], ...] = ()) -> Callable[..., Any]:
    """A compiled `(params, xs, carry) -> ((loss, out), gradients)` with a cotangent on all that `unroll` returns.

    `out` is what `unroll` gave under differentiation, where a kernel may run another program than without it.
    """
    with_carry, flags = cases.SCENARIOS[scenario]

    def loss(params: Any, xs: Any, carry: Any) -> Any:
        out = rj.unroll(
            case.cell,
            params,
            xs,
            carry if with_carry else None,
            **flags,
            **dict(options),
            return_carries=True,
            implementation=kernel,
        )
        rng = np.random.default_rng(2)
        return sum(jnp.sum(leaf * rng.standard_normal(leaf.shape)) for leaf in jax.tree.leaves(out)), out

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


@functools.cache
def differences_of(case: Case, scenario: str) -> list[tuple[Any, float]]:
    """For each argument a direction, and the central difference of the scan's loss along it.

    The loss of the other kernels is the same number, as the next test says, and dearer to compute.
    """
    function = loss_of(case, "scan", scenario)
    leaves, structure = jax.tree.flatten(tuple(cases.data(case.cell)))
    rng = np.random.default_rng(3)
    found = []
    for index, leaf in enumerate(leaves):
        direction = rng.standard_normal(leaf.shape)

        def moved(by: float, index: int = index, direction: Any = direction) -> float:
            arguments = [a + by * direction if i == index else a for i, a in enumerate(leaves)]
            return float(function(*structure.unflatten(arguments))[0][0])

        found.append((direction, (moved(STEP) - moved(-STEP)) / (2 * STEP)))
    return found


@pytest.mark.parametrize("scenario", FLAGS_NONE_OR_ALL)
@cases.over_pairs
def test_gradients_equal_finite_differences(case: Case, kernel: str, scenario: str) -> None:
    gradients = jax.tree.leaves(loss_of(case, kernel, scenario)(*cases.data(case.cell))[1])
    for gradient, (direction, difference) in zip(gradients, differences_of(case, scenario), strict=True):
        slope = float(np.sum(np.asarray(gradient) * direction))
        np.testing.assert_allclose(slope, difference, rtol=0, atol=AGAINST_DIFFERENCES * max(1.0, abs(difference)))


@pytest.mark.parametrize("scenario", FLAGS_NONE_OR_ALL)
@cases.over_pairs_but_scan
def test_outputs_and_gradients_equal_those_of_scan(case: Case, kernel: str, scenario: str) -> None:
    arguments = cases.data(case.cell)
    cases.assert_close(
        loss_of(case, kernel, scenario)(*arguments), loss_of(case, "scan", scenario)(*arguments), AGAINST_SCAN
    )


@pytest.mark.parametrize("scenario", ["lengths", "resets", "reverse_lengths"])
@cases.over_kernels_but_scan
def test_gradients_equal_those_of_scan_under_any_flags(kernel: str, scenario: str) -> None:
    case, arguments = cases.richest(kernel), cases.data(cases.richest(kernel).cell)
    cases.assert_close(
        loss_of(case, kernel, scenario)(*arguments), loss_of(case, "scan", scenario)(*arguments), AGAINST_SCAN
    )


@pytest.mark.parametrize("batch", [(), (2, 2)], ids=str)
@cases.over_kernels_but_scan
def test_gradients_equal_those_of_scan_for_any_batch_shape(kernel: str, batch: tuple[int, ...]) -> None:
    case, arguments = cases.richest(kernel), cases.data(cases.richest(kernel).cell, batch)
    cases.assert_close(
        loss_of(case, kernel, "carry")(*arguments), loss_of(case, "scan", "carry")(*arguments), AGAINST_SCAN
    )


# 2 divides T = 6; 4 leaves a remainder, which reverse runs first; 9 is more than T.
@pytest.mark.parametrize("options", [{"checkpoint_every": k} for k in (2, 4, 9)] + [{"unroll": 2}], ids=str)
@cases.over_programs
def test_checkpoint_and_unroll_change_no_output_and_no_gradient(kernel: str, options: dict[str, Any]) -> None:
    case, scenario, arguments = cases.richest(kernel), "gaps_resets_reverse", cases.data(cases.richest(kernel).cell)
    cases.assert_close(
        loss_of(case, kernel, scenario, tuple(options.items()))(*arguments),
        loss_of(case, "scan", scenario)(*arguments),
        AGAINST_SCAN,
    )


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@cases.over_pairs
def test_padding_reaches_no_gradient(case: Case, kernel: str, poison: float) -> None:
    params, xs, carry = cases.data(case.cell)
    function = loss_of(case, kernel, "gaps_resets_reverse")
    keep = cases.GAPS
    clean = function(params, jnp.where(keep[..., None], xs, 0.0), carry)
    poisoned = function(params, jnp.where(keep[..., None], xs, poison), carry)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(clean))
    cases.assert_same(poisoned, clean)
    assert not np.asarray(poisoned[1][1])[~keep].any()


@cases.over_kernels
def test_gradient_of_a_masked_sequence_goes_to_the_carry_alone(kernel: str) -> None:
    case, given = cases.richest(kernel), cases.data(cases.richest(kernel).cell)

    def loss(params: Any, xs: Any, carry: Any) -> Any:
        last, ys = rj.unroll(case.cell, params, xs, carry, lengths=[0, 0, 0], implementation=kernel)
        return sum(jnp.sum(3.0 * leaf) for leaf in jax.tree.leaves((last, ys)))

    d_params, d_xs, d_carry = jax.grad(loss, argnums=(0, 1, 2))(*given)
    cases.assert_same((d_params, d_xs), jax.tree.map(jnp.zeros_like, (given.params, given.xs)))
    cases.assert_same(d_carry, jax.tree.map(lambda leaf: jnp.full_like(leaf, 3.0), given.carry))
