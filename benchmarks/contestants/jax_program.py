"""From a layer written in JAX to a program that can be timed. Every JAX contestant goes this way."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.contestants.base import Refused
from benchmarks.problem import (
    FORWARD,
    LEARNING_RATE,
    PADDED,
    STEP,
    TRAIN,
    Answer,
    Job,
    Problem,
    gradients,
    lengths,
    outputs,
    trained,
)


class Layer(NamedTuple):
    """A layer as users of its framework write it, as pure functions of its parameters.

    Attributes:
      params: parameters in the framework's own structure, any pytree of arrays.
      apply: `(params, xs, carry) -> (carry, ys)` over the whole sequence.
      step: `(params, carry, x [B, D]) -> (carry, y)`.
      carry: turns leaves in the order of `benchmarks.cells` into the framework's own carry; each leaf `[B, H]`.
      common_carry: the way back, as a tuple.
      common_params: turns gradients in the structure of `params` into `(d w_x, d w_h, d b[, d b_n])`.
      padded: `(params, xs, carry, lengths [B]) -> (carry, ys)`; None where rows can't have lengths of their own.
      batch_first: `xs` and `ys` are `[B, T, ...]`.
    """

    params: Any
    apply: Callable[[Any, Any, Any], tuple[Any, Any]]
    step: Callable[[Any, Any, Any], tuple[Any, Any]]
    carry: Callable[[tuple[Any, ...]], Any]
    common_carry: Callable[[Any], tuple[Any, ...]]
    common_params: Callable[[Any], tuple[Any, ...]]
    padded: Callable[[Any, Any, Any, Any], tuple[Any, Any]] | None = None
    batch_first: bool = False


class JaxContestant:
    """A contestant written in JAX.

    Args:
      name: how rows and tables call it.
      layer: from a job and one of its problems to the `Layer`; raises `Refused`.
      includes: see `Contestant`.
      gpu_options: of XLA's compiler for GPUs; with some of them it refuses other devices.
    """

    def __init__(
        self,
        name: str,
        layer: Callable[[Job, Problem], Layer],
        includes: str = "",
        gpu_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.layer, self.includes, self.gpu_options = name, layer, includes, gpu_options

    def build(self, job: Job, problems: Sequence[Problem]) -> "JaxProgram":
        """Compiles the function of a job."""
        platform = jax.default_backend()
        if self.gpu_options and platform != "gpu":
            raise Refused(f"CUDA graphs are of GPUs, and this is a {platform}")
        layer = self.layer(job, problems[0])
        if job.mode == PADDED and layer.padded is None:
            raise Refused(f"rows of {self.name} have no lengths of their own")
        return JaxProgram(job, layer, problems, self.gpu_options)


class JaxProgram:
    """A function compiled ahead of time, its arguments on the device, a set for each problem."""

    def __init__(
        self, job: Job, layer: Layer, problems: Sequence[Problem], options: Mapping[str, Any] | None = None
    ) -> None:
        self.job, self.layer = job, layer
        self.calls = 0
        function, self.arguments = _function(job, layer, problems)
        donate = (0,) if job.mode == TRAIN else ()
        start = time.perf_counter()
        lowered = jax.jit(function, donate_argnums=donate).lower(*self._first())
        self.compiled = lowered.compile(dict(options) if options else None)
        self.compile_s: float | None = time.perf_counter() - start
        analysis = self.compiled.memory_analysis()
        self.temp_bytes = self.peak_bytes = None
        if analysis is not None:
            self.temp_bytes = analysis.temp_size_in_bytes
            self.peak_bytes = (
                analysis.argument_size_in_bytes + analysis.output_size_in_bytes
                + analysis.temp_size_in_bytes - analysis.alias_size_in_bytes
            )  # fmt: skip
        self.state = _training_state(layer.params) if job.mode == TRAIN else None

    def _first(self) -> tuple[Any, ...]:
        """The arguments of the first problem, with a training state of their own, which the call will consume."""
        first = self.arguments[0]
        return (_training_state(self.layer.params), *first) if self.job.mode == TRAIN else first

    def answer(self) -> Answer:
        """The answer to the first problem."""
        result = self.compiled(*self._first())
        layer, job = self.layer, self.job
        arrays = lambda leaves: tuple(np.asarray(leaf, np.float64) for leaf in leaves)
        time_first = lambda xs: np.swapaxes(np.asarray(xs, np.float64), 0, 1) if layer.batch_first else np.asarray(xs)
        if job.mode == TRAIN:
            ((new, moments), loss) = result
            seen = jax.tree.map(lambda m: m / (1 - 0.9), _adam(moments).mu)
            old = jax.tree.leaves(layer.params)
            change = lambda a, b: np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).ravel()
            moved = np.concatenate([change(a, b) for a, b in zip(jax.tree.leaves(new), old, strict=True)])
            return trained(job, loss, arrays(layer.common_params(seen)), moved)
        if job.mode == STEP:
            carry, y = result
            return outputs(job, np.asarray(y, np.float64)[None], arrays(layer.common_carry(carry)))
        if job.mode == FORWARD:
            carry, ys = result
            return outputs(job, time_first(ys), arrays(layer.common_carry(carry)))
        params, xs, carry = result
        return gradients(job, arrays(layer.common_params(params)), time_first(xs), arrays(layer.common_carry(carry)))

    def time(self, calls: int) -> list[float]:
        """Seconds of each call."""
        training, seconds = self.job.mode == TRAIN, []
        for _ in range(calls):
            arguments = self.arguments[self.calls % len(self.arguments)]
            self.calls += 1
            start = time.perf_counter()
            if training:
                self.state, loss = self.compiled(self.state, *arguments)
                jax.block_until_ready((self.state, loss))
            else:
                jax.block_until_ready(self.compiled(*arguments))
            seconds.append(time.perf_counter() - start)
        return seconds


def _training_state(params: Any) -> Any:
    """A copy of the parameters, since a training step consumes its state, and the state of the optimiser."""
    return jax.tree.map(jnp.array, params), optax.adam(LEARNING_RATE).init(params)


def _adam(state: Any) -> Any:
    """The moments within optax's state."""
    return next(part for part in state if hasattr(part, "mu"))


