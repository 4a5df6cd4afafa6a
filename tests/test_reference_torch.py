"""PyTorch as a live reference: outputs, gradients to everything, and gradients of gradients, in float64."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from tests import cases

torch = pytest.importorskip("torch", reason="PyTorch is an oracle where it is installed, not a dependency")
torch.set_num_threads(1)

STEPS, ROWS, FEATURES, UNITS = 5, 3, 4, 3
# Float64 on both sides; five steps, first derivatives.
FIRST = 1e-12
# Second derivatives sum products of first ones, over all inputs and weights.
SECOND = 1e-11

CELLS = {
    "rnn_tanh": (rj.RNN(UNITS, param_dtype="float64"), "RNN", {"nonlinearity": "tanh"}),
    "rnn_relu": (rj.RNN(UNITS, activation="relu", param_dtype="float64"), "RNN", {"nonlinearity": "relu"}),
    "lstm": (rj.LSTM(UNITS, param_dtype="float64"), "LSTM", {}),
    "gru_after": (rj.GRU(UNITS, param_dtype="float64"), "GRU", {}),
}
over_cells = pytest.mark.parametrize("name", CELLS)


class Torch:
    """The module of one cell with random weights, and its arguments; gates are in our order already."""

    def __init__(self, name: str) -> None:
        self.cell, family, attributes = CELLS[name]
        rng = np.random.default_rng(0)
        tensor = lambda *shape: torch.tensor(rng.standard_normal(shape), requires_grad=True)
        self.module = getattr(torch.nn, family)(FEATURES, UNITS, **attributes, dtype=torch.float64)
        with torch.no_grad():
            for weight in self.module.parameters():
                weight.copy_(0.5 * torch.tensor(rng.standard_normal(tuple(weight.shape))))
        self.xs = tensor(STEPS, ROWS, FEATURES)
        self.states = [tensor(1, ROWS, UNITS) for _ in range(2 if family == "LSTM" else 1)]
        self.inputs = [*self.module.parameters(), self.xs, *self.states]

    def outputs(self) -> list[Any]:
        """All outputs, and the last states."""
        ys, last = self.module(self.xs, tuple(self.states) if len(self.states) == 2 else self.states[0])
        return [ys, *(last if isinstance(last, tuple) else (last,))]

    def loss(self) -> Any:
        """A number of which no derivative is constant."""
        return sum(torch.sin(out).sum() for out in self.outputs())

    def gradients(self) -> list[Any]:
        """To every weight, the inputs and the states, still differentiable."""
        return list(torch.autograd.grad(self.loss(), self.inputs, create_graph=True))

    def gradients_of_gradient_norm(self) -> list[Any]:
        """PyTorch's own double backward."""
        norm = sum((gradient**2).sum() for gradient in self.gradients())
        return list(torch.autograd.grad(norm, self.inputs))


def ours(tensors: list[Any]) -> list[Any]:
    """PyTorch's inputs as arrays in its order: w_ih, w_hh, b_ih, b_hh, xs, states."""
    return [jnp.asarray(tensor.detach().numpy()) for tensor in tensors]


def run(name: str, kernel: str, inputs: list[Any]) -> list[Any]:
    """`unroll` as a function of PyTorch's own inputs, so that derivatives are to the same things."""
    cell = CELLS[name][0]
    w_ih, w_hh, b_ih, b_hh, xs, *states = inputs
    if name == "gru_after":
        inside = jnp.arange(3 * UNITS) >= 2 * UNITS
        params: Any = rj.GRUParams(w_ih.T, w_hh.T, b_ih + jnp.where(inside, 0, b_hh), b_hh[2 * UNITS :])
    else:
        params = (rj.LSTMParams if name == "lstm" else rj.RNNParams)(w_ih.T, w_hh.T, b_ih + b_hh)
    carry = (rj.LSTMCarry if name == "lstm" else rj.RNNCarry)(*(state[0] for state in states))
    last, ys = rj.unroll(cell, params, xs, carry, implementation=kernel)
    return [ys, *(leaf[None] for leaf in last)]


@functools.cache
def derivatives(name: str, kernel: str) -> Any:
    """Outputs, gradients, and gradients of the gradient's norm."""
    inputs = ours(Torch(name).inputs)
    loss = lambda inputs: sum(jnp.sum(jnp.sin(out)) for out in run(name, kernel, inputs))
    norm = lambda inputs: sum(jnp.sum(gradient**2) for gradient in jax.grad(loss)(inputs))
    everything = lambda inputs: (run(name, kernel, inputs), jax.grad(loss)(inputs), jax.grad(norm)(inputs))
    return jax.jit(everything, compiler_options=cases.FAST_TO_COMPILE)(inputs)


@over_cells
@cases.over_kernels
def test_outputs_equal_torch(kernel: str, name: str) -> None:
    cases.assert_close(derivatives(name, kernel)[0], ours(Torch(name).outputs()), FIRST)


