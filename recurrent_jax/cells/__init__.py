"""Cells: one family a file; `base` holds the contract."""

from recurrent_jax.cells.base import Cell, PointwiseCell, RNNCarry, RNNParams
from recurrent_jax.cells.gru import GRU, GRUParams
from recurrent_jax.cells.lstm import LSTM, LSTMCarry, LSTMParams
from recurrent_jax.cells.rnn import RNN

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Cell",
    "GRUParams",
    "LSTMCarry",
    "LSTMParams",
    "PointwiseCell",
    "RNNCarry",
    "RNNParams",
]
