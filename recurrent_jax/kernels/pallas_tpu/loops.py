"""The loops of `pallas_tpu`, forward and backward: what streams, what stays, and a step."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from recurrent_jax.cells.base import Array
from recurrent_jax.kernels.contract import Inputs, Outputs, masked_step
from recurrent_jax.kernels.pallas_tpu.plan import Operand, Plan, over, read, result, write, zeros
from recurrent_jax.kernels.pointwise import Pass, Saved, State


def plans(unrolled: Pass) -> tuple[Plan, Plan]:
    """Those of the forward pass that saves and of the backward pass; to be traced, not to be run."""
    layout = _Layout(unrolled.inputs)
    forward = _forward_plan(unrolled, save=True)
    out = {name: zeros(results) for name, results in forward.results.items()}
    saved = Saved(*layout.shaped_steps((out["starts"], out["pre"])))
    cotangent = Outputs(unrolled.inputs.carry, *layout.shaped_steps((out["ys"], out["carries"])))
    return forward, _backward_plan(unrolled, saved, cotangent)


def forward(unrolled: Pass, save: bool, interpret: Any) -> tuple[Outputs, Saved]:
    """The outputs, and with `save` what the backward pass needs."""
    layout = _Layout(unrolled.inputs)

    def begin(ins: Any, outs: Any) -> None:
        write(outs["last"], read(ins["carry"]))

    def step(ins: Any, outs: Any, t: Any) -> None:
        params = unrolled.params(read(ins["own"]), _without_values(unrolled.others))
        advance = lambda carry, z: unrolled.step(params, ins["w_h"][...], carry, z)
        here = unrolled.inputs._replace(initial=read(ins["initial"]))
        flags = _flag(ins["keep"], t), _flag(ins["reset"], t)
        start, carry, (y, pre) = masked_step(advance, here, read(outs["last"]), ins["z"][t], *flags)
        write(outs["last"], carry)
        write(outs["ys"], y, t)
        if save:
            write((outs["starts"], outs["pre"]), (start, pre), t)
        if unrolled.options.return_carries:
            write(outs["carries"], carry, t)

    out = _forward_plan(unrolled, save).run(begin, step, interpret)
    ys, starts, pre, carries = layout.shaped_steps([out[name] for name in ("ys", "starts", "pre", "carries")])
    return Outputs(layout.shaped(out["last"]), ys, carries), Saved(starts, pre)


def backward(unrolled: Pass, saved: Saved, cotangent: Outputs, interpret: Any) -> tuple[Array, State, list[Array]]:
    """The `h` that each step consumed, the last state, and the cotangents of the pre-activations."""
    layout = _Layout(unrolled.inputs)

    def begin(ins: Any, outs: Any) -> None:
        state = outs["state"]
        write(state.carry, read(ins["d_last"]))
        for ref in jax.tree.leaves((state.own, state.initial)):
            ref[...] = jnp.zeros(ref.shape, ref.dtype)

    def step(ins: Any, outs: Any, t: Any) -> None:
        start, pre, d_y, d_after = (read(ins[name], t) for name in ("starts", "pre", "d_ys", "d_carries"))
        keep, reset = _flag(ins["keep"], t), _flag(ins["reset"], t)
        own, others, w_h_transposed = read(ins["own"]), _without_values(unrolled.others), ins["w_h_transposed"][...]
        state, d_pre = unrolled.reverse_step(
            own, others, w_h_transposed, read(outs["state"]), start, pre, d_y, d_after, keep, reset
        )
        write(outs["state"], state)
        write(outs["d_pre"], d_pre, t)

    out = _backward_plan(unrolled, saved, cotangent).run(begin, step, interpret)
    state = out["state"]
    own = [total.sum(0) for total in state.own]
    last = State(layout.shaped(state.carry), own, layout.shaped(state.initial))
    return saved.starts.h, last, layout.shaped_steps(out["d_pre"])


def _forward_plan(unrolled: Pass, save: bool) -> Plan:
    cell, inputs, layout = unrolled.cell, unrolled.inputs, _Layout(unrolled.inputs)
    w_h = cell.recurrent_kernel(inputs.params)
    z = layout.flat_steps(cell.project(inputs.params, inputs.xs))
    carry = layout.flat(inputs.carry)
    operands = {
        "z": Operand(z, "TB"),
        "keep": layout.flags(inputs.mask),
        "reset": layout.flags(inputs.resets),
        "w_h": Operand(w_h),
        "own": over("", unrolled.own),
        "carry": over("B", carry),
        "initial": over("B", layout.flat(inputs.initial)),
    }
    _, (y, pre) = jax.eval_shape(lambda *args: unrolled.step(inputs.params, w_h, *args), carry, z[0])
    every = lambda tree: jax.tree.map(lambda a: result("TB", (layout.steps, *a.shape), a.dtype), tree)

    def results(_: int) -> Any:
        return {
            "last": jax.tree.map(lambda a: result("B", a.shape, a.dtype), carry),
            "ys": every(y),
            "starts": every(carry) if save else None,
            "pre": every(pre) if save else None,
            "carries": every(carry) if unrolled.options.return_carries else None,
        }

    return Plan(operands, results, layout.steps, layout.rows, unrolled.options.reverse)


def _backward_plan(unrolled: Pass, saved: Saved, cotangent: Outputs) -> Plan:
    inputs, layout = unrolled.inputs, _Layout(unrolled.inputs)
    state = unrolled.last_state(cotangent)
    over_steps = lambda tree: over("TB", layout.flat_steps(tree))
    operands = {
        "starts": over_steps(unrolled.read(saved.starts)),
        "pre": over_steps(list(saved.pre)),
        "d_ys": over_steps(cotangent.ys),
        "d_carries": over_steps(cotangent.carries),
        "keep": layout.flags(inputs.mask),
        "reset": layout.flags(inputs.resets),
        "w_h_transposed": Operand(unrolled.cell.recurrent_kernel(inputs.params).T),
        "own": over("", unrolled.own),
        "d_last": over("B", layout.flat(state.carry)),
    }
    like = lambda tree: jax.tree.map(lambda a: result("B", a.shape, a.dtype), layout.flat(tree))

    def results(blocks: int) -> Any:
        own: Any = [result("b", (blocks, *leaf.shape), leaf.dtype) for leaf in state.own]
        return {
            "state": State(like(state.carry), own, like(state.initial)),
            "d_pre": [result("TB", o.array.shape, o.array.dtype)._replace(over=o) for o in operands["pre"]],
        }

    return Plan(operands, results, layout.steps, layout.rows, not unrolled.options.reverse)


class _Layout:
    """Arrays with all rows on one axis, and back."""

    def __init__(self, inputs: Inputs) -> None:
        self.steps, *self.batch, _ = inputs.xs.shape
        self.rows = math.prod(self.batch)

    def flat(self, tree: Any) -> Any:
        """`[batch..., n]` as `[B, n]`."""
        return jax.tree.map(lambda a: a.reshape(self.rows, *a.shape[len(self.batch) :]), tree)

    def flat_steps(self, tree: Any) -> Any:
        """`[T, batch..., n]` as `[T, B, n]`."""
        return jax.tree.map(lambda a: a.reshape(self.steps, self.rows, *a.shape[1 + len(self.batch) :]), tree)

    def shaped(self, tree: Any) -> Any:
        """`[B, n]` as `[batch..., n]`."""
        return jax.tree.map(lambda a: a.reshape(*self.batch, *a.shape[1:]), tree)

    def shaped_steps(self, tree: Any) -> Any:
        """`[T, B, n]` as `[T, batch..., n]`."""
        return jax.tree.map(lambda a: a.reshape(self.steps, *self.batch, *a.shape[2:]), tree)

    def flags(self, flags: Array | None) -> Any:
        """A mask or resets as operands `[T, B, 1]`, which VMEM has no bool for."""
        if flags is None:
            return None
        return Operand(flags.reshape(self.steps, self.rows, 1).astype(jnp.int32), "TB")


def _flag(ref: Any, t: Any) -> Array | None:
    return None if ref is None else ref[t] != 0


def _without_values(others: list[Array]) -> list[Array]:
    """What stands within a kernel for parameters that `pointwise` does not read."""
    return [jnp.zeros(leaf.shape, leaf.dtype) for leaf in others]
