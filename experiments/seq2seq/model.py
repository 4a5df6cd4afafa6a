"""The model: an encoder, a decoder that attends to it, and a softmax over the target's tokens, as pure functions."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import recurrent_jax as rj
from experiments.common.cells import CELLS
from experiments.seq2seq.config import Attention, Config

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Seq2Seq:
    """Encoder and decoder.

    The last carry of each encoder layer, of both directions side by side, is the first carry of the decoder layer at
    the same height.

    Attributes:
      source_size, target_size: numbers of tokens.
      encoder: the layers that read the source.
      decoder: a stack of cells, or an `rj.AttentiveCell` around one.
      embedding_size: size of the token vectors.
      attention: the score, or which part of the source the decoder sees without attention.
      dropout: share of features set to zero while training.
      implementation: kernel that unrolls the cells; input feeding takes the plain scan.
    """

    source_size: int
    target_size: int
    encoder: rj.Stack
    decoder: Any
    embedding_size: int
    attention: Attention = "dot"
    dropout: float = 0.0
    implementation: str | None = None

    @staticmethod
    def of(config: Config, source_size: int, target_size: int) -> "Seq2Seq":
        """The model that a configuration describes."""
        make, size = CELLS[config.cell], config.hidden_size
        whole = make(size, dtype=config.dtype)
        layer = rj.Bidirectional(make(size // 2, dtype=config.dtype)) if config.bidirectional else whole
        encoder = rj.Stack((layer,) * config.layers, dropout=config.dropout)
        feeds = config.attention not in ("none", "context") and config.input_feeding
        decoder: Any = rj.Stack((whole,) * config.layers, dropout=0.0 if feeds else config.dropout)
        if config.attention != "none" and config.attention != "context":
            score = rj.Attention(config.attention)
            decoder = rj.AttentiveCell(
                decoder, size, attention=score, input_feeding=config.input_feeding, dtype=config.dtype
            )
        return Seq2Seq(
            source_size, target_size, encoder, decoder, config.embedding_size, config.attention, config.dropout,
            config.implementation,
        )  # fmt: skip

    @property
    def attends(self) -> bool:
        """Whether there is attention."""
        return isinstance(self.decoder, rj.AttentiveCell)

    @property
    def _cells(self) -> rj.Stack:
        """The decoder's cells."""
        return self.decoder.cell if self.attends else self.decoder

    @property
    def _size(self) -> int:
        """Units of the decoder."""
        return int(self._cells.layers[-1].hidden_size)

    def init(self, key: jax.Array) -> PyTree:
        """Draws the parameters."""
        source, target, encoder, decoder, readout = jax.random.split(key, 5)
        token = jnp.zeros(1, jnp.int32)
        width = self.embedding_size + (self._size if self.attention == "context" else 0)
        return {
            "source": nn.Embed(self.source_size, self.embedding_size).init(source, token),
            "target": nn.Embed(self.target_size, self.embedding_size).init(target, token),
            "encoder": self.encoder.init(encoder, self.embedding_size),
            "decoder": self.decoder.init(decoder, width),
            "readout": nn.Dense(self.target_size).init(readout, jnp.zeros((1, self._size))),
        }

    def _dropped(self, values: Any, key: jax.Array | None) -> jax.Array:
        """Flax's dropout, the same features at every step."""
        dropout = nn.Dropout(self.dropout, broadcast_dims=(0,), deterministic=key is None)
        return jnp.asarray(dropout.apply({}, values, rngs={} if key is None else {"dropout": key}))

    def encode(
        self, params: PyTree, source: jax.Array, lengths: jax.Array, key: jax.Array | None = None
    ) -> tuple[PyTree, PyTree, jax.Array]:
        """Reads sources.

        Args:
          params: what `init` returned.
          source: tokens `[S, B]`.
          lengths: how many of them are true `[B]`.
          key: of the dropout; None is evaluation.

        Returns:
          The decoder's parameters, with the source as its memory; its first carry; the context `[B, H]`, which is the
          last output of the encoder.
        """
        for_tokens, for_layers = (None, None) if key is None else jax.random.split(key)
        embed = nn.Embed(self.source_size, self.embedding_size)
        xs = self._dropped(embed.apply(params["source"], source), for_tokens)
        carry, ys = self.encoder.apply(
            params["encoder"], xs, lengths=lengths, key=for_layers, implementation=self.implementation
        )
        first = tuple(map(_side_by_side, carry))
        decoder = params["decoder"]
        if self.attends:
            decoder = self.decoder.remember(decoder, ys, lengths=lengths)
            blank = self.decoder.initial_carry(decoder, (source.shape[1],))
            return decoder, blank._replace(cell=first), first[-1].h
        return decoder, first, first[-1].h

    def _inputs(self, params: PyTree, tokens: jax.Array, context: jax.Array) -> jax.Array:
        """Vectors of the decoder's tokens `[..., B]`, and the context where every step sees it."""
        xs = jnp.asarray(nn.Embed(self.target_size, self.embedding_size).apply(params["target"], tokens))
        if self.attention != "context":
            return xs
        return jnp.concatenate([xs, jnp.broadcast_to(context.astype(xs.dtype), (*xs.shape[:-1], self._size))], axis=-1)

    def _logits(self, params: PyTree, outputs: jax.Array) -> jax.Array:
        return jnp.asarray(nn.Dense(self.target_size).apply(params["readout"], outputs.astype(jnp.float32)))

    def apply(
        self,
        params: PyTree,
        source: jax.Array,
        source_lengths: jax.Array,
        target: jax.Array,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Teacher forcing: the logits `[T, B, V]` of the token behind each of `target [T, B]`.

        Args:
          params: what `init` returned.
          source: tokens `[S, B]`.
          source_lengths: how many of them are true `[B]`.
          target: tokens, beginning with `<sos>`.
          key: of the dropout; None is evaluation.
        """
        keys = [None] * 4 if key is None else jax.random.split(key, 4)
        decoder, carry, context = self.encode(params, source, source_lengths, keys[0])
        xs = self._dropped(self._inputs(params, target, context), keys[1])
        # Through an attentive cell that feeds its input only the plain scan runs.
        kernel = None if self.attends and self.decoder.input_feeding else self.implementation
        ys = self.decoder.apply(decoder, xs, carry, key=keys[2], implementation=kernel)[1]
        return self._logits(params, self._dropped(ys, keys[3]))

    def sampled(
        self,
        params: PyTree,
        source: jax.Array,
        source_lengths: jax.Array,
        target: jax.Array,
        forcing: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        """`apply`, but each step reads the true token with probability `forcing` only, else the likeliest before it.

        Source: Bengio et al., "Scheduled sampling for sequence prediction with recurrent neural networks" (2015).
        """
        for_source, for_tokens, for_outputs, for_choice = jax.random.split(key, 4)
        decoder, carry, context = self.encode(params, source, source_lengths, for_source)
        true = jax.random.bernoulli(for_choice, forcing, target.shape).at[0].set(True)

        def step(before: Any, here: Any) -> Any:
            carry, guess = before
            token, is_true = here
            x = self._inputs(params, jnp.where(is_true, token, guess), context)
            carry, y = self.decoder.step(decoder, carry, self._dropped(x[None], for_tokens)[0])
            logits = self._logits(params, self._dropped(y[None], for_outputs)[0])
            return (carry, jnp.argmax(logits, axis=-1).astype(target.dtype)), logits

        return jax.lax.scan(step, (carry, target[0]), (target, true))[1]

    def stepper(self, params: PyTree, decoder: PyTree, context: jax.Array) -> Any:
        """What `rj.decode` takes: a function from carry and tokens `[B]` to carry and logits `[B, V]`."""

        def step(carry: PyTree, tokens: jax.Array) -> tuple[PyTree, jax.Array]:
            carry, y = self.decoder.step(decoder, carry, self._inputs(params, tokens, context))
            return carry, self._logits(params, y)

        return step

    def weights(self, params: PyTree, source: jax.Array, source_lengths: jax.Array, target: jax.Array) -> jax.Array:
        """The attention `[T, B, S]` that predicts the token behind each of `target [T, B]`."""
        decoder, carry, context = self.encode(params, source, source_lengths)
        xs = self._inputs(params, target, context)
        weights: jax.Array = rj.unroll(self.decoder, decoder, xs, carry, return_carries=True)[2].weights
        return weights


def _side_by_side(carry: Any) -> Any:
    """The carry of a layer; of one with two directions both carries as one, features side by side."""
    if not isinstance(carry, rj.BidirectionalCarry):
        return carry
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=-1), carry.forward, carry.backward)
