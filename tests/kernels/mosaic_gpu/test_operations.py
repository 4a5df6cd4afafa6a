"""The operations of a `pointwise` that `mosaic_gpu` lets in: each lowers, and gives what it gives in `scan`."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import pytest

import recurrent_jax as rj
from recurrent_jax.kernels import mosaic_gpu
from recurrent_jax.kernels.mosaic_gpu.units import ELEMENTWISE
from tests import cases
from tests.kernels.mosaic_gpu.given import HALF, inputs, kernels_of, loss_of, needs_mosaic

# What people write for gates and activations; with those of the cells of test_lowering, every operation that is let in.
OPERATIONS: dict[str, Any] = {
    "soft_sign": jax.nn.soft_sign,
    "rational": lambda x: 1 / (1 + x * x),
    "cubes": lambda x: x**3 - 2 * x**2 + (2 + x) ** -3,
    "roots": lambda x: jnp.sqrt(1 + jnp.abs(x)) * jax.lax.rsqrt(1 + x**2) - jnp.sign(x),
    "waves": lambda x: jnp.sin(x) * jnp.cos(x),
    "powers": lambda x: jnp.exp(x) + jnp.exp2(x) + jnp.log(2 + x),
    "hard_tanh": jax.nn.hard_tanh,
    "clip": lambda x: jnp.clip(jnp.minimum(jnp.maximum(x, -0.5), 0.5) * 2, -0.75, 0.75),
    "neither": lambda x: jnp.where(~((x > 0.5) | (x <= -0.5)) & (x != 0), x, -x),
    "either": lambda x: jnp.where((x >= 0) ^ (x < 0.25), x, jnp.zeros_like(x)) * (x == x).astype(x.dtype),
    "truth": lambda x: x * x.astype(bool).astype(x.dtype),
    "number": lambda x: x * jnp.square(jnp.full((), 3.0, x.dtype)),
    "constant array": lambda x: x * CLOSED_OVER.astype(x.dtype),
    "constant": lambda x: jnp.concatenate([x, jnp.ones_like(x)], axis=-1),
    "still": lambda x: x * jax.lax.stop_gradient(x),
}
CLOSED_OVER = jnp.asarray(0.5, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Operating(rj.PointwiseCell):
    """A cell whose second gate nobody reads, and whose output is an operation of its state."""

    gates: ClassVar[int] = 2
    operation: str = ""

    def pointwise(self, params: Any, carry: rj.RNNCarry, z: jax.Array, r: jax.Array) -> tuple[rj.RNNCarry, jax.Array]:
        """The operation of h."""
        h = jnp.tanh(z + r)[..., : self.hidden_size]
        return rj.RNNCarry(h), OPERATIONS[self.operation](h)


@needs_mosaic
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_lowers_with_its_gradient(name: str) -> None:
    cell = Operating(256, operation=name, **HALF)
    given = inputs(cell, flags=False)
    assert kernels_of(jax.grad(loss_of(cell), (0, 1, 2)), *given[:3], given) == 2


@needs_mosaic
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_equals_that_of_scan(name: str) -> None:
    cell = Operating(5, operation=name, param_dtype=jnp.float64)
    params, xs, carry = cases.data(cell)

    def loss(kernel: str) -> Any:
        of = lambda *a: rj.unroll(cell, *a, implementation=kernel)
        return jax.value_and_grad(lambda *a: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(of(*a))), (0, 1, 2))

    with mosaic_gpu.interpreted():
        got = loss("mosaic_gpu")(params, xs, carry)
    cases.assert_close(got, loss("scan")(params, xs, carry), 1e-13)


def test_every_operation_that_is_let_in_is_tried() -> None:
    primitives: set[str] = set()

    def collect(jaxpr: Any) -> None:
        for eqn in jaxpr.eqns:
            primitives.add(eqn.primitive.name)
            for inner in eqn.params.values():
                if hasattr(inner, "jaxpr"):
                    collect(inner.jaxpr)

    for operation in (*OPERATIONS.values(), jax.nn.sigmoid, jnp.tanh):
        row = jax.ShapeDtypeStruct((4,), jnp.float32)
        collect(jax.make_jaxpr(lambda x, operation=operation: jax.vjp(operation, x)[1](operation(x)))(row).jaxpr)
    assert set(ELEMENTWISE) - primitives <= {"one_minus_square", "clamp", "square", "integer_pow", "ne"}
