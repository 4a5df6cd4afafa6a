"""Cells: one family a file; `base` holds the contract."""

from recurrent_jax.cells.base import Cell, PointwiseCell, RNNCarry, RNNParams
from recurrent_jax.cells.gru import GRU, GRUParams
from recurrent_jax.cells.lstm import (
    LSTM,
    CoupledLSTM,
    CoupledLSTMParams,
    LSTMCarry,
    LSTMParams,
    PeepholeLSTM,
    PeepholeLSTMParams,
)
from recurrent_jax.cells.rnn import RNN

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Cell",
    "CoupledLSTM",
    "CoupledLSTMParams",
    "GRUParams",
    "LSTMCarry",
    "LSTMParams",
    "PeepholeLSTM",
    "PeepholeLSTMParams",
    "PointwiseCell",
    "RNNCarry",
    "RNNParams",
]
