"""What all tests of decoding share."""

from typing import Any

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_to_compile() -> Any:
    """LLVM's optimiser, which takes most of the time, is not on trial."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
