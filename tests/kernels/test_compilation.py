"""What is compiled, how often, and where the result can go: export, other devices, a mesh."""

import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from recurrent_jax.kernels import REGISTRY
from tests import cases

# The same float64 operations in a program of another shape: the order of a sum may differ.
REORDERED = 1e-13

# Every kernel by its name, and the one that is taken where none is named.
over_programs_and_default = pytest.mark.parametrize(
    "kernel", [*cases.each(REGISTRY, programs=True), pytest.param(None, id="default")]
)
WHOLE, ROWS, TIME_ROWS = (
    jax.sharding.PartitionSpec(),
    jax.sharding.PartitionSpec("rows"),
    jax.sharding.PartitionSpec(None, "rows"),
)


def loss(cell: Any, kernel: str | None, params: Any, xs: Any, carry: Any, lengths: Any = None) -> Any:
    """A number that depends on everything."""
    last, ys = rj.unroll(cell, params, xs, carry, lengths=lengths, implementation=kernel)
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((last, ys)))


@cases.over_kernels
def test_second_call_with_an_equal_cell_compiles_nothing(kernel: str) -> None:
    fresh = lambda: rj.LSTM(cases.UNITS, forget_bias=0.5, param_dtype=jnp.float64)
    params, xs, carry = cases.data(fresh())
    run = lambda xs: rj.unroll(fresh(), params, xs, carry, lengths=[0, 1, 4], implementation=kernel)
    compiled = sys.modules["recurrent_jax.unroll"]._run_compiled._cache_size
    before = compiled()
    run(xs)
    first = compiled()
    assert first > before
    run(xs + 1)
    assert compiled() == first
    run(xs[:4])  # another shape is another program: the counter does count
    assert compiled() > first


@cases.over_kernels
def test_jit_with_the_cell_as_static_argument_compiles_once(kernel: str) -> None:
    gradient = jax.jit(jax.grad(loss, argnums=2), static_argnums=(0, 1))
    params, xs, carry = cases.data(rj.LSTM(cases.UNITS, param_dtype=jnp.float64))
    for _ in range(2):
        gradient(rj.LSTM(cases.UNITS, param_dtype=jnp.float64), kernel, params, xs, carry)
    assert gradient._cache_size() == 1


def test_default_kernel_is_the_first_that_does_not_refuse() -> None:
    given = cases.data(cases.LEARNED_START.cell)
    program = lambda name: str(
        jax.make_jaxpr(jax.grad(lambda xs: loss(cases.LEARNED_START.cell, name, given.params, xs, given.carry)))(
            given.xs
        )
    )
    # Of the kernels of this machine, `native` does not know this cell.
    assert program(None) == program("fused") == program(("fused", "scan"))
    assert program("fused") != program("scan") == program(("scan", "fused"))


@cases.over_programs
def test_checkpoint_stores_less(kernel: str) -> None:
    cell = rj.LSTM(cases.UNITS, param_dtype=jnp.float64)
    params, xs, carry = cases.data(cell, steps=64)

    def stored(every: int | None) -> int:
        run = lambda xs: rj.unroll(cell, params, xs, carry, checkpoint_every=every, implementation=kernel)
        back = jax.vjp(run, xs)[1]
        return sum(leaf.size for leaf in jax.tree.leaves(back)) - xs.size

    # Eight carries in place of the gates of 64 steps; parameters, masks and the like are below a tenth of these.
    assert stored(8) < stored(None) / 4


@pytest.mark.parametrize("kernel", ["fused", "scan"])
def test_unroll_reaches_the_loop(kernel: str) -> None:
    cell = cases.LEARNED_START.cell
    params, xs, carry = cases.data(cell)
    number = lambda xs: loss(cell, kernel, params, xs, carry)
    unrolled = lambda xs: jnp.sum(rj.unroll(cell, params, xs, carry, unroll=3, implementation=kernel)[1])
    loops = lambda f, times: str(jax.make_jaxpr(jax.grad(f))(xs)).count(f"unroll={times}\n")
    assert loops(number, 3) == loops(unrolled, 1) == 0
    # Forward and backward.
    assert loops(unrolled, 3) >= 2


