"""The cells that are compared, each with the float64 oracle that every answer is checked with.

NumPy only: a process that times another framework reads this too.
"""

from typing import NamedTuple

from tests import oracle_gradients, oracles


class Cell(NamedTuple):
    """What all contestants of one comparison compute.

    Attributes:
      gates: G; `w_x [D, G*H]`, `w_h [H, G*H]`, `b [G*H]`.
      inner_bias: there is a fourth parameter `b_n [H]`.
      carry: names of the carry's leaves.
      step, backward: the oracle of one step and of its derivative.
    """

    gates: int
    inner_bias: bool
    carry: tuple[str, ...]
    step: oracles.Step
    backward: oracle_gradients.Backward


CELLS = {
    "RNN": Cell(1, False, ("h",), oracles.rnn_tanh, oracle_gradients.rnn_tanh),
    "LSTM": Cell(4, False, ("h", "c"), oracles.lstm, oracle_gradients.lstm),
    "GRU": Cell(3, True, ("h",), oracles.gru_after, oracle_gradients.gru_after),
    "RNN-relu": Cell(1, False, ("h",), oracles.rnn_relu, oracle_gradients.rnn_relu),
    "GRU-before": Cell(3, False, ("h",), oracles.gru_before, oracle_gradients.gru_before),
}
# The three that a headline compares.
HEADLINE = ("RNN", "LSTM", "GRU")
