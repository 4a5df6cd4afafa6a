"""The whole session, doctests of the package too, runs in JAX's strict modes and may use float64."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Made of arrays, in these modes.
from tests import cases  # noqa: E402


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run and in every order of the tests."""
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def at_hand(request: pytest.FixtureRequest) -> Iterator[None]:
    """Makes the kernel that a test is about run on this machine: those of other devices in an interpreter."""
    callspec = getattr(request.node, "callspec", None)
    with cases.at_hand(callspec and callspec.params.get("kernel")):
        yield