@over_programs_and_default
def test_export_round_trip_changes_nothing(kernel: str | None) -> None:
    # The kernel that is the default for the cells of this library refuses others.
    cell = (cases.LSTM if kernel is None else cases.richest(kernel)).cell
    given = cases.data(cell)
    gradient = jax.jit(lambda *a: jax.value_and_grad(lambda *b: loss(cell, kernel, *b), (0, 1, 2))(*a))
    leaves, structure = jax.tree.flatten(tuple(given))
    flat = jax.jit(lambda *leaves: jax.tree.leaves(gradient(*structure.unflatten(leaves))))
    loaded = jax.export.deserialize(jax.export.export(flat)(*leaves).serialize())
    cases.assert_close(loaded.call(*leaves), flat(*leaves), REORDERED)


@pytest.mark.parametrize("kernel", [None, "fused", "scan"])
def test_export_takes_any_number_of_steps_and_rows(kernel: str | None) -> None:
    cell = rj.LSTM(cases.UNITS)
    params = cases.data(cell).params
    steps, rows = jax.export.symbolic_shape("steps, rows")
    run = jax.jit(jax.value_and_grad(lambda xs, params: loss(cell, kernel, params, xs, None)))
    leaves = jax.ShapeDtypeStruct((steps, rows, cases.FEATURES), jnp.float32)
    loaded = jax.export.deserialize(jax.export.export(run)(leaves, params).serialize())
    for batch, count in (((3,), 6), ((5,), 2)):
        xs = cases.data(cell, batch, count).xs
        cases.assert_close(loaded.call(xs, params), run(xs, params), 1e-5)


