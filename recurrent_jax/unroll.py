"""`unroll`, a cell over a sequence, and `step`: check the call, choose a kernel, and give padding its meaning."""

import functools
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from recurrent_jax import arguments, kernels
from recurrent_jax.cells.base import Array
from recurrent_jax.cells.shapes import hashable
from recurrent_jax.kernels import Explanation, Implementation, checkpoint
from recurrent_jax.kernels.contract import Inputs, Options, Outputs, select
from recurrent_jax.kernels.mesh import spread_alike, vary_alike


def unroll(
    cell: Any,
    params: Any,
    xs: Array,
    carry: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reverse: bool = False,
    return_carries: bool = False,
    implementation: Implementation = None,
    checkpoint_every: int | None = None,
    unroll: int = 1,
) -> Any:
    """Runs `cell` over a sequence.

        carry_t, y_t = cell.step(params, carry_{t-1}, x_t)        t = 0 .. T-1

    A step whose `mask` is False, or at or behind its row's length, leaves the carry as it was and
    gives an output of exactly 0. What `xs` holds there, NaN too, changes neither results nor
    gradients: the cell sees zeros in its place, so its step has to be differentiable at x = 0.
    Works under jit, grad, vmap and in forward mode, to any order.

    Args:
      cell: a cell of this library, or any object with `init`, `initial_carry` and `step`.
      params: what `cell.init` returned.
      xs: inputs `[T, ..., D]`, time first, then any batch shape (also none), floating.
      carry: the carry before the first step, as `cell.initial_carry(params, batch_shape)` returns
        it, which is also the default.
      lengths: integers of the batch shape, from 0 to T: the true steps of each row. A row of length
        0 returns its `carry`.
      mask: bool `[T, ...]`, in place of `lengths`: the true steps, gaps allowed.
      resets: bool `[T, ...]`: where True, `cell.initial_carry` is restored BEFORE x_t is consumed.
        A reset at a masked step does nothing.
      reverse: run from the last true step to the first; outputs stay aligned with the inputs.
      return_carries: also return the carry after each step.
      implementation: name of a kernel, or a tuple of names tried in order; None takes the first of
        the registry that does not refuse, nor has to be asked for by name (see `explain`).
      checkpoint_every: store carries only every so many steps (every T/2 at most) and compute the rest again in the
        backward pass; near sqrt(T) it saves the most.
      unroll: steps in each iteration of the compiled loop, as in `jax.lax.scan`.

    Returns:
      `(carry, ys)`: the carry after the last true step and the outputs `[T, ..., H]`; with
      `return_carries`, `(carry, ys, carries)`, each leaf of `carries` with a leading T.

    Raises:
      TypeError: `cell` lacks a method; `xs` or `lengths` or `mask` or `resets` is of a wrong dtype.
      ValueError: an argument has a wrong shape, structure or value; the message names it.
      NotImplementedError: the kernel asked for can't run this call; the message says why.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> cell = rj.GRU(hidden_size=8)
      >>> params = cell.init(jax.random.key(0), in_size=3)
      >>> xs = jnp.ones((10, 2, 3))
      >>> carry, ys = rj.unroll(cell, params, xs, lengths=[10, 4])
      >>> bool((carry.h[1] == ys[3, 1]).all()), float(abs(ys[4:, 1]).max())
      (True, 0.0)
    """
    inputs, options = _prepare(
        cell, params, xs, carry, lengths, mask, resets, reverse, return_carries, implementation, unroll
    )
    chosen = kernels.choose(implementation, cell, inputs, options)
    every = None if checkpoint_every is None else arguments.check_positive("checkpoint_every", checkpoint_every)
    if every is not None and jax.export.is_symbolic_dim(inputs.xs.shape[0]):
        raise NotImplementedError(f"checkpoint_every: expected xs of a known number of steps, got {inputs.xs.shape}")
    out = _start(cell, chosen, inputs, options, every)
    return (out.carry, out.ys, out.carries) if return_carries else (out.carry, out.ys)


