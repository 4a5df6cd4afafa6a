"""Float64 NumPy gradients of the oracles, derived by hand: all rows at once, one step at a time.

The derivative of a step is a function `(params, carry, x, d_carry, d_y) -> (d_params, d_carry, d_x)`: from
the gradients of what the step returned to those of what it was given. Arrays have a batch axis:
`x [B, D]`, leaves of the carry `[B, H]`. Nothing here comes from the library under test.
"""

from collections.abc import Callable

import numpy as np

from tests.oracles import Row, Step, gate, sigmoid

Backward = Callable[[Row, Row, np.ndarray, Row, np.ndarray], tuple[Row, Row, np.ndarray]]


def rnn_tanh(params: Row, carry: Row, x: np.ndarray, d_carry: Row, d_y: np.ndarray) -> tuple[Row, Row, np.ndarray]:
    """With a = W x + U h + b: da = (1 - tanh(a)^2) dh'."""
    w, u, b = params
    (h,) = carry
    d_a = (d_carry[0] + d_y) * (1.0 - np.tanh(x @ w + h @ u + b) ** 2)
    return (x.T @ d_a, h.T @ d_a, d_a.sum(0)), (d_a @ u.T,), d_a @ w.T


def rnn_relu(params: Row, carry: Row, x: np.ndarray, d_carry: Row, d_y: np.ndarray) -> tuple[Row, Row, np.ndarray]:
    """With a = W x + U h + b: da = dh' where a > 0."""
    w, u, b = params
    (h,) = carry
    d_a = (d_carry[0] + d_y) * (x @ w + h @ u + b > 0.0)
    return (x.T @ d_a, h.T @ d_a, d_a.sum(0)), (d_a @ u.T,), d_a @ w.T


def lstm(params: Row, carry: Row, x: np.ndarray, d_carry: Row, d_y: np.ndarray) -> tuple[Row, Row, np.ndarray]:
    """c' = f c + i g, h' = o tanh(c'): first through h', then through c'."""
    w, u, b = params
    h, c = carry
    a = x @ w + h @ u + b
    n = h.shape[-1]
    i, f, g, o = sigmoid(gate(a, 0, n)), sigmoid(gate(a, 1, n)), np.tanh(gate(a, 2, n)), sigmoid(gate(a, 3, n))
    squashed = np.tanh(f * c + i * g)
    d_h = d_carry[0] + d_y
    d_c = d_carry[1] + d_h * o * (1.0 - squashed**2)
    d_i, d_f, d_g, d_o = d_c * g, d_c * c, d_c * i, d_h * squashed
    d_a = np.concatenate([d_i * i * (1.0 - i), d_f * f * (1.0 - f), d_g * (1.0 - g**2), d_o * o * (1.0 - o)], axis=-1)
    return (x.T @ d_a, h.T @ d_a, d_a.sum(0)), (d_a @ u.T, d_c * f), d_a @ w.T


def peephole_lstm(params: Row, carry: Row, x: np.ndarray, d_carry: Row, d_y: np.ndarray) -> tuple[Row, Row, np.ndarray]:
    """As in an LSTM; o hands on to the new c, which it sees, and i and f to the old one."""
    w, u, b, p_i, p_f, p_o = params
    h, c = carry
    a = x @ w + h @ u + b
    n = h.shape[-1]
    i, f, g = sigmoid(gate(a, 0, n) + p_i * c), sigmoid(gate(a, 1, n) + p_f * c), np.tanh(gate(a, 2, n))
    new = f * c + i * g
    o, squashed = sigmoid(gate(a, 3, n) + p_o * new), np.tanh(new)
    d_h = d_carry[0] + d_y
    d_o = d_h * squashed * o * (1.0 - o)
    d_new = d_carry[1] + d_h * o * (1.0 - squashed**2) + d_o * p_o
    d_i, d_f = d_new * g * i * (1.0 - i), d_new * c * f * (1.0 - f)
    d_a = np.concatenate([d_i, d_f, d_new * i * (1.0 - g**2), d_o], axis=-1)
    d_peepholes = ((d_i * c).sum(0), (d_f * c).sum(0), (d_o * new).sum(0))
    d_c = d_new * f + d_i * p_i + d_f * p_f
    return (x.T @ d_a, h.T @ d_a, d_a.sum(0), *d_peepholes), (d_a @ u.T, d_c), d_a @ w.T


def coupled_lstm(params: Row, carry: Row, x: np.ndarray, d_carry: Row, d_y: np.ndarray) -> tuple[Row, Row, np.ndarray]:
    """c' = f c + (1 - f) g, h' = o tanh(c')."""
    w, u, b = params
    h, c = carry
    a = x @ w + h @ u + b
    n = h.shape[-1]
    f, g, o = sigmoid(gate(a, 0, n)), np.tanh(gate(a, 1, n)), sigmoid(gate(a, 2, n))
    squashed = np.tanh(f * c + (1.0 - f) * g)
    d_h = d_carry[0] + d_y
    d_c = d_carry[1] + d_h * o * (1.0 - squashed**2)
    d_f, d_g, d_o = d_c * (c - g), d_c * (1.0 - f), d_h * squashed
    d_a = np.concatenate([d_f * f * (1.0 - f), d_g * (1.0 - g**2), d_o * o * (1.0 - o)], axis=-1)
    return (x.T @ d_a, h.T @ d_a, d_a.sum(0)), (d_a @ u.T, d_c * f), d_a @ w.T


