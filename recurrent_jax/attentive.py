"""A cell around a cell, which attends to a memory at every step."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recurrent_jax import arguments
from recurrent_jax.attention import Attention, AttentionParams, Memory
from recurrent_jax.cells.base import INPUT_INIT, Array, accumulator, exportable, floating, matmul
from recurrent_jax.layers import out_size, run_layer
from recurrent_jax.unroll import unroll

_DOT = Attention()


@exportable
class AttentiveParams(NamedTuple):
    """Parameters of the inner cell, of the attention, `w_c [M+H, A]`, and the memory, once there is one."""

    cell: Any
    attention: AttentionParams
    w_c: Array
    memory: Memory | None


@exportable
class AttentiveCarry(NamedTuple):
    """The inner cell's carry, the attentional state `h [..., A]` and the last step's weights `[..., S]`."""

    cell: Any
    h: Array
    weights: Array


@dataclasses.dataclass(frozen=True)
class AttentiveCell:
    """A cell around a cell, which attends to a memory at every step.

        s_t  = the output of cell.step on [x_t; h_{t-1}], or on x_t without input feeding
        c_t  = the context of attention for the query s_t
        h_t  = tanh([c_t; s_t] W_c)                       y_t = h_t

    It is a cell as others are; its memory is part of its parameters, so that no step copies it:

        params = cell.init(key, in_size)                            # once
        params = cell.remember(params, encoder_outputs, lengths=n)  # for each batch
        carry, ys = cell.apply(params, xs)                          # or rj.unroll, cell.step, rj.decode

    The weights of every step are `carries.weights` of `rj.unroll(..., return_carries=True)`.

    Attributes:
      cell: the inner cell, any one; a `Stack` of cells too.
      memory_size: M, features of the memory.
      attention: the score.
      hidden_size: A, the size of the attentional state; None takes that of the inner cell's output.
      input_feeding: give each step the attentional state of the one before as a further input.
      param_dtype: dtype of `w_c`.
      dtype: dtype of `h` and the outputs; None means `param_dtype`.

    Raises:
      TypeError: `cell` is not a cell, or `attention` not an `Attention`.
      ValueError: another attribute is not of the kind above.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> cell = rj.AttentiveCell(rj.LSTM(hidden_size=8), memory_size=8)
      >>> params = cell.init(jax.random.key(0), in_size=3)
      >>> params = cell.remember(params, jnp.ones((10, 2, 8)), lengths=[10, 4])
      >>> carry, ys = rj.unroll(cell, params, jnp.ones((5, 2, 3)))
      >>> ys.shape, carry.weights.shape
      ((5, 2, 8), (2, 10))

    Source: Luong, Pham and Manning, "Effective approaches to attention-based neural machine translation" (2015),
    equations 5 to 8 and section 3.3.
    """

    cell: Any
    memory_size: int
    _: dataclasses.KW_ONLY
    attention: Attention = _DOT
    hidden_size: int | None = None
    input_feeding: bool = True
    param_dtype: Any = "float32"
    dtype: Any = None

    def __post_init__(self) -> None:
        arguments.check_cell_methods(self.cell)
        arguments.check_positive("memory_size", self.memory_size)
        if not isinstance(self.attention, Attention):
            raise TypeError(f"attention: expected an Attention, got {self.attention!r}")
        if self.hidden_size is not None:
            arguments.check_positive("hidden_size", self.hidden_size)
        arguments.check_bool("input_feeding", self.input_feeding)
        object.__setattr__(self, "param_dtype", floating("param_dtype", self.param_dtype))
        if self.dtype is not None:
            object.__setattr__(self, "dtype", floating("dtype", self.dtype))

    def init(self, key: Array, in_size: int) -> AttentiveParams:
        """Draws the parameters, without a memory.

        Raises:
          ValueError: without a `hidden_size`, or with the score "dot", sizes do not fit.
        """
        for_cell, for_attention, for_w_c = jax.random.split(key, 3)
        arguments.check_positive("in_size", in_size)
        if self.input_feeding and self.hidden_size is None:
            # What the cell puts out is not known before it has parameters; those drawn for it are not kept.
            trial = jax.eval_shape(lambda: self.cell.init(jax.random.key(0), in_size))
            size = out_size(self.cell, trial, in_size)
        else:
            size = self.hidden_size or 0
        fed = in_size + size if self.input_feeding else in_size
        cell = self.cell.init(for_cell, fed)
        query_size = out_size(self.cell, cell, fed)
        w_c = INPUT_INIT(for_w_c, (self.memory_size + query_size, self.hidden_size or query_size), self.param_dtype)
        return AttentiveParams(cell, self.attention.init(for_attention, query_size, self.memory_size), w_c, None)

    def remember(self, params: AttentiveParams, values: Array, *, lengths: Any = None, mask: Any = None) -> Any:
        """The parameters with a memory: the values `[S, ..., M]`, of which those at padding count for nothing.

        Raises:
          TypeError, ValueError: as `Attention.remember`, or the values have not `memory_size` features.
        """
        values = arguments.check_array("values", values, "[S, ..., M]")
        if values.shape[-1] != self.memory_size:
            raise ValueError(f"values: expected [S, ..., {self.memory_size}], got {list(values.shape)}")
        memory = self.attention.remember(params.attention, values, lengths=lengths, mask=mask)
        return params._replace(memory=memory)

    def initial_carry(self, params: AttentiveParams, batch_shape: tuple[int, ...] = ()) -> AttentiveCarry:
        """The initial carry of the inner cell, an attentional state of zeros, and weights of zeros.

        Raises:
          ValueError: the parameters have no memory.
        """
        memory = _memory(params)
        positions, size = memory.values.shape[-2], params.w_c.shape[-1]
        return AttentiveCarry(
            self.cell.initial_carry(params.cell, batch_shape),
            jnp.zeros((*batch_shape, size), self.dtype or self.param_dtype),
            jnp.zeros((*batch_shape, positions), accumulator(memory.keys.dtype)),
        )

    def attend(self, params: AttentiveParams, query: Array) -> tuple[Array, Array]:
        """The attentional state `[..., A]` and the weights `[..., S]` for outputs `[..., H]` of the inner cell."""
        context, weights = self.attention.apply(params.attention, query, _memory(params))
        dtype = jnp.dtype(self.dtype or self.param_dtype)
        both = jnp.concatenate([context.astype(dtype), query.astype(dtype)], axis=-1)
        return jnp.tanh(matmul(both, params.w_c.astype(dtype))).astype(dtype), weights

    def step(self, params: AttentiveParams, carry: AttentiveCarry, x: Array) -> tuple[AttentiveCarry, Array]:
        """One step; returns the next carry and the attentional state."""
        if self.input_feeding:
            x = jnp.concatenate([x, carry.h.astype(x.dtype)], axis=-1)
        inner, query = self.cell.step(params.cell, carry.cell, x)
        h, weights = self.attend(params, query)
        return AttentiveCarry(inner, h, weights), h

    def apply(
        self,
        params: AttentiveParams,
        xs: Array,
        carry: AttentiveCarry | None = None,
        *,
        key: Array | None = None,
        **options: Any,
    ) -> Any:
        """Runs a whole sequence: `rj.unroll`, and without input feeding the same faster.

        Then no step of the inner cell waits for an attention, so that it takes its own kernel, and all of its
        outputs attend at once.

        Args:
          params: what `remember` returned.
          xs: inputs `[T, ..., D]`.
          carry: as for `rj.unroll`.
          key: of dropout within the inner cell, if that is a `Stack`; without input feeding only, since else every
            step is one of the inner cell, and a step has no dropout.
          options: those of `rj.unroll`.

        Returns:
          What `rj.unroll` does.

        Raises:
          TypeError, ValueError: as `rj.unroll`, or the parameters have no memory.
          NotImplementedError: `key` is given for dropout that can't be.
        """
        if self.input_feeding or options.get("return_carries"):
            if key is not None and getattr(self.cell, "dropout", None):
                raise NotImplementedError("key: expected None, since with input feeding the inner cell has no dropout")
            return unroll(self, params, xs, carry, **options)
        last, queries = run_layer(self.cell, params.cell, xs, carry and carry.cell, key, options)
        mask = arguments.mask_from(options.get("lengths"), options.get("mask"), xs.shape[:-1])
        if mask is None:
            mask = jnp.ones(xs.shape[:-1], bool)
        h, weights = self.attend(params, queries)
        h = jnp.where(mask[..., None], h, 0)
        before = self.initial_carry(params, xs.shape[1:-1]) if carry is None else carry
        end = _last_true(mask, options.get("reverse", False))
        return AttentiveCarry(last, *(_at(end, b, a) for b, a in ((before.h, h), (before.weights, weights)))), h


def _memory(params: AttentiveParams) -> Memory:
    """The memory, or an error that says how to come by one."""
    if params.memory is None:
        raise ValueError("params: expected a memory, got None; params = cell.remember(params, values) gives it one")
    return params.memory


def _last_true(mask: Array, reverse: bool) -> Array:
    """The step that each row takes last, or -1."""
    steps = len(mask)
    order = jnp.flip(mask, axis=0) if reverse else mask
    place = jnp.max(jnp.where(order, jax.lax.broadcasted_iota(jnp.int32, mask.shape, 0), -1), axis=0, initial=-1)
    return jnp.where(place < 0, -1, steps - 1 - place) if reverse else place


def _at(step: Array, before: Array, after: Array) -> Array:
    """Of `after [T, ..., F]` each row's own step, or `before` where that is -1."""
    every = jnp.concatenate([before[None].astype(after.dtype), after])
    return jnp.take_along_axis(every, (step + 1)[None, ..., None], axis=0)[0]
