"""The model: a sequence of words to the logits of the classes, as pure functions."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import recurrent_jax as rj
from experiments.common.cells import CELLS
from experiments.sentiment.config import Config, Pooling

PyTree = Any
UNKNOWN = 1


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Word vectors, a stack of recurrent layers, pooling over time, and a dense layer.

    Attributes:
      vocabulary_size: V, the number of words.
      classes: C, the number of classes.
      encoder: the layers.
      embedding_size: size of the word vectors.
      pooling: how the outputs of all steps become one vector.
      dropout: share of the pooled features set to zero while training.
      embedding_dropout: share of the features of word vectors set to zero, at all steps the same.
      word_dropout: share of the words replaced by `<unk>`.
      implementation: kernel that unrolls the cells.
    """

    vocabulary_size: int
    classes: int
    encoder: rj.Stack
    embedding_size: int
    pooling: Pooling = "last"
    dropout: float = 0.0
    embedding_dropout: float = 0.0
    word_dropout: float = 0.0
    implementation: str | None = None

    @staticmethod
    def of(config: Config, vocabulary_size: int, classes: int) -> "Classifier":
        """The model that a configuration describes."""
        cell = CELLS[config.cell](config.hidden_size, dtype=config.dtype)
        layer = rj.Bidirectional(cell) if config.bidirectional else cell
        encoder = rj.Stack((layer,) * config.layers, dropout=config.dropout)
        return Classifier(
            vocabulary_size, classes, encoder, config.embedding_size, config.pooling, config.dropout,
            config.embedding_dropout, config.word_dropout, config.implementation,
        )  # fmt: skip

    @property
    def _embed(self) -> nn.Embed:
        return nn.Embed(self.vocabulary_size, self.embedding_size)

    @property
    def _readout(self) -> nn.Dense:
        return nn.Dense(self.classes)

    @property
    def _attention(self) -> rj.Attention:
        return rj.Attention("additive")

    def init(self, key: jax.Array) -> PyTree:
        """Draws the parameters."""
        embed, encoder, query, attention, readout = jax.random.split(key, 5)
        params: dict[str, Any] = {
            "embed": self._embed.init(embed, jnp.zeros(1, jnp.int32)),
            "encoder": self.encoder.init(encoder, self.embedding_size),
        }
        width = jax.eval_shape(
            lambda p: self._encode(p, jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32), None)[1], params
        ).shape[-1]
        if self.pooling == "attention":
            params["attention"] = self._attention.init(attention, width, width)
            params["query"] = jax.nn.initializers.lecun_normal()(query, (width, 1))[:, 0]
        params["readout"] = self._readout.init(readout, jnp.zeros((1, width)))
        return params

    def _encode(self, params: PyTree, words: jax.Array, lengths: jax.Array, key: jax.Array | None) -> Any:
        """The carry behind, and the outputs of, the recurrent layers."""
        keys = [None] * 3 if key is None else jax.random.split(key, 3)
        if keys[0] is not None and self.word_dropout:
            words = jnp.where(jax.random.bernoulli(keys[0], self.word_dropout, words.shape), UNKNOWN, words)
        xs = self._dropped(self._embed.apply(params["embed"], words), self.embedding_dropout, keys[1], (0,))
        return self.encoder.apply(
            params["encoder"], xs, lengths=lengths, key=keys[2], implementation=self.implementation
        )

    @staticmethod
    def _dropped(values: Any, rate: float, key: jax.Array | None, same_along: tuple[int, ...] = ()) -> jax.Array:
        """Flax's dropout, with one draw for all places along some axes."""
        dropout = nn.Dropout(rate, broadcast_dims=same_along, deterministic=key is None)
        return jnp.asarray(dropout.apply({}, values, rngs={} if key is None else {"dropout": key}))

    def apply(self, params: PyTree, words: jax.Array, lengths: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Reads texts.

        Args:
          params: what `init` returned.
          words: numbers of words `[T, B]`.
          lengths: how many of them are true `[B]`.
          key: of the dropout; None is evaluation.

        Returns:
          The logits of the classes `[B, C]`.
        """
        for_encoder, for_pooled = (None, None) if key is None else jax.random.split(key)
        carry, ys = self._encode(params, words, lengths, for_encoder)
        pooled = self._pool(params, carry[-1], ys, lengths).astype(jnp.float32)
        pooled = self._dropped(pooled, self.dropout, for_pooled)
        return jnp.asarray(self._readout.apply(params["readout"], pooled))

    def _pool(self, params: PyTree, carry: Any, ys: jax.Array, lengths: jax.Array) -> jax.Array:
        """One vector `[B, F]` for each text; zeros for an empty one."""
        if self.pooling == "last":
            ends = carry if isinstance(carry, rj.BidirectionalCarry) else (carry,)
            return jnp.concatenate([end.h for end in ends], axis=-1)
        if self.pooling == "attention":
            memory = self._attention.remember(params["attention"], ys, lengths=lengths)
            query = jnp.broadcast_to(params["query"], (ys.shape[1], ys.shape[2]))
            return self._attention.apply(params["attention"], query, memory)[0]
        if self.pooling == "mean":
            # Outputs at padding are zeros.
            return ys.astype(jnp.float32).sum(axis=0) / jnp.maximum(lengths, 1)[:, None].astype(jnp.float32)
        there = jnp.arange(len(ys))[:, None, None] < lengths[None, :, None]
        highest = jnp.where(there, ys, -jnp.inf).max(axis=0)
        return jnp.where(lengths[:, None] > 0, highest, 0)
