"""Attention over a memory: scores, the masked softmax, and the mean under it."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from recurrent_jax import arguments
from recurrent_jax.cells.base import INPUT_INIT, Array, accumulator, exportable, floating, matmul

Score = Literal["dot", "general", "additive"]


@exportable
class AttentionParams(NamedTuple):
    """Parameters of a score, None where it has no such one.

    "general" has `w_memory [M, Q]`; "additive" `w_query [Q, A]`, `w_memory [M, A]` and `v [A]`; "dot" none.
    """

    w_query: Array | None
    w_memory: Array | None
    v: Array | None


@exportable
class Memory(NamedTuple):
    """What is attended to: `values [..., S, M]`, zero at padding, and what depends on nothing else.

    `keys [..., S, Q or A]` is what a query is compared with; `mask [..., S]` is True at true positions, or None.
    """

    values: Array
    keys: Array
    mask: Array | None


@dataclasses.dataclass(frozen=True)
class Attention:
    """How well a query fits each position of a memory, and the mean of the memory under that.

        score(q, m_s) = q . m_s                                "dot"
                      = q . (m_s W_m)                          "general"
                      = v . tanh(q W_q + m_s W_m)              "additive"
        a_s = exp(score_s) / sum of exp(score) over the true positions
        c   = sum_s a_s m_s

    The softmax is computed in at least float32. Where no position is true, weights and context are 0.

    Attributes:
      score: "dot", "general" or "additive".
      size: A, units of the additive score; None takes the query's.
      param_dtype: dtype of the parameters.

    Raises:
      ValueError: an attribute is not of the kind above.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> attention = rj.Attention("general")
      >>> params = attention.init(jax.random.key(0), query_size=8, memory_size=6)
      >>> memory = attention.remember(params, jnp.ones((10, 2, 6)), lengths=[10, 4])
      >>> context, weights = attention.apply(params, jnp.ones((2, 8)), memory)
      >>> context.shape, weights.shape, float(weights[1, 4:].sum())
      ((2, 6), (2, 10), 0.0)

    Source: Luong, Pham and Manning, "Effective approaches to attention-based neural machine translation" (2015) for
    "dot" and "general"; Bahdanau, Cho and Bengio, "Neural machine translation by jointly learning to align and
    translate" (2014) for "additive".
    """

    score: Score = "dot"
    _: dataclasses.KW_ONLY
    size: int | None = None
    param_dtype: Any = "float32"

    def __post_init__(self) -> None:
        if self.score not in ("dot", "general", "additive"):
            raise ValueError(f"score: expected 'dot', 'general' or 'additive', got {self.score!r}")
        if self.size is not None:
            arguments.check_positive("size", self.size)
            if self.score != "additive":
                raise ValueError(f"size: expected None, since only the additive score has units, got {self.size!r}")
        object.__setattr__(self, "param_dtype", floating("param_dtype", self.param_dtype))

    def init(self, key: Array, query_size: int, memory_size: int) -> AttentionParams:
        """Draws `AttentionParams` for queries of Q and a memory of M features.

        Raises:
          ValueError: a size is not a positive integer, or "dot" is given two different ones.
        """
        arguments.check_positive("query_size", query_size)
        arguments.check_positive("memory_size", memory_size)
        if self.score == "dot":
            if query_size != memory_size:
                raise ValueError(
                    f"memory_size: expected that of the query, {query_size}, for the score 'dot', got {memory_size}; "
                    "'general' and 'additive' take any"
                )
            return AttentionParams(None, None, None)
        for_query, for_memory, for_v = jax.random.split(key, 3)
        if self.score == "general":
            return AttentionParams(None, INPUT_INIT(for_memory, (memory_size, query_size), self.param_dtype), None)
        size = self.size or query_size
        return AttentionParams(
            INPUT_INIT(for_query, (query_size, size), self.param_dtype),
            INPUT_INIT(for_memory, (memory_size, size), self.param_dtype),
            INPUT_INIT(for_v, (size, 1), self.param_dtype)[:, 0],
        )

    def remember(self, params: AttentionParams, values: Array, *, lengths: Any = None, mask: Any = None) -> Memory:
        """Prepares a memory once, before queries are put to it.

        Args:
          params: what `init` returned.
          values: what is to be remembered `[S, ..., M]`, such as the outputs of an encoder.
          lengths: integers of the batch shape, from 0 to S: the true positions of each row.
          mask: bool `[S, ...]`, in place of `lengths`. What `values` hold elsewhere, NaN too, changes nothing.

        Raises:
          TypeError, ValueError: an argument has a wrong dtype or shape; the message names it.
        """
        values = arguments.check_array("values", values, "[S, ..., M]")
        mask = arguments.mask_from(lengths, mask, values.shape[:-1])
        if mask is not None:
            values = jnp.where(mask[..., None], values, 0)
            mask = jnp.moveaxis(mask, 0, -1)
        # The batch comes first, so that each row's positions lie together when every step reads them.
        values = keys = jnp.moveaxis(values, 0, -2)
        if params.w_memory is not None:
            if values.shape[-1] != len(params.w_memory):
                raise ValueError(f"values: expected [S, ..., {len(params.w_memory)}], got M = {values.shape[-1]}")
            keys = matmul(values, params.w_memory.astype(values.dtype)).astype(values.dtype)
        return Memory(values, keys, mask)

    def apply(self, params: AttentionParams, query: Array, memory: Memory) -> tuple[Array, Array]:
        """Attends.

        Args:
          params: what `init` returned.
          query: `[..., Q]`; its batch shape ends in that of the memory.
          memory: what `remember` returned.

        Returns:
          `(context [..., M], weights [..., S])`; the context in the memory's dtype, the weights in at least float32.

        Raises:
          ValueError: the batch shape of the query is not, or does not end in, that of the memory.
        """
        batch = memory.values.shape[:-2]
        if query.shape[max(0, query.ndim - 1 - len(batch)) : -1] != batch:
            expected = ", ".join(["...", *map(str, batch), "Q"])
            raise ValueError(f"query: expected [{expected}], the batch shape of the memory, got {list(query.shape)}")
        exact = accumulator(memory.keys.dtype)
        query = query.astype(memory.keys.dtype)
        if params.v is None or params.w_query is None:
            scores = _row_by_row(query, memory.keys, contracted=-1)
        else:
            query = matmul(query, params.w_query.astype(query.dtype))
            units = jnp.tanh(query[..., None, :] + _lift(memory.keys, query.ndim + 1).astype(exact))
            scores = jnp.einsum("...sa,a->...s", units, params.v.astype(exact))
        weights = _softmax(scores, None if memory.mask is None else _lift(memory.mask, scores.ndim))
        values = memory.values
        context = _row_by_row(weights.astype(values.dtype), values, contracted=-2)
        return context.astype(values.dtype), weights


def _row_by_row(queries: Array, memory: Array, contracted: int) -> Array:
    """Each row's `queries [..., *batch, X]` times its matrix of `memory [*batch, .., ..]`, over the axis of X there.

    As `einsum` does it, but with the queries on the left, always: XLA's CPU backend can't run every bfloat16 matmul
    whose left side is transposed.
    """
    batch = tuple(range(memory.ndim - 2))
    before = queries.ndim - 1 - len(batch)
    numbers = (((queries.ndim - 1,), (memory.ndim + contracted,)), (tuple(before + axis for axis in batch), batch))
    product = jax.lax.dot_general(queries, memory, numbers, preferred_element_type=accumulator(memory.dtype))
    # [*batch, ..., Y]
    return jnp.moveaxis(product, batch, tuple(before + axis for axis in batch))


def _softmax(scores: Array, mask: Array | None) -> Array:
    """Weights of the true positions; zeros where there is none."""
    if mask is None:
        return jax.nn.softmax(scores, axis=-1)
    scores = jnp.where(mask, scores, -jnp.inf)
    highest = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True, initial=-jnp.inf))
    shares = jnp.exp(scores - jnp.where(jnp.isfinite(highest), highest, 0))
    total = shares.sum(axis=-1, keepdims=True)
    return shares / jnp.where(total > 0, total, 1)


def _lift(array: Array, ndim: int) -> Array:
    """The array with leading axes of size 1, as many as it takes to have `ndim`."""
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)
