"""Flax Linen modules that own the parameters of cells and layers; `recurrent_jax.linen` needs Flax."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from recurrent_jax import flax_calls
from recurrent_jax.cells.base import Array
from recurrent_jax.kernels import Implementation


class RNN(nn.Module):
    """A cell or a layer over a sequence, called as `flax.linen.RNN` is.

        rnn(inputs)                        rnn(inputs, seq_lengths=lengths, return_carry=True)
        rnn(inputs, deterministic=False)   with the rng stream "dropout", where a stack has dropout

    The parameters are those of `cell.init` in plain dicts, `{"params": {"cell": {"w_x": ..., "w_h": ..., "b": ...}}}`;
    in a stack each layer has its number above them, "0" the lowest. `rj.LSTMParams(**variables["params"]["cell"])` is
    what `rj.unroll` and `cell.step` take (for `GRU(reset="before")` with `b_n=None`);
    `flax.serialization.to_state_dict(params)` makes such dicts.

    Other than in Flax, outputs at padding are exactly 0, what padding holds changes neither results nor gradients, a
    row of length 0 returns its initial carry, and carries are this library's: `LSTMCarry(h, c)`, `RNNCarry(h)`, a tuple
    of them for a stack.

    Attributes:
      cell: a cell, `rj.Stack`, `rj.Bidirectional`, or any object with `init`, `initial_carry` and `step`.
      time_major: whether inputs are `[T, ..., D]`; by default they are `[..., T, D]`.
      return_carry: whether to return `(carry, outputs)`; by default it is the outputs alone.
      reverse: run from the last true step to the first; outputs come in the order in which they are computed, padding
        behind them.
      keep_order: with `reverse`, put the outputs in the order of the inputs.
      unroll, implementation, checkpoint_every: as for `rj.unroll`.
      deterministic: whether to leave out dropout; has to be said, here or in a call, where a stack has some.

    Raises:
      TypeError: `cell` is not of the kind above.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> from recurrent_jax import linen as rj_linen
      >>> rnn = rj_linen.RNN(rj.LSTM(hidden_size=8))
      >>> xs = jnp.ones((2, 10, 3))
      >>> variables = rnn.init(jax.random.key(0), xs)
      >>> jax.tree.map(jnp.shape, variables)
      {'params': {'cell': {'b': (32,), 'w_h': (8, 32), 'w_x': (3, 32)}}}
      >>> carry, ys = rnn.apply(variables, xs, seq_lengths=jnp.array([10, 4]), return_carry=True)
      >>> ys.shape, bool((carry.h[1] == ys[1, 3]).all()), float(abs(ys[1, 4:]).max())
      ((2, 10, 8), True, 0.0)

    Source: the call and its meaning are those of `flax.linen.RNN`, https://flax.readthedocs.io.
    """

    cell: Any
    time_major: bool = False
    return_carry: bool = False
    reverse: bool = False
    keep_order: bool = False
    unroll: int = 1
    implementation: Implementation = None
    checkpoint_every: int | None = None
    deterministic: bool | None = None

    def __post_init__(self) -> None:
        flax_calls.check_layer(self.cell)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        init_key: Any = None,
        seq_lengths: Any = None,
        resets: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        deterministic: bool | None = None,
    ) -> Any:
        """Runs the sequence.

        Args:
          inputs: `[..., T, D]`, or `[T, ..., D]` with `time_major`, floating.
          initial_carry: the carry before the first step; by default that of `cell.initial_carry`.
          init_key: not needed, since no initial carry is drawn; there so that `flax.linen.Bidirectional` may call.
          seq_lengths: integers of the batch shape, from 0 to T: the true steps of each row.
          resets: bool, the shape of the inputs without D: where True the carry is restored to the initial one of the
            cell BEFORE that step; with `reverse` too.
          return_carry, time_major, reverse, keep_order, deterministic: in place of the attributes.

        Returns:
          The outputs `[..., T, H]`, or `[T, ..., H]` with `time_major`; with `return_carry`, `(carry, outputs)`, the
          carry being that behind the last step that was run.

        Raises:
          TypeError, ValueError, NotImplementedError: as `rj.unroll`, whose `carry` and `lengths` are `initial_carry`
            and `seq_lengths` here; or `deterministic` is None, and there is dropout.
          flax.errors.InvalidRngError: there is dropout, and no rng "dropout".
        """
        del init_key
        key = self.make_rng("dropout") if flax_calls.drops_out(self, deterministic) else None
        return flax_calls.run(
            self,
            self._params_for,
            inputs,
            initial_carry,
            seq_lengths=seq_lengths,
            resets=resets,
            key=key,
            return_carry=return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
        )

    def _params_for(self, in_size: int) -> Any:
        """What `cell.init` returns, with the leaves that Linen keeps."""
        init = lambda key: self.cell.init(key, in_size)
        kept = self.param("cell", lambda key: _as_dicts(init(key)))
        leaves = flatten_dict(kept, sep="/")
        return jax.tree_util.tree_map_with_path(
            lambda path, _: leaves[_name(path)], jax.eval_shape(init, jax.random.key(0))
        )


class Bidirectional(nn.Module):
    """Two RNNs over a sequence, one of them backwards, called as `flax.linen.Bidirectional` is.

        yf = forward_rnn(inputs)        yb = backward_rnn(inputs, reverse=True, keep_order=True)
        y_t = merge_fn(yf_t, yb_t)

    The options `time_major`, `return_carry`, `reverse` and `keep_order` of the two RNNs count for nothing. For two
    cells of one kind `RNN(rj.Bidirectional(cell))` is shorter, and takes packed sequences (`resets`) as well.

    Attributes:
      forward_rnn: an `RNN`.
      backward_rnn: another; the same one shares its parameters.
      merge_fn: function of the outputs of both; by default they are put side by side.
      time_major, return_carry: as for `RNN`.

    Raises:
      TypeError: `forward_rnn` or `backward_rnn` is no module, but a cell, say.
      ValueError: `initial_carry` is not a pair.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> from recurrent_jax import linen as rj_linen
      >>> layer = rj_linen.Bidirectional(rj_linen.RNN(rj.GRU(hidden_size=8)), rj_linen.RNN(rj.GRU(hidden_size=8)))
      >>> ys, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 10, 3)))
      >>> ys.shape, sorted(variables["params"])
      ((2, 10, 16), ['backward_rnn', 'forward_rnn'])

    Source: the call and its meaning are those of `flax.linen.Bidirectional`, https://flax.readthedocs.io.
    """

    forward_rnn: Any
    backward_rnn: Any
    merge_fn: Callable[[Array, Array], Array] = flax_calls.concatenate
    time_major: bool = False
    return_carry: bool = False

    def __post_init__(self) -> None:
        for name in ("forward_rnn", "backward_rnn"):
            flax_calls.check_rnn(name, getattr(self, name))
        super().__post_init__()

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: tuple[Any, Any] | None = None,
        seq_lengths: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        deterministic: bool | None = None,
    ) -> Any:
        """Runs both directions; arguments are as for `RNN`, carries are `rj.BidirectionalCarry(forward, backward)`."""
        return flax_calls.run_both(
            self,
            inputs,
            initial_carry,
            given={"return_carry": return_carry, "time_major": time_major},
            seq_lengths=seq_lengths,
            deterministic=deterministic,
        )


def _as_dicts(params: Any) -> Any:
    """A pytree of NamedTuples and tuples as dicts of dicts, by Flax's own names; where there is None, nothing."""
    return unflatten_dict({_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}, sep="/")


def _name(path: Any) -> str:
    """Where a leaf is: `w_x`, or `0/w_x` in a stack."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