def step(cell: Any, params: Any, carry: Any, x: Array, *, implementation: Implementation = None) -> Any:
    """One step, as `cell.step` defines it, by the kernel that is fastest: for streaming.

    On a CPU compiled code runs it, where there is some for the cell; everywhere else, and unless `implementation` names
    another kernel, it is `cell.step`.

    Args:
      cell: a cell of this library, or any object with `init`, `initial_carry` and `step`.
      params: what `cell.init` returned.
      carry: the carry before the step; None takes the initial one.
      x: one input `[..., D]`, of any batch shape.
      implementation: as in `unroll`.

    Returns:
      `(carry, y)`: the carry after the step and the output `[..., H]`.

    Raises:
      What `unroll` raises, of `xs [1, ..., D]`.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> cell = rj.GRU(hidden_size=8)
      >>> params = cell.init(jax.random.key(0), in_size=3)
      >>> carry, y = rj.step(cell, params, cell.initial_carry(params), jnp.ones(3))
      >>> y.shape
      (8,)
    """
    x = jnp.asarray(x)
    if not x.ndim:
        raise ValueError(f"x: expected [..., D], got {x!r}")
    xs = jnp.expand_dims(x, 0)
    inputs, options = _prepare(cell, params, xs, carry, None, None, None, False, False, implementation, 1)
    chosen = kernels.choose(implementation, cell, inputs, options)
    # A loop of one step is no faster than the step.
    if chosen in ("fused", "scan"):
        return cell.step(params, inputs.carry, x)
    out = _start(cell, chosen, inputs, options, None)
    return out.carry, jax.tree.map(lambda y: jnp.squeeze(y, 0), out.ys)


def explain(
    cell: Any,
    params: Any,
    xs: Array,
    carry: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reverse: bool = False,
    return_carries: bool = False,
    implementation: Implementation = None,
    checkpoint_every: int | None = None,
    unroll: int = 1,
) -> Explanation:
    """Says which kernel `unroll` would run for the same arguments, and why not the ones before it.

    Args:
      Those of `unroll`. `checkpoint_every` fits every kernel and changes nothing here.

    Returns:
      An `Explanation`: it prints as a table, and has the fields `chosen` and `verdicts`.

    Raises:
      What `unroll` raises.

    Example:
      >>> import jax, jax.numpy as jnp, recurrent_jax as rj
      >>> cell = rj.LSTM(hidden_size=8)
      >>> params = cell.init(jax.random.key(0), in_size=3)
      >>> rj.explain(cell, params, jnp.ones((10, 2, 3)), implementation=("fused", "scan"))
      fused  runs
      scan   not needed
    """
    if checkpoint_every is not None:
        arguments.check_positive("checkpoint_every", checkpoint_every)
    inputs, options = _prepare(
        cell, params, xs, carry, lengths, mask, resets, reverse, return_carries, implementation, unroll
    )
    return kernels.explain(implementation, cell, inputs, options)


def _prepare(
    cell: Any,
    params: Any,
    xs: Any,
    carry: Any,
    lengths: Any,
    mask: Any,
    resets: Any,
    reverse: bool,
    return_carries: bool,
    implementation: Implementation,
    unroll: int,
) -> tuple[Inputs, Options]:
    """Checks a call and states it in the terms of the kernels."""
    arguments.check_cell_methods(cell)
    kernels.candidates(implementation)
    options = Options(
        arguments.check_bool("reverse", reverse),
        arguments.check_bool("return_carries", return_carries),
        arguments.check_positive("unroll", unroll),
    )
    xs = arguments.check_inputs(cell, params, xs)
    batch_shape = xs.shape[1:-1]
    mask = arguments.mask_from(lengths, mask, xs.shape[:-1])
    resets = arguments.check_flags("resets", resets, xs.shape[:-1])
    if carry is not None:
        arguments.check_carry(cell, params, carry, batch_shape)
        carry = jax.tree.map(jnp.asarray, carry)
    needed = carry is None or resets is not None
    initial = spread_alike(cell.initial_carry(params, batch_shape), xs) if needed else None
    inputs = Inputs(params, xs, initial if carry is None else carry, None if resets is None else initial, mask, resets)
    return inputs, options


def _start(cell: Any, name: str, inputs: Inputs, options: Options, every: int | None) -> Outputs:
    """Runs the kernel `name`, compiled where jit can tell the cell from others."""
    run = _run_compiled if hashable(cell) else _run
    return run(cell, name, vary_alike(inputs), options, every, kernels.setting(name))


def _run(cell: Any, name: str, inputs: Inputs, options: Options, every: int | None, setting: Any) -> Outputs:
    """Runs the kernel `name` on inputs whose padding is replaced by zeros so that it can do no harm."""
    del setting  # which tells programs apart that are compiled for tests from others
    if inputs.mask is not None:
        inputs = inputs._replace(xs=select(inputs.mask, inputs.xs, jnp.zeros_like(inputs.xs)))
    kernel = kernels.by_name(name)
    if every is None or every >= len(inputs.xs):
        return kernel.run(cell, inputs, options)
    return checkpoint.run(kernel, cell, inputs, options, every)


# A call outside of jit is compiled once for each cell and shape, and found again by the next call.
_run_compiled = functools.partial(jax.jit, static_argnums=(0, 1, 3, 4, 5))(_run)
