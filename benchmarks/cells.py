"""The cells that are compared, each with the float64 oracle that every answer is checked with.

NumPy only: a process that times another framework reads this too.
"""

from typing import NamedTuple

from tests import oracle_gradients, oracles


class Cell(NamedTuple):
    """What all contestants of one comparison compute.

    Attributes:
      gates: G; `w_x [D, G*H]`, `w_h [H, G*H]`, `b [G*H]`.
      vectors: names of the parameters `[H]` behind these three.
      carry: names of the carry's leaves.
      step, backward: the oracle of one step and of its derivative.
    """

    gates: int
    vectors: tuple[str, ...]
    carry: tuple[str, ...]
    step: oracles.Step
    backward: oracle_gradients.Backward

    @property
    def params(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return ("w_x", "w_h", "b", *self.vectors)


CELLS = {
    "RNN": Cell(1, (), ("h",), oracles.rnn_tanh, oracle_gradients.rnn_tanh),
    "LSTM": Cell(4, (), ("h", "c"), oracles.lstm, oracle_gradients.lstm),
    "GRU": Cell(3, ("b_n",), ("h",), oracles.gru_after, oracle_gradients.gru_after),
    "RNN-relu": Cell(1, (), ("h",), oracles.rnn_relu, oracle_gradients.rnn_relu),
    "GRU-before": Cell(3, (), ("h",), oracles.gru_before, oracle_gradients.gru_before),
    "LSTM-peephole": Cell(4, ("p_i", "p_f", "p_o"), ("h", "c"), oracles.peephole_lstm, oracle_gradients.peephole_lstm),
    "LSTM-coupled": Cell(3, (), ("h", "c"), oracles.coupled_lstm, oracle_gradients.coupled_lstm),
}
# The three that a headline compares.
HEADLINE = ("RNN", "LSTM", "GRU")
