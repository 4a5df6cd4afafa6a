"""Float64 NumPy oracles, written gate by gate from the papers: one row, one step at a time.

Nothing here comes from the library under test. A step is a function `(params, carry, x) -> (carry, y)`
on one row: `params` and `carry` are tuples of arrays, `x [D]`, `y [H]`. The equations hold for
leading batch axes as well.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Row = tuple[np.ndarray, ...]
Step = Callable[[Row, Row, np.ndarray], tuple[Row, np.ndarray]]


def sigmoid(a: np.ndarray) -> np.ndarray:
    """The logistic function, by its definition."""
    return 1.0 / (1.0 + np.exp(-a))


def gate(matrix: np.ndarray, index: int, units: int) -> np.ndarray:
    """The columns (or entries) of one gate."""
    return matrix[..., index * units : (index + 1) * units]


def rnn_tanh(params: Row, carry: Row, x: np.ndarray) -> tuple[Row, np.ndarray]:
    """Elman (1990): h' = tanh(W x + U h + b)."""
    w, u, b = params
    (h,) = carry
    h = np.tanh(x @ w + h @ u + b)
    return (h,), h


def rnn_relu(params: Row, carry: Row, x: np.ndarray) -> tuple[Row, np.ndarray]:
    """Le, Jaitly, Hinton (2015): h' = max(0, W x + U h + b)."""
    w, u, b = params
    (h,) = carry
    h = np.maximum(0.0, x @ w + h @ u + b)
    return (h,), h


def lstm(params: Row, carry: Row, x: np.ndarray) -> tuple[Row, np.ndarray]:
    """Gers et al. (2000), gates i, f, g, o in this order."""
    w, u, b = params
    h, c = carry
    n = h.shape[-1]
    pre = lambda index: x @ gate(w, index, n) + h @ gate(u, index, n) + gate(b, index, n)
    input_gate = sigmoid(pre(0))
    forget_gate = sigmoid(pre(1))
    candidate = np.tanh(pre(2))
    output_gate = sigmoid(pre(3))
    c = forget_gate * c + input_gate * candidate
    h = output_gate * np.tanh(c)
    return (h, c), h


def gru_after(params: Row, carry: Row, x: np.ndarray) -> tuple[Row, np.ndarray]:
    """cuDNN's GRU: the reset gate acts on U h + b_n; gates r, z, n in this order."""
    w, u, b, b_n = params
    (h,) = carry
    n = h.shape[-1]
    reset = sigmoid(x @ gate(w, 0, n) + h @ gate(u, 0, n) + gate(b, 0, n))
    update = sigmoid(x @ gate(w, 1, n) + h @ gate(u, 1, n) + gate(b, 1, n))
    candidate = np.tanh(x @ gate(w, 2, n) + gate(b, 2, n) + reset * (h @ gate(u, 2, n) + b_n))
    h = (1.0 - update) * candidate + update * h
    return (h,), h


def gru_before(params: Row, carry: Row, x: np.ndarray) -> tuple[Row, np.ndarray]:
    """Cho et al. (2014): the reset gate acts on h; gates r, z, n in this order."""
    w, u, b = params
    (h,) = carry
    n = h.shape[-1]
    reset = sigmoid(x @ gate(w, 0, n) + h @ gate(u, 0, n) + gate(b, 0, n))
    update = sigmoid(x @ gate(w, 1, n) + h @ gate(u, 1, n) + gate(b, 1, n))
    candidate = np.tanh(x @ gate(w, 2, n) + gate(b, 2, n) + (reset * h) @ gate(u, 2, n))
    h = (1.0 - update) * candidate + update * h
    return (h,), h


def peephole_lstm(params: Row, carry: Row, x: np.ndarray) -> tuple[Row, np.ndarray]:
    """Gers, Schraudolph, Schmidhuber (2002), as in Greff et al. (2017): i and f see the old cell state, o the new."""
    w, u, b, p_i, p_f, p_o = params
    h, c = carry
    n = h.shape[-1]
    pre = lambda index: x @ gate(w, index, n) + h @ gate(u, index, n) + gate(b, index, n)
    new = sigmoid(pre(1) + p_f * c) * c + sigmoid(pre(0) + p_i * c) * np.tanh(pre(2))
    h = sigmoid(pre(3) + p_o * new) * np.tanh(new)
    return (h, new), h


def learned_start(params: Row, carry: Row, x: np.ndarray) -> tuple[Row, np.ndarray]:
    """The same with one parameter more, the initial carry, of which a step knows nothing."""
    return peephole_lstm(params[:-1], carry, x)


def coupled_lstm(params: Row, carry: Row, x: np.ndarray) -> tuple[Row, np.ndarray]:
    """Greff et al. (2017), "CIFG": the input gate is what the forget gate leaves; gates f, g, o in this order."""
    w, u, b = params
    h, c = carry
    n = h.shape[-1]
    pre = lambda index: x @ gate(w, index, n) + h @ gate(u, index, n) + gate(b, index, n)
    forget_gate = sigmoid(pre(0))
    input_gate = 1.0 - forget_gate
    c = forget_gate * c + input_gate * np.tanh(pre(1))
    h = sigmoid(pre(2)) * np.tanh(c)
    return (h, c), h


def mgu(params: Row, carry: Row, x: np.ndarray) -> tuple[Row, np.ndarray]:
    """A minimal gated unit with its gate behind the matmul, and a gain on each column of U; gates f, n."""
    w, u, b, gain = params
    (h,) = carry
    n = h.shape[-1]
    u = u * gain[np.newaxis, :]
    forget = sigmoid(x @ gate(w, 0, n) + h @ gate(u, 0, n) + gate(b, 0, n))
    candidate = np.tanh(x @ gate(w, 1, n) + gate(b, 1, n) + forget * (h @ gate(u, 1, n)))
    h = (1.0 - forget) * h + forget * candidate
    return (h,), 2.0 * h


def unroll(
    step: Step,
    params: Row,
    xs: np.ndarray,
    carry: Row,
    initial: Row,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reverse: bool = False,
) -> tuple[Row, np.ndarray, Row]:
    """Every row by itself, every step by itself.

    Args:
      xs: `[T, ..., D]`.
      carry: what the first step consumes, leaves `[..., H]`.
      initial: what a reset restores, leaves `[..., H]`.

    Returns:
      The final carry, the outputs `[T, ..., H]`, and the carry after each step.
    """
    steps, batch = xs.shape[0], xs.shape[1:-1]
    final = tuple(np.array(leaf, np.float64) for leaf in carry)
    ys = np.zeros((*xs.shape[:-1], final[0].shape[-1]))
    carries = tuple(np.zeros((steps, *leaf.shape)) for leaf in final)
    for row in np.ndindex(*batch):
        now = tuple(np.array(leaf[row]) for leaf in final)
        for t in reversed(range(steps)) if reverse else range(steps):
            true_step = True
            if lengths is not None:
                true_step = bool(t < np.asarray(lengths)[row])
            if mask is not None:
                true_step = bool(np.asarray(mask)[(t, *row)])
            if true_step:
                if resets is not None and np.asarray(resets)[(t, *row)]:
                    now = tuple(np.array(leaf[row]) for leaf in initial)
                now, ys[(t, *row)] = step(params, now, xs[(t, *row)])
            for leaf, value in zip(carries, now, strict=True):
                leaf[(t, *row)] = value
        for leaf, value in zip(final, now, strict=True):
            leaf[row] = value
    return final, ys, carries
