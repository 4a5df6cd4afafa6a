"""Experiments run as their users run them: under the default configuration of JAX, not the strict one."""

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
    # Except that compiling takes most of the time, and LLVM's optimiser is not on trial.
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    for name, value in before.items():
        jax.config.update(name, value)
