"""What the compiled functions compute, as programs of JAX, for export and for other devices than CPUs.

Each takes and returns what its namesake in calls.py does, what is saved between the passes too: one may run the forward
pass and the other the backward pass. The equations are those of src/cells.h.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrent_jax.cells.base import Array, accumulator, along_batch, matmul
from recurrent_jax.kernels.contract import Inputs, masked_step, select
from recurrent_jax.kernels.native.problem import TANH, Carries, Cell, Flags, Kind, Saved, Weights


def forward(kind: Kind, save: bool, return_carries: bool) -> Callable[..., tuple[Saved, Array | None]]:
    """See `calls.forward`."""

    def function(weights: Weights, steps: tuple[Array, Flags], carries: Carries) -> tuple[Saved, Array | None]:
        xs, flags = steps
        inputs = Inputs(weights, xs, (carries.h, carries.c), (carries.initial_h, carries.initial_c))

        def step(start: Any, x: Array) -> Any:
            # Inputs are projected within the loop, as `fused` does where this is the default kernel.
            z, r = matmul(x, weights.w_x), matmul(start[0], weights.w_h)
            z = z + along_batch(weights.b.astype(z.dtype), z)
            (h, c), saved = _forward_step(kind.cell, weights, start, z, r)
            return (h.astype(x.dtype), c), jax.tree.map(lambda a: a.astype(x.dtype), saved)

        def body(carry: Any, given: Any) -> tuple[Any, Saved]:
            _, (h, c), (gates, extra) = masked_step(step, inputs, carry, *given)
            kept = Saved(gates, extra, h, c) if save else Saved(None, None, h, c if return_carries else None)
            return (h, c), kept

        last, saved = lax.scan(body, inputs.carry, (xs, *flags), reverse=kind.reverse)
        return saved, last[1]

    return function


def backward(kind: Kind) -> Callable[..., tuple[Any, Carries]]:
    """See `calls.backward`."""

    def function(weights: tuple[Array, Array | None], steps: Any, rows: Any) -> tuple[Any, Carries]:
        w_h, peepholes = weights
        saved, flags, d_ys, d_hs, d_cs = steps
        carries, dh, dc = rows
        exact = accumulator(w_h.dtype)
        up = lambda tree: jax.tree.map(lambda a: a.astype(exact), tree)
        # The barrier keeps the transposed copy outside the loop, in the layout that the matmul wants.
        w_h_transposed = lax.optimization_barrier(w_h.T)
        starts = (
            _starts(kind, flags, carries.h, carries.initial_h, saved.hs),
            _starts(kind, flags, carries.c, carries.initial_c, saved.cs),
        )

        def body(state: Any, given: Any) -> Any:
            d_carry, d_initial = state
            saved, start, dy, d_after, (keep, reset) = given
            saved, start, dy, d_after = up((saved, start, dy, d_after))
            if d_after is not None:
                d_carry = jax.tree.map(jnp.add, d_carry, d_after)
            dh, dc = d_carry
            d_pre, (d_h, d_c) = _backward_step(kind.cell, peepholes, saved, start, dh + dy, dc)
            d_pre = jax.tree.map(lambda d: d.astype(w_h.dtype), d_pre)
            d_start = d_h + matmul(_recurrent(*d_pre), w_h_transposed), d_c
            zeros = jax.tree.map(jnp.zeros_like, (d_start, d_pre))
            if reset is not None:
                acts = reset if keep is None else reset & keep
                d_initial = jax.tree.map(jnp.add, d_initial, select(acts, d_start, zeros[0]))
                d_start = select(reset, zeros[0], d_start)
            if keep is not None:
                d_start, d_pre = select(keep, (d_start, d_pre), (d_carry, zeros[1]))
            return (d_start, d_initial), d_pre

        d_initial = jax.tree.map(lambda a: jnp.zeros_like(a, exact), (carries.initial_h, carries.initial_c))
        d_after = None if d_hs is None else (d_hs, d_cs)
        (d_carry, d_initial), d_pre = lax.scan(
            body, ((dh, dc), d_initial), (saved, starts, d_ys, d_after, flags), reverse=not kind.reverse
        )
        return d_pre, Carries(*d_carry, *d_initial)

    return function


def inputs(kind: Kind) -> Callable[..., tuple[Array, tuple[()]]]:
    """See `calls.inputs`."""
    del kind

    def function(w_x: Array, steps: tuple[Array, Flags], rows: tuple[()]) -> tuple[Array, tuple[()]]:
        return matmul(steps[0], w_x.T).astype(w_x.dtype), rows

    return function


def gradient(kind: Kind) -> Callable[[Any, Carries], Weights]:
    """See `calls.gradient`."""

    def function(steps: Any, carries: Carries) -> Weights:
        xs, hs, cs, flags, d_gates, d_extra = steps
        flat = lambda array: array.reshape(-1, array.shape[-1])
        starts = _starts(kind, flags, carries.h, carries.initial_h, hs)
        exact = accumulator(xs.dtype)
        d_peepholes = None
        if kind.cell.has_peepholes:
            d_i, d_f, _, d_o = jnp.split(flat(d_gates).astype(exact), 4, axis=-1)
            before = flat(_starts(kind, flags, carries.c, carries.initial_c, cs))
            d_peepholes = jnp.stack([(d_i * before).sum(0), (d_f * before).sum(0), (d_o * flat(cs)).sum(0)])
        return Weights(
            w_x=matmul(flat(xs).T, flat(d_gates)),
            b=flat(d_gates).sum(0, exact),
            w_h=matmul(flat(starts).T, flat(_recurrent(d_gates, d_extra))),
            b_n=None if d_extra is None else flat(d_extra).sum(0, exact),
            peepholes=d_peepholes,
        )

    return function


def _starts(kind: Kind, flags: Flags, first: Any, initial: Any, after: Any) -> Any:
    """Half of the carry that each step consumed, from the same half after each step; None where there is none."""
    if after is None:
        return None
    first = first[jnp.newaxis]
    before = jnp.concatenate([after[1:], first] if kind.reverse else [first, after[:-1]])
    if flags.reset is None:
        return before
    return select(flags.reset, jnp.broadcast_to(initial[jnp.newaxis], before.shape), before)


def _recurrent(d_gates: Array, d_extra: Array | None) -> Array:
    """The cotangent of `h W_h`: what is recurrent of the GRU's n goes through the reset gate."""
    if d_extra is None:
        return d_gates
    return jnp.concatenate([d_gates[..., : -d_extra.shape[-1]], d_extra], axis=-1)


