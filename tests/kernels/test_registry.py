"""The ordered list of kernels and the choice from it."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from recurrent_jax import arguments, kernels
from recurrent_jax.kernels import pointwise
from recurrent_jax.kernels.contract import Inputs, Options
from tests import cases


def test_registry_ends_with_the_kernel_that_refuses_nothing() -> None:
    assert kernels.REGISTRY[-1].NAME == "scan"
    for case in cases.CASES:
        given = cases.data(case.cell)
        assert kernels.REGISTRY[-1].refuses(case.cell, Inputs(*given), Options()) is None


def test_names_are_unique() -> None:
    assert len(set(cases.KERNELS)) == len(cases.KERNELS)


def test_candidates_keep_the_order_asked_for() -> None:
    assert kernels.candidates(("scan", "fused")) == (kernels.scan, kernels.fused)
    assert kernels.candidates("scan") == (kernels.scan,)
    assert kernels.candidates(None) == kernels.REGISTRY


@pytest.mark.parametrize("name", cases.KERNELS)
def test_by_name_finds_each(name: str) -> None:
    assert name == kernels.by_name(name).NAME


def test_each_kernel_is_asked_once_where_all_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for kernel in (kernels.fused, kernels.native):
        monkeypatch.setattr(kernel, "refuses", lambda *_, name=kernel.NAME: asked.append(name) or "no")
    with pytest.raises(NotImplementedError, match="fused refuses: no; native refuses: no"):
        kernels.choose(("fused", "native"), None, Inputs(*cases.data(cases.LSTM.cell)), Options())
    assert asked == ["fused", "native"]


class Noted(rj.RNN):
    """Notes each trace of its parts."""

    notes: ClassVar[list[str]] = []

    def project(self, params: Any, x: Any) -> Any:
        """As ever."""
        self.notes.append("project")
        return super().project(params, x)

    def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> Any:
        """As ever."""
        self.notes.append("initial_carry")
        return super().initial_carry(params, batch_shape)


def test_a_call_like_one_before_traces_nothing() -> None:
    params, xs, carry = cases.data(rj.RNN(4))
    calls = (
        lambda: rj.unroll(Noted(4), params, xs, carry),
        lambda: rj.unroll(Noted(4), params, xs, carry, implementation="fused"),
    )
    for call in calls:
        call()
    Noted.notes.clear()
    for call in calls:
        call()
    assert not Noted.notes


class Ambient(rj.RNN):
    """Starts from zeros of JAX's default dtype."""

    def initial_carry(self, params: Any, batch_shape: tuple[int, ...] = ()) -> Any:
        """Of float64 where there is one."""
        return rj.RNNCarry(jnp.zeros((*batch_shape, self.hidden_size)))

    def project(self, params: Any, x: Any) -> Any:
        """As ever."""
        return super().project(params, x).astype(jnp.zeros(()).dtype)


def test_what_is_remembered_depends_on_x64() -> None:
    params, xs, _ = cases.data(rj.RNN(4))
    cell = Ambient(4)
    for x64, dtype in ((True, "float64"), (False, "float32"), (True, "float64")):
        with jax.enable_x64(x64):
            z, _ = pointwise._pre_activations(cell, Inputs(params, xs, rj.RNN(4).initial_carry(params, cases.BATCH)))
            assert z.dtype == dtype
            arguments.check_carry(cell, params, cell.initial_carry(params, cases.BATCH), cases.BATCH)
            with pytest.raises(ValueError, match=rf"^carry: expected RNNCarry\(h {dtype}\[3,4\]\), got "):
                arguments.check_carry(cell, params, rj.RNNCarry(xs[0]), cases.BATCH)


def test_a_cell_that_holds_an_array_is_traced_each_time() -> None:
    @dataclasses.dataclass(frozen=True)
    class Scaled(rj.PointwiseCell):
        """Not hashable; what it holds may change."""

        columns: Any = None

        def project(self, params: Any, x: Any) -> Any:
            """As many columns as it is told."""
            return super().project(params, x)[..., : self.columns.sum()]

    cell = Scaled(4, columns=np.array([4]))
    inputs = Inputs(*cases.data(rj.RNN(4)))
    assert kernels.fused.refuses(cell, inputs, Options()) is None
    cell.columns[0] = 2
    assert kernels.fused.refuses(cell, inputs, Options()) == "project gives (3, 2) where h W_h is (3, 4)"
