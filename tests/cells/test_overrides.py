"""What the base class lets a user override, every kernel takes, with its gradient."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from tests import cases


class FactoredParams(NamedTuple):
    """`w_in [D, 2]`, `w_out [2, H]`, `w_h [H, H]`."""

    w_in: jax.Array
    w_out: jax.Array
    w_h: jax.Array


@dataclasses.dataclass(frozen=True)
class FactoredProjection(rj.RNN):
    """`z = x W_in W_out`: parameters of other names than the base class has."""

    def init(self, key: jax.Array, in_size: int) -> FactoredParams:
        """Ones, and the usual `w_h`."""
        _, w_h = self.draw_weights(key, in_size)
        return FactoredParams(self.zeros(in_size, 2) + 1, self.zeros(2, self.hidden_size) + 1, w_h)

    def in_size(self, params: FactoredParams) -> int:
        """D."""
        return params.w_in.shape[0]

    def project(self, params: FactoredParams, x: jax.Array) -> jax.Array:
        """Two matmuls, the first to two features."""
        return x @ params.w_in @ params.w_out


@dataclasses.dataclass(frozen=True)
class LowPrecisionProjection(rj.LSTM):
    """z in the compute dtype, as a user would write it; `pointwise` sees it raised to float32 anyway."""

    def project(self, params: Any, x: jax.Array) -> jax.Array:
        """Rounded to the compute dtype."""
        return super().project(params, x).astype(self.compute_dtype)


@dataclasses.dataclass(frozen=True)
class ArrayField(rj.PointwiseCell):
    """A cell that holds an array, so that it can't be hashed."""

    scale: Any = None

    def pointwise(self, params: Any, carry: Any, z: jax.Array, r: jax.Array) -> Any:
        """tanh, times the scale of each unit."""
        h = jnp.tanh(z + r) * self.scale
        return carry._replace(h=h), h


class Residual(rj.RNN):
    """A step of its own: the input is added to the output."""

    def step(self, params: Any, carry: Any, x: jax.Array) -> Any:
        """As much of x as there are units."""
        carry, y = super().step(params, carry, x)
        return carry, y + x[..., : self.hidden_size]


class Zoneout(rj.GRU):
    """A `recur` of its own: the expectation of zoneout, which keeps a part of the old h."""

    def recur(self, params: Any, carry: Any, z: jax.Array) -> Any:
        """A quarter of the old one."""
        new, _ = super().recur(params, carry, z)
        h = 0.75 * new.h + 0.25 * carry.h
        return new._replace(h=h), h


class StepCarry(NamedTuple):
    """`h [..., H]` and a count of steps `n [..., 1]` in integers."""

    h: jax.Array
    n: jax.Array


@dataclasses.dataclass(frozen=True)
class IntegerCarry(rj.RNN):
    """Decays with the number of steps, which it counts in integers."""

    def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> StepCarry:
        """No steps yet."""
        return StepCarry(super().initial_carry(params, batch_shape).h, jnp.zeros((*batch_shape, 1), jnp.int32))

    def pointwise(self, params: Any, carry: StepCarry, z: jax.Array, r: jax.Array) -> Any:
        """tanh, divided by the count."""
        h = jnp.tanh(z + r) / (1 + carry.n.astype(z.dtype))
        return StepCarry(h, carry.n + 1), h


CELLS = [
    pytest.param(FactoredProjection(4, param_dtype="float64"), 1e-12, id="factored projection"),
    # Gates are float32 and what is saved of them bfloat16: gradients agree to some of its roundings, 2**-8 each.
    pytest.param(LowPrecisionProjection(4, dtype="bfloat16"), 2.0**-6, id="low precision projection"),
    pytest.param(ArrayField(4, scale=np.linspace(0.5, 1.5, 4)[None], param_dtype="float64"), 1e-12, id="array field"),
    pytest.param(IntegerCarry(4, param_dtype="float64"), 1e-12, id="integer carry"),
    pytest.param(Residual(3, param_dtype="float64"), 1e-12, id="own step"),
    pytest.param(Zoneout(4, param_dtype="float64"), 1e-12, id="own recur"),
]


@pytest.mark.parametrize(("cell", "tolerance"), CELLS)
def test_overrides_run_and_have_the_gradient_of_scan(cell: Any, tolerance: float) -> None:
    params = cell.init(jax.random.key(0), 3)
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((4, 2, 3)), params.w_h.dtype)

    def loss(params: Any, xs: Any, implementation: str | None) -> Any:
        _, ys = rj.unroll(cell, params, xs, lengths=[4, 2], implementation=implementation)
        return jnp.sum(jnp.sin(ys.astype(jnp.float64)))

    scan, default = (jax.value_and_grad(loss, argnums=(0, 1))(params, xs, name) for name in ("scan", None))
    assert float(jnp.abs(scan[1][1]).max()) > 0.01
    cases.assert_close(default, scan, tolerance)
    cases.assert_close(loss(params, xs, None), scan[0], tolerance)


@pytest.mark.parametrize("cell", [Residual(3), Zoneout(3)])
def test_own_step_is_refused_by_kernels_that_do_not_call_it(cell: Any) -> None:
    xs = jnp.ones((4, 2, 3))
    params = cell.init(jax.random.key(0), 3)
    assert rj.explain(cell, params, xs).chosen == "scan"
    for name in ("fused", "native", "pallas_tpu", "mosaic_gpu"):
        with pytest.raises(NotImplementedError, match="implementation="):
            rj.unroll(cell, params, xs, implementation=name)


def test_fields_that_are_not_compared_are_refused() -> None:
    @dataclasses.dataclass(frozen=True, eq=False)
    class Unequal(rj.RNN):
        alpha: float = 0.1

    @dataclasses.dataclass(frozen=True)
    class Uncompared(rj.RNN):
        alpha: float = dataclasses.field(default=0.1, compare=False)

    with pytest.raises(TypeError, match=r"^Unequal: expected annotated fields.*; with eq=False two different cells"):
        Unequal(4)
    with pytest.raises(TypeError, match=r"^Uncompared: expected fields that are compared, got compare=False of alpha$"):
        Uncompared(4)


def test_subclass_without_dataclass_decorator_is_a_value() -> None:
    class Leaky(rj.PointwiseCell):
        def pointwise(self, params: Any, carry: Any, z: Any, r: Any) -> Any:
            h = 0.9 * carry.h + 0.1 * jnp.tanh(z + r)
            return carry._replace(h=h), h

    assert Leaky(4) == Leaky(4) != rj.PointwiseCell(4)
    assert hash(Leaky(4)) == hash(Leaky(4))