@over_cells
@cases.over_kernels
def test_gradients_equal_torch(kernel: str, name: str) -> None:
    cases.assert_close(derivatives(name, kernel)[1], ours(Torch(name).gradients()), FIRST)


@over_cells
@cases.over_kernels
def test_second_derivatives_equal_torch(kernel: str, name: str) -> None:
    cases.assert_close(derivatives(name, kernel)[2], ours(Torch(name).gradients_of_gradient_norm()), SECOND)


@pytest.mark.parametrize("name", ["lstm", "gru_after"])
@cases.over_kernels
def test_ragged_rows_equal_packed_sequences_of_torch(kernel: str, name: str) -> None:
    reference = Torch(name)
    lengths = np.array([STEPS, 3, 1])
    packed = torch.nn.utils.rnn.pack_padded_sequence(reference.xs, torch.tensor(lengths))
    states = tuple(reference.states) if name == "lstm" else reference.states[0]
    ys, last = reference.module(packed, states)
    ys, _ = torch.nn.utils.rnn.pad_packed_sequence(ys, total_length=STEPS)
    cell = CELLS[name][0]
    w_ih, w_hh, b_ih, b_hh, xs, *states = ours(reference.inputs)
    if name == "lstm":
        params: Any = rj.LSTMParams(w_ih.T, w_hh.T, b_ih + b_hh)
        carry: Any = rj.LSTMCarry(*(state[0] for state in states))
    else:
        both = b_ih + b_hh.at[2 * UNITS :].set(0)
        params, carry = rj.GRUParams(w_ih.T, w_hh.T, both, b_hh[2 * UNITS :]), rj.RNNCarry(states[0][0])
    final, got = rj.unroll(cell, params, xs, carry, lengths=lengths, implementation=kernel)
    cases.assert_close(got, ours([ys])[0], FIRST)
    cases.assert_close([leaf[None] for leaf in final], ours(last if name == "lstm" else [last]), FIRST)


def in_our_layout(name: str, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    """The parameters of one direction of one layer."""
    if name == "lstm":
        return rj.LSTMParams(w_ih.T, w_hh.T, b_ih + b_hh)
    return rj.GRUParams(w_ih.T, w_hh.T, b_ih + b_hh.at[2 * UNITS :].set(0), b_hh[2 * UNITS :])


@pytest.mark.parametrize("name", ["lstm", "gru_after"])
def test_layers_equal_torch(name: str) -> None:
    # Two layers, each in both directions, over ragged rows, with states and all gradients.
    cell, family, attributes = CELLS[name]
    reference = Torch(name)
    rng = np.random.default_rng(1)
    tensor = lambda *shape: torch.tensor(rng.standard_normal(shape), requires_grad=True)
    module = getattr(torch.nn, family)(
        FEATURES, UNITS, num_layers=2, bidirectional=True, **attributes, dtype=torch.float64
    )
    states = [tensor(4, ROWS, UNITS) for _ in reference.states]
    lengths = np.array([STEPS, 3, 1])
    packed = torch.nn.utils.rnn.pack_padded_sequence(reference.xs, torch.tensor(lengths))
    ys, last = module(packed, tuple(states) if name == "lstm" else states[0])
    ys, _ = torch.nn.utils.rnn.pad_packed_sequence(ys, total_length=STEPS)
    outputs = [ys, *(last if name == "lstm" else (last,))]
    inputs = [*module.parameters(), reference.xs, *states]
    gradients = torch.autograd.grad(sum(torch.sin(out).sum() for out in outputs), inputs)

    stack = rj.Stack([rj.Bidirectional(cell), rj.Bidirectional(cell)])
    kind = rj.LSTMCarry if name == "lstm" else rj.RNNCarry

    def run(inputs: list[Any]) -> list[Any]:
        weights, xs, states = inputs[:16], inputs[16], inputs[17:]
        each = [in_our_layout(name, *weights[start : start + 4]) for start in range(0, 16, 4)]
        params = tuple(rj.BidirectionalParams(*each[start : start + 2]) for start in (0, 2))
        at = lambda number: kind(*(state[number] for state in states))
        carry = tuple(rj.BidirectionalCarry(at(start), at(start + 1)) for start in (0, 2))
        last, ys = stack.apply(params, xs, carry, lengths=lengths)
        directions = [direction for layer in last for direction in layer]
        return [ys, *(jnp.stack(leaves) for leaves in zip(*directions, strict=True))]

    cases.assert_close(run(ours(inputs)), ours(outputs), FIRST)
    loss = lambda inputs: sum(jnp.sum(jnp.sin(out)) for out in run(inputs))
    cases.assert_close(jax.jit(jax.grad(loss))(ours(inputs)), ours(gradients), FIRST)
