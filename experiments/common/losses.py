"""Losses over classes."""

import jax
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy `[...]` in nats of logits `[..., C]` and true classes `[...]`.

    Of the target probability the share `smoothing` is spread over all classes alike (Szegedy et al., "Rethinking the
    inception architecture", 2015). The softmax is that of float32.
    """
    logits = logits.astype("float32")
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not smoothing:
        return losses
    # -mean of log p over all classes, without an array of targets that is as large as the logits.
    uniform = jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
    return (1 - smoothing) * losses + smoothing * uniform
