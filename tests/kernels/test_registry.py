"""The ordered list of kernels and the choice from it."""

import pytest

from recurrent_jax import kernels
from recurrent_jax.kernels.contract import Inputs, Options
from tests import cases


def test_registry_ends_with_the_kernel_that_refuses_nothing() -> None:
    assert kernels.REGISTRY[-1].NAME == "scan"
    for case in cases.CASES:
        given = cases.data(case.cell)
        assert kernels.REGISTRY[-1].refuses(case.cell, Inputs(*given), Options()) is None


def test_names_are_unique() -> None:
    assert len(set(cases.KERNELS)) == len(cases.KERNELS)


def test_candidates_keep_the_order_asked_for() -> None:
    assert kernels.candidates(("scan", "fused")) == (kernels.scan, kernels.fused)
    assert kernels.candidates("scan") == (kernels.scan,)
    assert kernels.candidates(None) == kernels.REGISTRY


@pytest.mark.parametrize("name", cases.KERNELS)
def test_by_name_finds_each(name: str) -> None:
    assert name == kernels.by_name(name).NAME
