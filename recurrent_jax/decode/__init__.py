"""Decoding: from a step function to sequences, by the likeliest token, by chance, or by beam search.

A step function reads one token of each row and says what may follow:

    step: (carry, tokens int32 [B]) -> (carry, logits [B, V])

What does not change from step to step, such as parameters and an encoder's memory, is closed over. Each function is
one loop that ends as soon as every row has; call it under `jax.jit`, since JAX compiles a bare loop at every call.

Letters: L `max_length`, K hypotheses, B rows, S source positions, V vocabulary.
"""

from recurrent_jax.decode.beam_search import Beams, beam
from recurrent_jax.decode.token_by_token import Decoded, greedy, sample

__all__ = ["Beams", "Decoded", "beam", "greedy", "sample"]
