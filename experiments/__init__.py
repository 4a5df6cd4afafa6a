"""Experiments built on the public names of recurrent_jax."""
