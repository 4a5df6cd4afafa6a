"""What is compiled, how often, and where the result can go: export, other devices, a mesh."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from tests import cases

# The same float64 operations in a program of another shape: the order of a sum may differ.
REORDERED = 1e-13


@dataclasses.dataclass(frozen=True)
class Traced(rj.LSTM):
    """An LSTM that counts how often Python runs its equations."""

    traces: ClassVar[list[int]] = []

    def pointwise(self, params: Any, carry: Any, z: Any, r: Any) -> Any:
        """Counts, then computes."""
        self.traces.append(1)
        return super().pointwise(params, carry, z, r)


def loss(cell: Any, kernel: str, params: Any, xs: Any, carry: Any, lengths: Any = None) -> Any:
    """A number that depends on everything."""
    last, ys = rj.unroll(cell, params, xs, carry, lengths=lengths, implementation=kernel)
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((last, ys)))


@cases.over_kernels
def test_second_call_with_an_equal_cell_traces_nothing(kernel: str) -> None:
    fresh = lambda: Traced(cases.UNITS, param_dtype=jnp.float64)
    params, xs, carry = cases.data(fresh())
    run = lambda xs: rj.unroll(fresh(), params, xs, carry, lengths=[0, 1, 4], implementation=kernel)
    before = len(Traced.traces)
    run(xs)
    first = len(Traced.traces)
    assert first > before
    run(xs + 1)
    assert len(Traced.traces) == first
    run(xs[:4])  # another shape is another program: the counter does count
    assert len(Traced.traces) > first


@cases.over_kernels
def test_jit_with_the_cell_as_static_argument_compiles_once(kernel: str) -> None:
    gradient = jax.jit(jax.grad(loss, argnums=2), static_argnums=(0, 1))
    params, xs, carry = cases.data(rj.LSTM(cases.UNITS, param_dtype=jnp.float64))
    for _ in range(2):
        gradient(rj.LSTM(cases.UNITS, param_dtype=jnp.float64), kernel, params, xs, carry)
    assert gradient._cache_size() == 1


def test_default_kernel_is_the_first_that_does_not_refuse() -> None:
    given = cases.data(cases.PEEPHOLE.cell)
    program = lambda name: str(
        jax.make_jaxpr(jax.grad(lambda xs: loss(cases.PEEPHOLE.cell, name, given.params, xs, given.carry)))(given.xs)
    )
    assert program(None) == program("fused") == program(("fused", "scan"))
    assert program("fused") != program("scan") == program(("scan", "fused"))


@cases.over_kernels
def test_checkpoint_stores_less(kernel: str) -> None:
    cell = rj.LSTM(cases.UNITS, param_dtype=jnp.float64)
    params, xs, carry = cases.data(cell, steps=64)

    def stored(every: int | None) -> int:
        run = lambda xs: rj.unroll(cell, params, xs, carry, checkpoint_every=every, implementation=kernel)
        back = jax.vjp(run, xs)[1]
        return sum(leaf.size for leaf in jax.tree.leaves(back)) - xs.size

    # Eight carries in place of the gates of 64 steps; parameters, masks and the like are below a tenth of these.
    assert stored(8) < stored(None) / 4


@cases.over_kernels
def test_unroll_reaches_the_loop(kernel: str) -> None:
    params, xs, carry = cases.data(cases.PEEPHOLE.cell)
    number = lambda xs: loss(cases.PEEPHOLE.cell, kernel, params, xs, carry)
    unrolled = lambda xs: jnp.sum(rj.unroll(cases.PEEPHOLE.cell, params, xs, carry, unroll=3, implementation=kernel)[1])
    loops = lambda f, times: str(jax.make_jaxpr(jax.grad(f))(xs)).count(f"unroll={times}\n")
    assert loops(number, 3) == loops(unrolled, 1) == 0
    # Forward and backward.
    assert loops(unrolled, 3) >= 2


@cases.over_kernels
def test_export_round_trip_changes_nothing(kernel: str) -> None:
    given = cases.data(cases.PEEPHOLE.cell)
    gradient = jax.jit(lambda *a: jax.value_and_grad(lambda *b: loss(cases.PEEPHOLE.cell, kernel, *b), (0, 1, 2))(*a))
    leaves, structure = jax.tree.flatten(tuple(given))
    flat = jax.jit(lambda *leaves: jax.tree.leaves(gradient(*structure.unflatten(leaves))))
    loaded = jax.export.deserialize(jax.export.export(flat)(*leaves).serialize())
    cases.assert_close(loaded.call(*leaves), flat(*leaves), REORDERED)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@cases.over_kernels
def test_gradient_lowers_for_other_devices(kernel: str, platform: str) -> None:
    cell = rj.LSTM(cases.UNITS)
    params, xs, carry = cases.data(cell)
    gradient = jax.jit(jax.grad(lambda p, x, c: loss(cell, kernel, p, x, c), (0, 1, 2)))
    lowered = gradient.trace(params, xs, carry).lower(lowering_platforms=(platform,))
    assert "stablehlo.while" in lowered.as_text()


def on_mesh(function: Any, in_specs: Any, out_specs: Any) -> Any:
    """`shard_map` over the batch on a mesh of one device, which has all the rules of a larger one."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("rows",))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs))


