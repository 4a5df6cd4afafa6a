"""The kernel `cudnn`: weights, layout and refusals; JAX's own reference of cuDNN's LSTM stands for the library."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import rnn

import recurrent_jax as rj
from recurrent_jax.kernels import cudnn
from recurrent_jax.kernels.contract import Inputs, Options
from tests import cases

# Float32 sums of a few terms over six steps.
ROUNDING = 2e-6
CELL = rj.LSTM(cases.UNITS)


def reference(x: Any, h_0: Any, c_0: Any, weights: Any, seq_lengths: Any, **sizes: Any) -> Any:
    """What `rnn.lstm` says it computes, in JAX."""
    layers = {name: sizes[name] for name in ("input_size", "hidden_size", "num_layers", "bidirectional")}
    unpacked = rnn.unpack_lstm_weights(weights, **layers)
    order = ("input_size", "hidden_size", "num_layers", "dropout", "bidirectional")
    return rnn.lstm_ref(x, h_0, c_0, *unpacked, seq_lengths, *(sizes[name] for name in order))


@pytest.fixture
def on_nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference in place of the library, as on a GPU."""
    monkeypatch.setattr(cudnn, "_on_nvidia", lambda: True)
    monkeypatch.setattr(rnn, "lstm", reference)


@pytest.mark.usefixtures("on_nvidia")
@pytest.mark.parametrize("batch", [(), (3,), (2, 2)], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_outputs_and_gradients_equal_those_of_scan(reverse: bool, batch: tuple[int, ...]) -> None:
    def everything(kernel: str) -> Any:
        def loss(params: Any, xs: jax.Array, carry: Any) -> Any:
            out = rj.unroll(CELL, params, xs, carry, reverse=reverse, implementation=kernel)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(out)), out

        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*cases.data(CELL, batch))

    cases.assert_close(everything("cudnn"), everything("scan"), ROUNDING)


@pytest.mark.usefixtures("on_nvidia")
def test_no_rows_and_no_steps() -> None:
    for shape in ((0, 2, 3), (4, 0, 3)):
        params = cases.data(CELL).params
        carry, ys = rj.unroll(CELL, params, jnp.zeros(shape, jnp.float32), implementation="cudnn")
        assert ys.shape == (*shape[:2], cases.UNITS)
        assert carry.h.shape == (shape[1], cases.UNITS)


class Doubled(rj.LSTM):
    """An LSTM of other equations."""

    def pointwise(self, params: Any, carry: Any, z: Any, r: Any) -> Any:
        """Twice the output."""
        carry, y = super().pointwise(params, carry, z, r)
        return carry, 2 * y


@pytest.mark.usefixtures("on_nvidia")
@pytest.mark.parametrize(
    ("cell", "flags", "options", "reason"),
    [
        (rj.GRU(4), {}, Options(), "is not the LSTM"),
        (Doubled(4), {}, Options(), "is not the LSTM"),
        (rj.LSTM(4, param_dtype=jnp.bfloat16), {}, Options(), "it takes float32 only"),
        (rj.LSTM(4, dtype=jnp.bfloat16), {}, Options(), "it takes float32 only"),
        (CELL, {"mask": cases.GAPS}, Options(), "neither masks nor resets"),
        (CELL, {"resets": cases.RESETS}, Options(), "neither masks nor resets"),
        (CELL, {}, Options(return_carries=True), "no carry but the last"),
        (CELL, {}, Options(reverse=True), None),
    ],
)
def test_refuses_what_the_library_cannot_do(cell: Any, flags: Any, options: Options, reason: str | None) -> None:
    refusal = cudnn.refuses(cell, Inputs(*cases.data(cell), **flags), options)
    assert refusal is None if reason is None else reason in str(refusal)


def test_refuses_other_devices() -> None:
    refusal = cudnn.refuses(CELL, Inputs(*cases.data(CELL)), Options())
    assert refusal == "it runs on an NVIDIA GPU, and the default device is a cpu"


def test_refuses_first_what_no_device_changes() -> None:
    assert "is not the LSTM" in str(cudnn.refuses(rj.GRU(4), Inputs(*cases.data(rj.GRU(4))), Options()))
