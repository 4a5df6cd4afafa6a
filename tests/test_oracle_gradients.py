"""The gradient oracles against differences of the forward oracles, and against PyTorch."""

from typing import Any

import numpy as np
import pytest

from tests import oracle_gradients, oracles

STEPS, ROWS, FEATURES, UNITS = 4, 3, 5, 2
# Name, number of gates, parameters [H] besides, leaves of the carry.
CELLS = {
    "rnn_tanh": (1, 0, 1),
    "rnn_relu": (1, 0, 1),
    "lstm": (4, 0, 2),
    "peephole_lstm": (4, 3, 2),
    "coupled_lstm": (3, 0, 2),
    "gru_after": (3, 1, 1),
    "gru_before": (3, 0, 1),
}
over_cells = pytest.mark.parametrize("name", CELLS)
# What PyTorch has: its family and options.
TORCH: dict[str, tuple[str, dict[str, str]]] = {
    "rnn_tanh": ("RNN", {}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", {}),
    "gru_after": ("GRU", {}),
}


def problem(name: str) -> dict[str, Any]:
    """Random parameters, inputs and carry, and the weights of a loss."""
    gates, inner, leaves = CELLS[name]
    draw = np.random.default_rng(0).standard_normal
    params = (
        draw((FEATURES, gates * UNITS)),
        draw((UNITS, gates * UNITS)),
        draw(gates * UNITS),
        *(draw(UNITS) for _ in range(inner)),
    )
    state = lambda: tuple(draw((ROWS, UNITS)) for _ in range(leaves))
    return {
        "params": params, "xs": draw((STEPS, ROWS, FEATURES)), "carry": state(), "d_carry": state(),
        "d_ys": draw((STEPS, ROWS, UNITS)),
    }  # fmt: skip


def gradients(name: str, params: Any, xs: Any, carry: Any, d_carry: Any, d_ys: Any) -> list[np.ndarray]:
    """By the oracle: to parameters, inputs and carry."""
    carries, _ = oracle_gradients.run(getattr(oracles, name), params, xs, carry)
    d_params, d_xs, d_first = oracle_gradients.run_backward(
        getattr(oracle_gradients, name), params, xs, carries, d_carry, d_ys
    )
    return [*d_params, d_xs, *d_first]


@over_cells
def test_gradient_equals_differences_of_the_loss(name: str) -> None:
    given = problem(name)
    inputs = [*given["params"], given["xs"], *given["carry"]]
    count = len(given["params"])

    def loss(inputs: list[np.ndarray]) -> float:
        """The sum of outputs and last carry, each times its weights."""
        carries, ys = oracle_gradients.run(
            getattr(oracles, name), tuple(inputs[:count]), inputs[count], tuple(inputs[count + 1 :])
        )
        products = [ys * given["d_ys"], *(a * b for a, b in zip(carries[-1], given["d_carry"], strict=True))]
        return float(sum(product.sum() for product in products))

    for position, gradient in enumerate(gradients(name, **given)):
        for index in np.ndindex(gradient.shape):
            moved = []
            for sign in (1, -1):
                changed = [leaf.copy() for leaf in inputs]
                changed[position][index] += sign * 1e-5
                moved.append(loss(changed))
            # Central differences of step 1e-5: error of order 1e-10 by curvature and 1e-11 by rounding.
            np.testing.assert_allclose(gradient[index], (moved[0] - moved[1]) / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", TORCH)
def test_gradient_equals_torch(name: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle where it is installed, not a dependency")
    given = problem(name)
    family, options = TORCH[name]
    module = getattr(torch.nn, family)(FEATURES, UNITS, dtype=torch.float64, **options)
    tensor = lambda array: torch.tensor(array, requires_grad=True)
    w_x, w_h, b, *inner = given["params"]
    recurrent = np.zeros_like(b)
    if inner:
        recurrent[-UNITS:] = inner[0]
    with torch.no_grad():
        for weight, value in zip(module.parameters(), (w_x.T, w_h.T, b, recurrent), strict=True):
            weight.copy_(torch.tensor(value))
    xs, state = tensor(given["xs"]), [tensor(leaf[None]) for leaf in given["carry"]]
    ys, last = module(xs, tuple(state) if len(state) == 2 else state[0])
    last = last if isinstance(last, tuple) else (last,)
    loss = (ys * torch.tensor(given["d_ys"])).sum()
    for leaf, weight in zip(last, given["d_carry"], strict=True):
        loss = loss + (leaf[0] * torch.tensor(weight)).sum()
    loss.backward()
    d_w_x, d_w_h, d_b, d_recurrent = (weight.grad.numpy() for weight in module.parameters())
    expected = [d_w_x.T, d_w_h.T, d_b, *([d_recurrent[-UNITS:]] if inner else []), xs.grad.numpy()]
    expected += [leaf.grad[0].numpy() for leaf in state]
    for got, reference in zip(gradients(name, **given), expected, strict=True):
        # Float64, four steps.
        np.testing.assert_allclose(got, reference, rtol=0, atol=1e-12)
