"""Measuring a translator: perplexity, whole outputs that are right, BLEU and chrF."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sacrebleu

from experiments.common.losses import cross_entropy
from experiments.seq2seq.data import Batch, Encoded
from experiments.seq2seq.model import Seq2Seq
from experiments.seq2seq.tokens import PLAIN, Tokenizer
from experiments.seq2seq.translate import ROWS, Output, words

Watch = Callable[[int], Any]


def predicted(batch: Batch) -> tuple[Any, Any, Any]:
    """What the decoder reads, what it is to predict `[T-1, B]`, and which of that is true."""
    there = jnp.arange(1, batch.target.shape[0])[:, None] < batch.target_lengths[None]
    return batch.target[:-1], batch.target[1:], there


@functools.partial(jax.jit, static_argnums=0)
def _sum_of_losses(model: Seq2Seq, params: Any, batch: Batch) -> jax.Array:
    """The summed loss, in nats, of all true tokens of a batch, `<eos>` among them."""
    read, wanted, there = predicted(batch)
    logits = model.apply(params, batch.source, batch.source_lengths, read)
    return jnp.sum(jnp.where(there, cross_entropy(logits, wanted, 0.0), 0))


def perplexity(model: Seq2Seq, params: Any, pairs: Encoded, watch: Watch = lambda n: None) -> dict[str, float]:
    """The mean loss per true target token, `<eos>` among them, and its exponential."""
    total, tokens = 0.0, 0
    for numbers in pairs.batches(ROWS):
        batch = pairs.batch(numbers, ROWS)
        total += float(_sum_of_losses(model, params, batch))
        tokens += int(np.maximum(batch.target_lengths - 1, 0).sum())
        watch(len(numbers))
    loss = total / tokens
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}


def reference(text: str, tokenizer: Tokenizer) -> str:
    """A true target as it is compared with outputs: cut as they are, or as it stands where they become plain text."""
    return text if tokenizer.bleu == PLAIN else tokenizer.join(tokenizer.cut(text))


def compare(outputs: Sequence[Sequence[Output]], pairs: Encoded, tokenizer: Tokenizer) -> tuple[dict[str, float], str]:
    """The best output of each pair against the text of its true target.

    Returns:
      Sequence accuracy, corpus BLEU and chrF; and the signature of BLEU, which says how it was computed.
    """
    guesses = [tokenizer.join(words(best[0], tokenizer)) for best in outputs]
    truths = [reference(pairs.pairs[number][1], tokenizer) for number in range(len(pairs))]
    bleu = sacrebleu.BLEU(tokenize=tokenizer.bleu, force=True)
    values = {
        "sequence_accuracy": float(np.mean([guess == truth for guess, truth in zip(guesses, truths, strict=True)])),
        "bleu": bleu.corpus_score(guesses, [truths]).score,
        "chrf": sacrebleu.CHRF().corpus_score(guesses, [truths]).score,
    }
    return values, str(bleu.get_signature())
