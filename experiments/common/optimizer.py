"""Optimisers and learning-rate schedules of optax, by name."""

from typing import Literal

import optax

Optimizer = Literal["adam", "adamw", "rmsprop", "sgd"]
Schedule = Literal["constant", "cosine", "exponential"]


def make_schedule(
    kind: Schedule, learning_rate: float, steps: int, steps_per_epoch: int, decay: float, decay_after: int, warmup: int
) -> optax.Schedule:
    """The learning rate of each step.

    Args:
      kind: "constant"; "cosine" from `learning_rate` to a hundredth of it at the last step;
        "exponential": times `decay` with each epoch behind the first `decay_after`.
      learning_rate: its highest value.
      steps: steps of the whole training.
      steps_per_epoch: steps of one epoch.
      decay: factor of one epoch.
      decay_after: epochs without decay.
      warmup: steps of linear growth from 0, before and not in place of what follows.
    """
    body: optax.Schedule
    if kind == "cosine":
        body = optax.cosine_decay_schedule(learning_rate, max(1, steps - warmup), alpha=0.01)
    elif kind == "exponential":
        start = decay_after * steps_per_epoch
        body = optax.exponential_decay(learning_rate, steps_per_epoch, decay, transition_begin=start, staircase=True)
    else:
        body = optax.constant_schedule(learning_rate)
    if not warmup:
        return body
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), body], [warmup])


def make_optimizer(
    kind: Optimizer, schedule: optax.Schedule, clip_norm: float, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """The optimiser, behind clipping of the gradient to the global norm `clip_norm` (0: none)."""
    update = {
        "adam": lambda: optax.adam(schedule),
        "adamw": lambda: optax.adamw(schedule, weight_decay=weight_decay),
        "rmsprop": lambda: optax.rmsprop(schedule, decay=0.95, momentum=momentum or None),
        "sgd": lambda: optax.sgd(schedule, momentum=momentum or None),
    }[kind]()
    return optax.chain(optax.clip_by_global_norm(clip_norm), update) if clip_norm else update
