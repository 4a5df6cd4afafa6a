"""The recurrent cells that an experiment can be run with, by name."""

import functools
from typing import Any, Literal

import recurrent_jax as rj

CellName = Literal["lstm", "lstm_peephole", "lstm_coupled", "gru", "gru_before", "rnn", "rnn_relu"]

CELLS: dict[CellName, Any] = {
    "lstm": rj.LSTM,
    "lstm_peephole": rj.PeepholeLSTM,
    "lstm_coupled": rj.CoupledLSTM,
    "gru": rj.GRU,
    "gru_before": functools.partial(rj.GRU, reset="before"),
    "rnn": rj.RNN,
    "rnn_relu": functools.partial(rj.RNN, activation="relu"),
}
