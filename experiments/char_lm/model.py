"""The model: characters to a distribution over the next character, as pure functions."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import recurrent_jax as rj
from experiments.char_lm.config import Config
from experiments.common.cells import CELLS

PyTree = Any


@dataclasses.dataclass(frozen=True)
class CharLM:
    """Embedding or one-hot vectors, layers of a cell with dropout between them, and a dense readout.

    Attributes:
      vocabulary_size: V, the number of characters.
      cell: the cell of every layer.
      layers: number of layers, L.
      embedding_size: size of the embedding; 0 feeds one-hot vectors.
      dropout: share of each layer's outputs set to zero while training.
      implementation: kernel that unrolls the cell.
    """

    vocabulary_size: int
    cell: Any
    layers: int = 1
    embedding_size: int = 0
    dropout: float = 0.0
    implementation: str | None = None

    @staticmethod
    def of(config: Config, vocabulary_size: int) -> "CharLM":
        """The model that a configuration describes."""
        cell = CELLS[config.cell](config.hidden_size, dtype=config.dtype)
        return CharLM(
            vocabulary_size, cell, config.layers, config.embedding_size, config.dropout, config.implementation
        )

    @property
    def _embed(self) -> nn.Embed:
        return nn.Embed(self.vocabulary_size, self.embedding_size)

    @property
    def _readout(self) -> nn.Dense:
        return nn.Dense(self.vocabulary_size)

    def init(self, key: jax.Array) -> PyTree:
        """Draws the parameters."""
        key_embed, key_readout, *keys = jax.random.split(key, 2 + self.layers)
        first = self.embedding_size or self.vocabulary_size
        sizes = [first] + [self.cell.hidden_size] * (self.layers - 1)
        params = {
            "layers": [self.cell.init(k, size) for k, size in zip(keys, sizes, strict=True)],
            "readout": self._readout.init(key_readout, jnp.zeros((1, self.cell.hidden_size))),
        }
        if self.embedding_size:
            params["embed"] = self._embed.init(key_embed, jnp.zeros(1, jnp.int32))
        return params

    def initial_carry(self, params: PyTree, batch_size: int) -> list[Any]:
        """The carry of each layer."""
        return [self.cell.initial_carry(layer, (batch_size,)) for layer in params["layers"]]

    def _inputs(self, params: PyTree, indices: jax.Array) -> jax.Array:
        if self.embedding_size:
            return jnp.asarray(self._embed.apply(params["embed"], indices))
        return jax.nn.one_hot(indices, self.vocabulary_size, dtype=self.cell.compute_dtype)

    def _logits(self, params: PyTree, outputs: jax.Array) -> jax.Array:
        return jnp.asarray(self._readout.apply(params["readout"], outputs.astype(jnp.float32)))

    def apply(
        self, params: PyTree, indices: jax.Array, carry: list[Any], key: jax.Array | None = None
    ) -> tuple[list[Any], jax.Array]:
        """Reads characters `indices [T, B]`.

        Args:
          params: what `init` returned.
          indices: indices of characters.
          carry: the carry of each layer before the first character.
          key: of the dropout; None is evaluation.

        Returns:
          The carry of each layer, and the logits `[T, B, V]` of the next character.
        """
        xs = self._inputs(params, indices)
        dropout = nn.Dropout(self.dropout, deterministic=key is None)
        carries = []
        for number, (layer, before) in enumerate(zip(params["layers"], carry, strict=True)):
            after, xs = rj.unroll(self.cell, layer, xs, before, implementation=self.implementation)
            rngs = {} if key is None else {"dropout": jax.random.fold_in(key, number)}
            xs = jnp.asarray(dropout.apply({}, xs, rngs=rngs))
            carries.append(after)
        return carries, self._logits(params, xs)

    def step(self, params: PyTree, carry: list[Any], indices: jax.Array) -> tuple[list[Any], jax.Array]:
        """Reads one character of each row, `indices [B]`; returns the carry and the logits `[B, V]`."""
        x = self._inputs(params, indices)
        carries = []
        for layer, before in zip(params["layers"], carry, strict=True):
            after, x = self.cell.step(layer, before, x)
            carries.append(after)
        return carries, self._logits(params, x)