def _forward_step(cell: Cell, weights: Weights, start: Any, z: Array, r: Array) -> Any:
    """The next carry, and the gates and `extra`, from the carry, `z = x W_x + b` and `r = h W_h`."""
    h, c = start
    if cell.has_c:
        # Where i and f are coupled, i is what f leaves.
        *pre, z_f, z_g, z_o = jnp.split(z + r, cell.gates, axis=-1)
        seen = lambda gate, c: _through_peephole(weights.peepholes, gate, c)
        f, g = jax.nn.sigmoid(z_f + seen(1, c)), jnp.tanh(z_g)
        i = jax.nn.sigmoid(pre[0] + seen(0, c)) if pre else 1 - f
        c = f * c + i * g
        o = jax.nn.sigmoid(z_o + seen(2, c))
        return (o * jnp.tanh(c), c), (jnp.concatenate([*([i] if pre else []), f, g, o], axis=-1), None)
    if cell.has_extra:
        (z_r, z_z, z_n), (r_r, r_z, r_n) = jnp.split(z, 3, axis=-1), jnp.split(r, 3, axis=-1)
        reset, update = jax.nn.sigmoid(z_r + r_r), jax.nn.sigmoid(z_z + r_z)
        assert weights.b_n is not None
        extra = r_n + along_batch(weights.b_n, r_n)
        n = jnp.tanh(z_n + reset * extra)
        return ((1 - update) * n + update * h, None), (jnp.concatenate([reset, update, n], axis=-1), extra)
    if cell != TANH:
        return (jax.nn.relu(z + r), None), (None, None)
    h = jnp.tanh(z + r)
    return (h, None), (1 - h * h if cell.saves_gates(start[0].dtype) else None, None)


def _backward_step(cell: Cell, peepholes: Any, saved: Any, start: Any, dh: Array, dc: Any) -> Any:
    """The cotangents of the gates' pre-activations and of `extra`, and of the carry but for the recurrent matmul."""
    h_before, c_before = start
    none = jnp.zeros_like(dh)
    if cell.has_c:
        *kept, f, g, o = jnp.split(saved.gates, cell.gates, axis=-1)
        i = kept[0] if kept else 1 - f
        back = lambda gate, d: _through_peephole(peepholes, gate, d)
        y = jnp.tanh(saved.cs)
        d_o = dh * y * o * (1 - o)
        dc = dc + dh * o * (1 - y * y) + back(2, d_o)
        d_i, d_f = dc * g * i * (1 - i), dc * (c_before if kept else c_before - g) * f * (1 - f)
        d_pre = [*([d_i] if kept else []), d_f, dc * i * (1 - g * g), d_o]
        return (jnp.concatenate(d_pre, axis=-1), None), (none, dc * f + back(0, d_i) + back(1, d_f))
    if cell.has_extra:
        r, z, n = jnp.split(saved.gates, 3, axis=-1)
        dn = dh * (1 - z) * (1 - n * n)
        d_gates = [dn * saved.extra * r * (1 - r), dh * (h_before - n) * z * (1 - z), dn]
        return (jnp.concatenate(d_gates, axis=-1), dn * r), (dh * z, None)
    if cell != TANH:
        return (jnp.where(saved.hs > 0, dh, none), None), (none, None)
    slope = 1 - saved.hs * saved.hs if saved.gates is None else saved.gates
    return (dh * slope, None), (none, None)


def _through_peephole(peepholes: Array | None, gate: int, values: Array) -> Any:
    """`values [..., H]` times the peephole of i, f or o; nothing where the cell has none."""
    return 0 if peepholes is None else along_batch(peepholes[gate], values) * values
