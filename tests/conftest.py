"""The whole session, doctests of the package too, runs in JAX's strict modes and may use float64."""

import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run and in every order of the tests."""
    return np.random.default_rng(0)
