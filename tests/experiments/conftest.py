"""Experiments run as their users run them: with JAX's default configuration, not the strict one of the library's tests."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def default_jax_configuration():
    names = {
        "jax_enable_x64": False,
        "jax_numpy_dtype_promotion": "standard",
        "jax_numpy_rank_promotion": "allow",
    }
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
