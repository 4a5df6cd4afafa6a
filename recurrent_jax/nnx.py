"""Flax NNX modules that own the parameters of cells and layers; `recurrent_jax.nnx` needs Flax."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from recurrent_jax import flax_calls
from recurrent_jax.cells.base import Array
from recurrent_jax.kernels import Implementation


class RNN(nnx.Module):
    """A cell or a layer over a sequence, called as `flax.nnx.RNN` is.

        rnn(inputs)          rnn(inputs, seq_lengths=lengths, return_carry=True)

    A cell of this library has no parameters in it, so `in_features` and `rngs` are given here and not to the cell.
    `rnn.params` is what `cell.init` returns, its leaves `nnx.Param`: `rnn.params.w_x`. `nnx.as_pure(rnn.params)` is
    what `rj.unroll` and `cell.step` take, `rnn.params = jax.tree.map(nnx.Param, params)` the way back.

    Other than in Flax, outputs at padding are exactly 0, what padding holds changes neither results nor gradients, a
    row of length 0 returns its initial carry, and carries are this library's: `LSTMCarry(h, c)`, `RNNCarry(h)`, a tuple
    of them for a stack.

    Args:
      cell: a cell, `rj.Stack`, `rj.Bidirectional`, or any object with `init`, `initial_carry` and `step`.
      in_features: D, the features of the inputs.
      time_major: whether inputs are `[T, ..., D]`; by default they are `[..., T, D]`.
      return_carry: whether to return `(carry, outputs)`; by default it is the outputs alone.
      reverse: run from the last true step to the first; outputs come in the order in which they are computed, padding
        behind them.
      keep_order: with `reverse`, put the outputs in the order of the inputs.
      unroll, implementation, checkpoint_every: as for `rj.unroll`.
      deterministic: whether to leave out the dropout of a stack. `rnn.train()`, `rnn.eval()` and `nnx.view` set it.
      rngs: streams "params" and, where a stack has dropout, "dropout".

    Raises:
      TypeError: `cell` is not of the kind above.
      ValueError: `in_features` is not a positive integer.
      AttributeError: `rngs` lacks a stream.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> from flax import nnx
      >>> from recurrent_jax import nnx as rj_nnx
      >>> rnn = rj_nnx.RNN(rj.LSTM(hidden_size=8), in_features=3, rngs=nnx.Rngs(0))
      >>> rnn.params.w_x.shape
      (3, 32)
      >>> carry, ys = rnn(jnp.ones((2, 10, 3)), seq_lengths=jnp.array([10, 4]), return_carry=True)
      >>> ys.shape, bool((carry.h[1] == ys[1, 3]).all()), float(abs(ys[1, 4:]).max())
      ((2, 10, 8), True, 0.0)

    Source: the call and its meaning are those of `flax.nnx.RNN`, https://flax.readthedocs.io.
    """

    def __init__(
        self,
        cell: Any,
        in_features: int,
        *,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        implementation: Implementation = None,
        checkpoint_every: int | None = None,
        deterministic: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        flax_calls.check_layer(cell)
        self.cell = cell
        self.in_features = in_features
        self.time_major = time_major
        self.return_carry = return_carry
        self.reverse = reverse
        self.keep_order = keep_order
        self.unroll = unroll
        self.implementation = implementation
        self.checkpoint_every = checkpoint_every
        self.deterministic = deterministic
        self.params = nnx.data(jax.tree.map(nnx.Param, cell.init(rngs.params(), in_features)))
        self.rngs: Any = nnx.data(rngs.dropout.fork() if flax_calls.has_dropout(cell) else None)

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        seq_lengths: Any = None,
        resets: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Any:
        """Runs the sequence.

        Args:
          inputs: `[..., T, D]`, or `[T, ..., D]` with `time_major`, floating.
          initial_carry: the carry before the first step; by default that of `cell.initial_carry`.
          seq_lengths: integers of the batch shape, from 0 to T: the true steps of each row.
          resets: bool, the shape of the inputs without D: where True the carry is restored to the initial one of the
            cell BEFORE that step; with `reverse` too.
          return_carry, time_major, reverse, keep_order, deterministic: in place of those of the constructor.
          rngs: for dropout, in place of the stream of the constructor.

        Returns:
          The outputs `[..., T, H]`, or `[T, ..., H]` with `time_major`; with `return_carry`, `(carry, outputs)`, the
          carry being that behind the last step that was run.

        Raises:
          TypeError, ValueError, NotImplementedError: as `rj.unroll`, whose `carry` and `lengths` are `initial_carry`
            and `seq_lengths` here.
        """
        return flax_calls.run(
            self,
            self._params_for,
            inputs,
            initial_carry,
            seq_lengths=seq_lengths,
            resets=resets,
            key=self._draw(rngs) if flax_calls.drops_out(self, deterministic) else None,
            return_carry=return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
        )

    def _params_for(self, in_size: int) -> Any:
        """The parameters as `rj.unroll` takes them."""
        if in_size != self.in_features:
            raise ValueError(f"inputs: expected {self.in_features} features, got {in_size}")
        return nnx.as_pure(self.params)

    def _draw(self, rngs: Any) -> Array:
        """A key for dropout."""
        if isinstance(rngs, nnx.Rngs):
            return rngs.dropout()
        # Flax's Bidirectional hands on a stream for carries, of seed 0 always; no carry is drawn here.
        return self.rngs() if rngs is None or rngs.tag == "carry" else rngs()

    def set_view(self, deterministic: bool | None = None) -> None:
        """What `nnx.view` calls."""
        if deterministic is not None:
            self.deterministic = deterministic


class Bidirectional(nnx.Module):
    """Two RNNs over a sequence, one of them backwards, called as `flax.nnx.Bidirectional` is.

        yf = forward_rnn(inputs)        yb = backward_rnn(inputs, reverse=True, keep_order=True)
        y_t = merge_fn(yf_t, yb_t)

    The options `time_major`, `return_carry`, `reverse` and `keep_order` of the two RNNs count for nothing. For two
    cells of one kind `RNN(rj.Bidirectional(cell), ...)` is shorter, and takes packed sequences (`resets`) as well.

    Args:
      forward_rnn: an `RNN`.
      backward_rnn: another; the same one shares its parameters.
      merge_fn: function of the outputs of both; by default they are put side by side.
      time_major, return_carry: as for `RNN`.

    Raises:
      TypeError: `forward_rnn` or `backward_rnn` is no module, but a cell, say.
      ValueError: `initial_carry` is not a pair.

    Example:
      >>> import jax.numpy as jnp, recurrent_jax as rj
      >>> from flax import nnx
      >>> from recurrent_jax import nnx as rj_nnx
      >>> cell, rngs = rj.GRU(hidden_size=8), nnx.Rngs(0)
      >>> layer = rj_nnx.Bidirectional(rj_nnx.RNN(cell, 3, rngs=rngs), rj_nnx.RNN(cell, 3, rngs=rngs))
      >>> layer(jnp.ones((2, 10, 3))).shape
      (2, 10, 16)

    Source: the call and its meaning are those of `flax.nnx.Bidirectional`, https://flax.readthedocs.io.
    """

    def __init__(
        self,
        forward_rnn: Any,
        backward_rnn: Any,
        *,
        merge_fn: Callable[[Array, Array], Array] = flax_calls.concatenate,
        time_major: bool = False,
        return_carry: bool = False,
    ) -> None:
        flax_calls.check_rnn("forward_rnn", forward_rnn)
        flax_calls.check_rnn("backward_rnn", backward_rnn)
        self.forward_rnn = forward_rnn
        self.backward_rnn = backward_rnn
        self.merge_fn = merge_fn
        self.time_major = time_major
        self.return_carry = return_carry

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: tuple[Any, Any] | None = None,
        seq_lengths: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Any:
        """Runs both directions; arguments are as for `RNN`, carries are `rj.BidirectionalCarry(forward, backward)`."""
        return flax_calls.run_both(
            self,
            inputs,
            initial_carry,
            given={"return_carry": return_carry, "time_major": time_major},
            seq_lengths=seq_lengths,
            deterministic=deterministic,
            rngs=rngs,
        )