def _function(job: Job, layer: Layer, problems: Sequence[Problem]) -> tuple[Callable[..., Any], list[tuple[Any, ...]]]:
    """The function of a mode, and its arguments for each problem."""
    sequence = lambda xs: jnp.asarray(np.swapaxes(xs, 0, 1) if layer.batch_first else xs)
    carry_of = lambda leaves: layer.carry(tuple(jnp.asarray(leaf) for leaf in leaves))
    if job.mode == STEP:
        return layer.step, [(layer.params, carry_of(p.carry), jnp.asarray(p.xs[0])) for p in problems]
    if job.mode == FORWARD:
        return layer.apply, [(layer.params, sequence(p.xs), carry_of(p.carry)) for p in problems]
    if job.mode == TRAIN:
        optimizer = optax.adam(LEARNING_RATE)

        def train(state: Any, xs: Any, carry: Any, targets: Any) -> Any:
            params, moments = state
            error = lambda params: jnp.mean(jnp.square(layer.apply(params, xs, carry)[1] - targets))
            loss, grads = jax.value_and_grad(error)(params)
            updates, moments = optimizer.update(grads, moments, params)
            return (optax.apply_updates(params, updates), moments), loss

        return train, [(sequence(p.xs), carry_of(p.carry), sequence(p.y_weights)) for p in problems]

    def loss(params: Any, xs: Any, carry: Any, y_weights: Any, carry_weights: Any, *lengths: Any) -> Any:
        run: Any = layer.padded if lengths else layer.apply
        last, ys = run(params, xs, carry, *lengths)
        products = jax.tree.map(lambda a, b: jnp.sum(a * b.astype(a.dtype)), (ys, last), (y_weights, carry_weights))
        return sum(leaf.astype(jnp.float32) for leaf in jax.tree.leaves(products))

    given = (jnp.asarray(lengths(job)),) if job.mode == PADDED else ()
    arguments = [
        (layer.params, sequence(p.xs), carry_of(p.carry), sequence(p.y_weights), carry_of(p.carry_weights), *given)
        for p in problems
    ]
    return jax.grad(loss, argnums=(0, 1, 2)), arguments
