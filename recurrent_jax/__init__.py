"""Recurrent networks in JAX: cells as pure functions, and kernels that unroll them."""

from recurrent_jax import decode
from recurrent_jax.attention import Attention, AttentionParams, Memory
from recurrent_jax.attentive import AttentiveCarry, AttentiveCell, AttentiveParams
from recurrent_jax.cells import (
    GRU,
    LSTM,
    RNN,
    Cell,
    CoupledLSTM,
    CoupledLSTMParams,
    GRUParams,
    LSTMCarry,
    LSTMParams,
    PeepholeLSTM,
    PeepholeLSTMParams,
    PointwiseCell,
    RNNCarry,
    RNNParams,
)
from recurrent_jax.check_cell import CellReport, check_cell
from recurrent_jax.kernels import Explanation
from recurrent_jax.layers import Bidirectional, BidirectionalCarry, BidirectionalParams, Stack
from recurrent_jax.unroll import explain, step, unroll

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Attention",
    "AttentionParams",
    "AttentiveCarry",
    "AttentiveCell",
    "AttentiveParams",
    "Bidirectional",
    "BidirectionalCarry",
    "BidirectionalParams",
    "Cell",
    "CellReport",
    "CoupledLSTM",
    "CoupledLSTMParams",
    "Explanation",
    "GRUParams",
    "LSTMCarry",
    "LSTMParams",
    "Memory",
    "PeepholeLSTM",
    "PeepholeLSTMParams",
    "PointwiseCell",
    "RNNCarry",
    "RNNParams",
    "Stack",
    "check_cell",
    "decode",
    "explain",
    "step",
    "unroll",
]