@pytest.mark.parametrize("kernel", [None, "scan"])
def test_a_batch_spread_over_an_explicit_mesh_stays_so(kernel: str | None) -> None:
    cell = rj.LSTM(cases.UNITS)
    given = cases.data(cell)
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Explicit,))
    xs = jax.device_put(given.xs, jax.sharding.NamedSharding(mesh, TIME_ROWS))
    run = jax.jit(jax.value_and_grad(lambda xs, params: loss(cell, kernel, params, xs, None)))
    assert rj.unroll(cell, given.params, xs, implementation=kernel)[1].sharding.spec == jax.sharding.PartitionSpec(
        None, "rows", None
    )
    cases.assert_close(run(xs, given.params), run(given.xs, given.params), 1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@over_programs_and_default
def test_gradient_lowers_for_other_devices(kernel: str | None, platform: str) -> None:
    cell = rj.LSTM(cases.UNITS)
    params, xs, carry = cases.data(cell)
    gradient = jax.jit(jax.grad(lambda p, x, c: loss(cell, kernel, p, x, c), (0, 1, 2)))
    lowered = gradient.trace(params, xs, carry).lower(lowering_platforms=(platform,))
    assert "stablehlo.while" in lowered.as_text()
    assert "recurrent_jax_" not in lowered.as_text()  # compiled code of a CPU


def on_mesh(function: Any, in_specs: Any, out_specs: Any) -> Any:
    """`shard_map` over the batch on a mesh of one device, which has all the rules of a larger one."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("rows",))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs))


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


class Lagged(NamedTuple):
    """A carry of which nobody reads `last`."""

    h: Any
    last: Any


class Remembering(rj.PointwiseCell):
    """A cell that only writes a part of its carry."""

    def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> Lagged:
        """Zeros."""
        return Lagged(*(jnp.zeros((*batch_shape, self.hidden_size), self.compute_dtype) for _ in Lagged._fields))

    def pointwise(self, params: Any, carry: Lagged, z: jax.Array, r: jax.Array) -> tuple[Lagged, jax.Array]:
        """An RNN's, which keeps its sums."""
        h = jnp.tanh(z + r)
        return Lagged(h, z + r), h


@cases.over_kernels
def test_gradient_within_shard_map_of_a_carry_that_nobody_reads(kernel: str) -> None:
    cell = Remembering(cases.UNITS, param_dtype=jnp.float64)
    reason = cases.refusal(cell, next(each for each in REGISTRY if kernel == each.NAME))
    if reason:
        pytest.skip(reason)
    params, xs, carry = cases.data(cell)
    gradient = lambda kernel: jax.grad(lambda *a: loss(cell, kernel, *a), argnums=(0, 1, 2))
    sharded = on_mesh(gradient(kernel), (WHOLE, TIME_ROWS, ROWS), (WHOLE, TIME_ROWS, ROWS))
    cases.assert_close(sharded(params, xs, carry), gradient("scan")(params, xs, carry), REORDERED)


def test_cell_that_changes_is_not_mistaken_for_what_it_was() -> None:
    class Decay:
        """A cell by identity, not by value."""

        rate = 0.5

        def init(self, key: jax.Array, in_size: int) -> tuple[()]:
            return ()

        def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> jax.Array:
            return jnp.zeros((*batch_shape, 1))

        def step(self, params: Any, carry: jax.Array, x: jax.Array) -> Any:
            carry = self.rate * carry + x
            return carry, carry

    cell = Decay()
    xs = jnp.ones((2, 1))
    assert float(rj.unroll(cell, (), xs)[0][0]) == 1.5
    cell.rate = 3.0
    assert float(rj.unroll(cell, (), xs)[0][0]) == 4.0


@pytest.mark.parametrize("every", [32, 33, 63])
@cases.over_programs
def test_checkpoint_of_few_chunks_needs_less_memory(kernel: str, every: int) -> None:
    cell = rj.LSTM(16)
    params, xs, carry = cases.data(cell, (4,), 64)

    def memory(every: int | None) -> int:
        run = lambda p, x, c: rj.unroll(cell, p, x, c, checkpoint_every=every, implementation=kernel)[1]
        gradient = jax.jit(jax.grad(lambda *a: jnp.sum(jnp.sin(run(*a))), argnums=(0, 1, 2)))
        analysis = gradient.lower(params, xs, carry).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    # Half of the steps are kept in place of all; the outputs and the sum of the gradients stay.
    assert memory(every) < 0.95 * memory(None)


def test_empty_batch_runs_in_chunks() -> None:
    cell = rj.LSTM(4)
    params = cell.init(jax.random.key(0), 3)
    carry, ys = rj.unroll(cell, params, jnp.zeros((6, 0, 3)), lengths=[], checkpoint_every=2)
    assert ys.shape == (6, 0, 4)
    assert carry.h.shape == (0, 4)


@cases.over_kernels
def test_gradient_without_steps_is_zero(kernel: str) -> None:
    cell = rj.GRU(4)
    params = cell.init(jax.random.key(0), 3)
    total = lambda params: jnp.sum(rj.unroll(cell, params, jnp.zeros((0, 2, 3)), implementation=kernel)[0].h)
    assert all(not leaf.any() for leaf in jax.tree.leaves(jax.grad(total)(params)))


def test_functions_of_parameters_are_exported_as_they_are() -> None:
    cell = rj.GRU(4)
    params = cell.init(jax.random.key(0), 3)
    run = jax.jit(lambda params, xs: rj.unroll(cell, params, xs))
    xs = jnp.ones((5, 2, 3), jnp.float32)
    loaded = jax.export.deserialize(jax.export.export(run)(params, xs).serialize())
    carry, ys = loaded.call(params, xs)
    assert isinstance(carry, rj.RNNCarry)
    cases.assert_close(ys, run(params, xs)[1], 1e-6)
