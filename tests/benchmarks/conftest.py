"""Benchmarks, like experiments, run under the default configuration of JAX: so do peers' users."""

from tests.experiments.conftest import default_jax_configuration

__all__ = ["default_jax_configuration"]