WHOLE, ROWS, TIME_ROWS = (
    jax.sharding.PartitionSpec(),
    jax.sharding.PartitionSpec("rows"),
    jax.sharding.PartitionSpec(None, "rows"),
)


@pytest.mark.parametrize("given_carry", [True, False], ids=["carry", "no carry"])
@cases.over_kernels
def test_shard_map_over_rows_changes_nothing(kernel: str, given_carry: bool) -> None:
    cell = rj.LSTM(cases.UNITS, param_dtype=jnp.float64)
    params, xs, carry = cases.data(cell)
    run = lambda params, xs, carry: rj.unroll(cell, params, xs, carry if given_carry else None, implementation=kernel)
    sharded = on_mesh(run, (WHOLE, TIME_ROWS, ROWS), (ROWS, TIME_ROWS))
    cases.assert_close(sharded(params, xs, carry), run(params, xs, carry), REORDERED)


@pytest.mark.parametrize("given_carry", [True, False], ids=["carry", "no carry"])
@cases.over_kernels
def test_gradient_through_shard_map_changes_nothing(kernel: str, given_carry: bool) -> None:
    cell = rj.GRU(cases.UNITS, param_dtype=jnp.float64)
    params, xs, carry = cases.data(cell)
    lengths = jnp.array([0, 1, cases.STEPS])
    run = lambda params, xs, carry, lengths: rj.unroll(
        cell,
        params,
        xs,
        carry if given_carry else None,
        lengths=lengths,
        implementation=kernel,
    )[1]
    sharded = on_mesh(run, (WHOLE, TIME_ROWS, ROWS, ROWS), TIME_ROWS)
    gradient = lambda f: jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a, lengths))), argnums=(0, 1, 2))(params, xs, carry)
    cases.assert_close(gradient(sharded), gradient(run), REORDERED)


@cases.over_kernels
def test_gradient_within_shard_map_changes_nothing(kernel: str) -> None:
    cell = rj.GRU(cases.UNITS, param_dtype=jnp.float64)
    params, xs, carry = cases.data(cell)
    gradient = jax.grad(lambda *a: loss(cell, kernel, *a), argnums=(0, 1, 2))
    # Parameters are the same on every device, so JAX itself sums their gradient over the mesh.
    sharded = on_mesh(gradient, (WHOLE, TIME_ROWS, ROWS), (WHOLE, TIME_ROWS, ROWS))
    cases.assert_close(sharded(params, xs, carry), gradient(params, xs, carry), REORDERED)