def gru_after(params: Row, carry: Row, x: np.ndarray, d_carry: Row, d_y: np.ndarray) -> tuple[Row, Row, np.ndarray]:
    """n = tanh(a_n + r m) with m = U_n h + b_n: m is reached through r alone."""
    w, u, b, b_n = params
    (h,) = carry
    n = h.shape[-1]
    a, recurrent = x @ w + b, h @ u
    r = sigmoid(gate(a, 0, n) + gate(recurrent, 0, n))
    z = sigmoid(gate(a, 1, n) + gate(recurrent, 1, n))
    m = gate(recurrent, 2, n) + b_n
    candidate = np.tanh(gate(a, 2, n) + r * m)
    d_h = d_carry[0] + d_y
    d_n = d_h * (1.0 - z) * (1.0 - candidate**2)
    d_r = d_n * m * r * (1.0 - r)
    d_z = d_h * (h - candidate) * z * (1.0 - z)
    d_a = np.concatenate([d_r, d_z, d_n], axis=-1)
    d_recurrent = np.concatenate([d_r, d_z, d_n * r], axis=-1)
    d_params = (x.T @ d_a, h.T @ d_recurrent, d_a.sum(0), (d_n * r).sum(0))
    return d_params, (d_h * z + d_recurrent @ u.T,), d_a @ w.T


def gru_before(params: Row, carry: Row, x: np.ndarray, d_carry: Row, d_y: np.ndarray) -> tuple[Row, Row, np.ndarray]:
    """n = tanh(a_n + U_n (r h)): the candidate's matmul stands behind the reset gate."""
    w, u, b = params
    (h,) = carry
    n = h.shape[-1]
    a = x @ w + b
    r = sigmoid(gate(a, 0, n) + h @ gate(u, 0, n))
    z = sigmoid(gate(a, 1, n) + h @ gate(u, 1, n))
    candidate = np.tanh(gate(a, 2, n) + (r * h) @ gate(u, 2, n))
    d_h = d_carry[0] + d_y
    d_n = d_h * (1.0 - z) * (1.0 - candidate**2)
    d_kept = d_n @ gate(u, 2, n).T
    d_r = d_kept * h * r * (1.0 - r)
    d_z = d_h * (h - candidate) * z * (1.0 - z)
    d_a = np.concatenate([d_r, d_z, d_n], axis=-1)
    d_u = np.concatenate([h.T @ d_r, h.T @ d_z, (r * h).T @ d_n], axis=-1)
    d_carried = d_h * z + d_kept * r + d_r @ gate(u, 0, n).T + d_z @ gate(u, 1, n).T
    return (x.T @ d_a, d_u, d_a.sum(0)), (d_carried,), d_a @ w.T


def run(
    step: Step, params: Row, xs: np.ndarray, carry: Row, keep: np.ndarray | None = None
) -> tuple[list[Row], np.ndarray]:
    """The carry before each step and after the last, and the outputs `[T, B, H]`; `xs [T, B, D]`.

    Where `keep [T, B]` is False the carry stays as it is and the output is 0.
    """
    carries, ys = [carry], []
    for t, x in enumerate(xs):
        new, y = step(params, carry, x)
        if keep is not None:
            new, y = _where(keep[t], new, carry), np.where(keep[t][:, None], y, 0.0)
        carry = new
        carries.append(carry)
        ys.append(y)
    return carries, np.stack(ys)


def run_backward(
    backward: Backward,
    params: Row,
    xs: np.ndarray,
    carries: list[Row],
    d_carry: Row,
    d_ys: np.ndarray,
    keep: np.ndarray | None = None,
) -> tuple[Row, np.ndarray, Row]:
    """Backpropagation through time behind `run`: gradients of the parameters, the inputs and the first carry."""
    d_params: Row = tuple(np.zeros_like(leaf) for leaf in params)
    d_xs = np.zeros_like(xs)
    for t in reversed(range(len(xs))):
        zeros = tuple(np.zeros_like(leaf) for leaf in d_carry)
        d_y, d_new, d_held = d_ys[t], d_carry, zeros
        if keep is not None:
            # Of a step that changes nothing, the gradient of the new carry is that of the old one.
            d_y, d_new, d_held = (
                np.where(keep[t][:, None], d_y, 0.0),
                _where(keep[t], d_new, zeros),
                _where(keep[t], zeros, d_new),
            )
        d_step, d_carry, d_xs[t] = backward(params, carries[t], xs[t], d_new, d_y)
        d_carry = tuple(a + b for a, b in zip(d_carry, d_held, strict=True))
        for total, new in zip(d_params, d_step, strict=True):
            np.add(total, new, out=total)
    return d_params, d_xs, d_carry


def _where(keep: np.ndarray, new: Row, old: Row) -> Row:
    """For each row one or the other."""
    return tuple(np.where(keep[:, None], a, b) for a, b in zip(new, old, strict=True))
