"""Every JAX peer computes the oracle's function, or says in words why it can't."""

import importlib
from typing import Any

import numpy as np
import pytest
from jax.experimental import rnn

from benchmarks.cases import CASES
from benchmarks.cells import CELLS, HEADLINE
from benchmarks.contestants import PEERS, load, missing
from benchmarks.contestants.base import Refused
from benchmarks.contestants.jax_program import JaxProgram
from benchmarks.problem import FORWARD, GRADIENT, MODES, PADDED, STEP, TRAIN, Job, draw, error, tolerance, truth

COMPUTED = {
    "Flax Linen": ("RNN", "LSTM", "GRU", "RNN-relu"),
    "Flax NNX": ("RNN", "LSTM", "GRU", "RNN-relu"),
    "Haiku": ("LSTM", "RNN-relu", "GRU-before"),
    "Equinox": ("LSTM", "GRU"),
    "Keras 3": ("RNN", "LSTM", "GRU", "RNN-relu", "GRU-before"),
}
PAIRS = [(peer, cell) for peer, cells in COMPUTED.items() for cell in cells]
# Rows of the others have no lengths of their own.
WITH_LENGTHS = ("PyTorch", "Flax Linen", "Flax NNX")
# A gradient is one of the forward pass; the variants are the same code but for an option.
QUESTIONS = [
    (*pair, mode)
    for pair in PAIRS
    for mode in MODES
    if (mode in (STEP, GRADIENT) or pair[1] in HEADLINE) and (mode != PADDED or pair[0] in WITH_LENGTHS)
]
OTHERS = [(peer, cell) for peer, cells in COMPUTED.items() for cell in CELLS if cell not in cells]
CUDNN = "jax.experimental.rnn"


def tiny(cell: str, mode: str, dtype: str = "float32") -> Job:
    return Job(cell, "tiny", CASES["tiny"], dtype, mode)


def peer(name: str) -> Any:
    if reason := missing(name):
        pytest.skip(reason)
    return load(name)


def error_of(contestant: Any, job: Job) -> float:
    return error(contestant.build(job, draw(job, 1)).answer(), truth(job))


@pytest.mark.parametrize(("name", "cell", "mode"), QUESTIONS)
def test_answer_is_the_oracles(name: str, cell: str, mode: str) -> None:
    contestant, job = peer(name), tiny(cell, mode)
    assert error_of(contestant, job) < 1e-5


@pytest.mark.parametrize("name", COMPUTED)
def test_half_precision(name: str) -> None:
    # Of one cell: XLA is slow to compile it for a CPU.
    job = tiny("LSTM", GRADIENT, "bfloat16")
    assert error_of(peer(name), job) < tolerance(job, "cpu")


@pytest.mark.parametrize(("name", "cell"), OTHERS)
def test_another_cell_is_refused_in_words(name: str, cell: str) -> None:
    contestant, job = peer(name), tiny(cell, FORWARD)
    with pytest.raises(Refused, match=r"^\w+ .* \S+$"):
        contestant.build(job, draw(job, 1))


@pytest.mark.parametrize("name", [name for name in COMPUTED if name not in WITH_LENGTHS])
def test_rows_without_lengths_are_refused(name: str) -> None:
    contestant, job = peer(name), tiny("LSTM", PADDED)
    with pytest.raises(Refused, match=f"rows of {name} have no lengths of their own"):
        contestant.build(job, draw(job, 1))


def test_keras_on_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    contestant, job = peer("Keras 3"), tiny("LSTM", FORWARD)
    monkeypatch.setattr("keras.backend.backend", lambda: "torch")
    with pytest.raises(Refused, match="its backend torch"):
        contestant.build(job, draw(job, 1))


@pytest.mark.parametrize(
    ("cell", "dtype", "why"),
    [("GRU", "float32", "only an LSTM"), ("LSTM", "bfloat16", "float32 only"), ("LSTM", "float32", "NVIDIA GPU")],
)
def test_cudnn_is_refused_where_it_is_not(monkeypatch: pytest.MonkeyPatch, cell: str, dtype: str, why: str) -> None:
    job = tiny(cell, FORWARD, dtype)
    monkeypatch.setattr(importlib.import_module("benchmarks.contestants.cudnn"), "on_nvidia", lambda: False)
    with pytest.raises(Refused, match=why):
        load(CUDNN).build(job, draw(job, 1))


@pytest.mark.parametrize("mode", MODES)
def test_weights_are_packed_as_the_reference_of_cudnn_reads_them(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    def reference(x: Any, h: Any, c: Any, weights: Any, lengths: Any, **options: Any) -> Any:
        names = ("input_size", "hidden_size", "num_layers", "bidirectional")
        assert weights.shape == (rnn.get_num_params_in_lstm(*(options[name] for name in names)),)
        unpacked = rnn.unpack_lstm_weights(weights, *(options[name] for name in names))
        names = (*names[:3], "dropout", names[3])
        return rnn.lstm_ref(x, h, c, *unpacked, lengths, *(options[name] for name in names))

    monkeypatch.setattr(importlib.import_module("benchmarks.contestants.cudnn"), "on_nvidia", lambda: True)
    monkeypatch.setattr(rnn, "lstm", reference)
    assert error_of(load(CUDNN), tiny("LSTM", mode)) < 1e-5


@pytest.mark.parametrize("mode", [FORWARD, GRADIENT])
def test_wrong_gate_order_is_found(mode: str) -> None:
    contestant, job = peer("Equinox"), tiny("LSTM", mode)
    problems = draw(job, 1)
    swap = lambda leaf: np.concatenate([np.split(leaf, 4, -1)[index] for index in (0, 2, 1, 3)], -1)
    wrong = problems[0]._replace(params=tuple(map(swap, problems[0].params)))
    answer = JaxProgram(job, contestant.layer(job, wrong), problems).answer()
    assert error(answer, truth(job)) > 0.1


@pytest.mark.parametrize("mode", [GRADIENT, TRAIN])
def test_wrong_order_of_gradients_is_found(mode: str) -> None:
    contestant, job = peer("Equinox"), tiny("GRU", mode)
    problems = draw(job, 1)
    layer = contestant.layer(job, problems[0])

    def wrong(grads: Any) -> tuple[Any, ...]:
        d_w_x, d_w_h, d_b, d_b_n = layer.common_params(grads)
        return d_w_x, d_w_h, np.roll(d_b, job.case.H), d_b_n

    assert error(JaxProgram(job, layer._replace(common_params=wrong), problems).answer(), truth(job)) > 0.1


def test_every_jax_peer_is_tested() -> None:
    assert {*COMPUTED, CUDNN, "PyTorch"} == set(PEERS)
