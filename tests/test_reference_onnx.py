"""ONNX Runtime as a live reference of the forward pass: ragged rows, both directions, initial states."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

import recurrent_jax as rj
from recurrent_jax.kernels import by_name, mosaic_gpu
from tests import cases

STEPS, ROWS, FEATURES, UNITS = 5, 4, 3, 4
LENGTHS = np.array([STEPS, 1, 3, 2], np.int32)
# Both sides are float32, with sums of seven terms and gates by other approximations of exp: some dozen roundings.
FLOAT32 = 1e-5
# ONNX lists gates as LSTM i, o, f, c and GRU z, r, h; here they are i, f, g, o and r, z, n. Peepholes are i, o, f.
GATES = {"RNN": (0,), "LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}

CELLS = {
    "rnn_tanh": ("RNN", rj.RNN(UNITS), {"activations": ["Tanh"]}),
    "rnn_relu": ("RNN", rj.RNN(UNITS, activation="relu"), {"activations": ["Relu"]}),
    "lstm": ("LSTM", rj.LSTM(UNITS), {}),
    "peephole_lstm": ("LSTM", rj.PeepholeLSTM(UNITS), {}),
    "coupled_lstm": ("LSTM", rj.CoupledLSTM(UNITS), {"input_forget": 1}),
    "gru_after": ("GRU", rj.GRU(UNITS), {"linear_before_reset": 1}),
    "gru_before": ("GRU", rj.GRU(UNITS, reset="before"), {"linear_before_reset": 0}),
}


def session(op: str, reverse: bool, attributes: dict[str, Any], given: set[str]) -> onnxruntime.InferenceSession:
    """A model of one node with the inputs that are given."""
    order = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    results = ["Y", "Y_h", "Y_c"][: 3 if op == "LSTM" else 2]
    node = onnx.helper.make_node(
        op,
        [name for name in order if name in given],
        results,
        hidden_size=UNITS,
        direction="reverse" if reverse else "forward",
        **attributes,
    )
    info = lambda name, kind=onnx.TensorProto.FLOAT: onnx.helper.make_tensor_value_info(name, kind, None)
    inputs = [info(name) for name in order if name in given - {"sequence_lens"}]
    inputs.append(info("sequence_lens", onnx.TensorProto.INT32))
    graph = onnx.helper.make_graph([node], "reference", inputs, list(map(info, results)))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def ordered(op: str, matrix: np.ndarray) -> np.ndarray:
    """From ONNX's rows of gates `[G*H, n]` to columns in our order `[n, G*H]`."""
    blocks = np.split(matrix, len(GATES[op]))
    return np.concatenate([blocks[index] for index in GATES[op]]).T


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", CELLS)
@cases.over_kernels
def test_outputs_equal_onnxruntime(kernel: str, name: str, reverse: bool) -> None:
    op, cell, attributes = CELLS[name]
    if reason := cases.refusal(cell, by_name(kernel)):
        pytest.skip(reason)
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    size = len(GATES[op]) * UNITS
    w, r, b = 0.5 * normal(1, size, FEATURES), 0.5 * normal(1, size, UNITS), 0.5 * normal(1, 2 * size)
    states = {name: normal(1, ROWS, UNITS) for name in ("initial_h", "initial_c")[: 2 if op == "LSTM" else 1]}
    xs = normal(STEPS, ROWS, FEATURES)
    given = {"X": xs, "W": w, "R": r, "B": b, "sequence_lens": LENGTHS, **states}
    if name == "peephole_lstm":
        given["P"] = normal(1, 3 * UNITS)
    expected, *last = session(op, reverse, attributes, set(given)).run(None, given)

    w_b, r_b = ordered(op, b[0, :size, None])[0], ordered(op, b[0, size:, None])[0]
    w_x, w_h = ordered(op, w[0]), ordered(op, r[0])
    if name == "gru_after":
        inner = np.concatenate([r_b[: 2 * UNITS], np.zeros(UNITS, np.float32)])
        params: Any = rj.GRUParams(w_x, w_h, w_b + inner, r_b[2 * UNITS :])
    elif name == "gru_before":
        params = rj.GRUParams(w_x, w_h, w_b + r_b, None)
    elif name == "peephole_lstm":
        p_i, p_o, p_f = np.split(given["P"][0], 3)
        params = rj.PeepholeLSTMParams(w_x, w_h, w_b + r_b, p_i, p_f, p_o)
    elif name == "coupled_lstm":
        # There it is i that is kept, and f = 1 - i: what is left of i is f here. Of its own f nothing is read.
        kept = lambda leaf: np.concatenate([-leaf[..., :UNITS], leaf[..., 2 * UNITS :]], axis=-1)
        params = rj.CoupledLSTMParams(kept(w_x), kept(w_h), kept(w_b + r_b))
    else:
        params = (rj.LSTMParams if op == "LSTM" else rj.RNNParams)(w_x, w_h, w_b + r_b)
    # What multiplies float32 with fewer bits than the reference is held to it in float64.
    dtype = jnp.float64 if kernel == mosaic_gpu.NAME else jnp.float32
    cell = dataclasses.replace(cell, param_dtype=dtype)
    params = type(params)(*(None if leaf is None else jnp.asarray(leaf, dtype) for leaf in params))
    carry = (rj.LSTMCarry if op == "LSTM" else rj.RNNCarry)(*(jnp.asarray(s[0], dtype) for s in states.values()))
    xs = jnp.asarray(xs, dtype)

    final, ys = rj.unroll(cell, params, xs, carry, lengths=LENGTHS, reverse=reverse, implementation=kernel)
    np.testing.assert_allclose(ys, expected[:, 0], rtol=0, atol=FLOAT32)
    for got, want in zip(final, last, strict=True):
        np.testing.assert_allclose(got, want[0], rtol=0, atol=FLOAT32)
