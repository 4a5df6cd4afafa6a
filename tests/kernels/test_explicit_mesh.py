"""A batch that lies over explicit axes of a mesh of two devices, in a process that has two."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

import recurrent_jax as rj
from tests import cases

# As `conftest.py` does, which no other process reads.
CODE = """
import jax
jax.config.update("jax_enable_x64", True)
from tests.kernels import test_explicit_mesh
test_explicit_mesh.check()
"""
LENGTHS, RESETS = np.array([5, 0, 3, 1]), np.arange(5)[:, np.newaxis] == np.arange(4)
SPREAD = jax.sharding.PartitionSpec(None, "rows")


def check() -> None:
    """Outputs and gradients with a default carry, resets to it, and a carry that lies over the mesh where xs do not."""
    assert len(jax.devices()) == 2
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Explicit,))
    for cell in (rj.LSTM(6), rj.GRU(4, reset="before")):
        given = cases.data(cell, (4,), 5)

        def loss(params, xs, carry, cell=cell):  # type: ignore[no-untyped-def]
            last, ys = rj.unroll(cell, params, xs, carry, lengths=LENGTHS, resets=RESETS)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((last, ys)))

        gradient = jax.value_and_grad(loss, (0, 1))
        by_default, by_carry = gradient(given.params, given.xs, None), gradient(*given)
        with jax.set_mesh(mesh):
            xs = jax.reshard(given.xs, SPREAD)
            assert rj.explain(cell, given.params, xs).chosen == "scan"
            assert jax.typeof(rj.unroll(cell, given.params, xs)[1]).sharding.spec[:2] == (None, "rows")
            cases.assert_close(gradient(given.params, xs, None), by_default, 1e-5)
            cases.assert_close(jax.jit(gradient)(given.params, xs, None), by_default, 1e-5)
            carry = jax.tree.map(lambda leaf: jax.reshard(leaf, jax.sharding.PartitionSpec("rows")), given.carry)
            cases.assert_close(gradient(given.params, given.xs, carry), by_carry, 1e-5)


def test_a_batch_over_two_devices_gives_what_it_gives_on_one() -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment, root = {**os.environ, "XLA_FLAGS": flags}, pathlib.Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", CODE], env=environment, cwd=root, check=True)
