"""Every transformation of JAX through every kernel gives what it gives through `scan`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from tests import cases

# Float64; second derivatives over three steps, in two orders of summation.
AGAINST_SCAN = 1e-12

CELLS = {
    "learned_start": cases.LearnedStart(2, param_dtype=jnp.float64),
    "peephole_lstm": rj.PeepholeLSTM(2, param_dtype=jnp.float64),
    "lstm": rj.LSTM(2, param_dtype=jnp.float64),
    "gru_after": rj.GRU(2, param_dtype=jnp.float64),
}
STEPS, ROWS = 3, 2
FLAGS = {
    "mask": np.array([[1, 1], [0, 1], [1, 0]], bool),
    "resets": np.array([[0, 1], [1, 0], [1, 1]], bool),
}
Function = Callable[..., Any]
TRANSFORMATIONS: dict[str, Callable[[Function, Any], Any]] = {}


def transformation(function: Callable[[Function, Any], Any]) -> Callable[[Function, Any], Any]:
    """Puts `(run, arguments) -> anything` on the list, where `run(params, xs, carry) -> (carry, ys)`."""
    TRANSFORMATIONS[function.__name__] = function
    return function


def total(run: Function) -> Function:
    """A number of which no derivative is constant."""
    return lambda *args: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(run(*args)))


def towards(tree: Any) -> Any:
    """A direction of the shape of `tree`."""
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), tree)


def stacked(tree: Any) -> Any:
    """Two different trees along a new leading axis."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 0.5 + 0.1]), tree)


def chunks(run: Function) -> Function:
    """Truncated backpropagation's loop: the outputs of two unrollings, each from where the one before it ended."""
    return lambda params, xs, carry: jax.lax.scan(lambda carry, xs: run(params, xs, carry), carry, stacked(xs))


@transformation
def jvp(run: Function, args: Any) -> Any:
    return jax.jvp(run, args, towards(args))


@transformation
def jvp_of_jit(run: Function, args: Any) -> Any:
    return jax.jvp(jax.jit(run), args, towards(args))


@transformation
def jit_of_jvp(run: Function, args: Any) -> Any:
    return jax.jit(lambda args, tangents: jax.jvp(run, args, tangents))(args, towards(args))


@transformation
def linearize(run: Function, args: Any) -> Any:
    out, push = jax.linearize(run, *args)
    return out, push(*towards(args))


@transformation
def vjp_of_linearize(run: Function, args: Any) -> Any:
    out, push = jax.linearize(run, *args)
    return jax.linear_transpose(push, *args)(towards(out))


@transformation
def jacfwd(run: Function, args: Any) -> Any:
    return jax.jacfwd(run, argnums=1)(*args)


@transformation
def jacrev(run: Function, args: Any) -> Any:
    return jax.jacrev(run, argnums=1)(*args)


@transformation
def hessian(run: Function, args: Any) -> Any:
    return jax.hessian(total(run), argnums=0)(*args)


@transformation
def forward_over_reverse(run: Function, args: Any) -> Any:
    return jax.jvp(jax.grad(total(run), argnums=(0, 1, 2)), args, towards(args))


@transformation
def reverse_over_forward(run: Function, args: Any) -> Any:
    return jax.grad(lambda *a: jax.jvp(total(run), a, towards(args))[1], argnums=(0, 1, 2))(*args)


@transformation
def reverse_over_the_gradient_of_a_tangent(run: Function, args: Any) -> Any:
    params, xs, carry = args

    def inner(tangents: Any) -> Any:
        slope = lambda *a: jnp.sum(jnp.sin(jax.jvp(lambda *b: run(*b)[1], a, tangents)[1]))
        return sum(jnp.sum(jnp.sin(d)) for d in jax.tree.leaves(jax.grad(slope, argnums=(0, 1, 2))(params, xs, carry)))

    return jax.grad(inner)(args)


@transformation
def reverse_over_reverse(run: Function, args: Any) -> Any:
    norm = lambda *a: sum(jnp.sum(d**2) for d in jax.tree.leaves(jax.grad(total(run), argnums=(0, 1, 2))(*a)))
    return jax.grad(norm, argnums=(0, 1, 2))(*args)


@transformation
def third_order(run: Function, args: Any) -> Any:
    along = lambda f: lambda t: jax.jvp(f, (t,), (jnp.ones_like(t),))[1]
    params, xs, carry = args
    line = lambda t: total(run)(params, xs + t * towards(xs), carry)
    return jax.grad(along(jax.grad(line)))(jnp.zeros(()))


@transformation
def vmap_of_grad(run: Function, args: Any) -> Any:
    params, xs, carry = args
    return jax.vmap(jax.grad(total(run), argnums=(0, 1, 2)), (None, 0, 0))(params, stacked(xs), stacked(carry))


@transformation
def grad_of_vmap(run: Function, args: Any) -> Any:
    params, xs, carry = args
    return jax.grad(total(jax.vmap(run, (None, 0, None))), argnums=(0, 1, 2))(params, stacked(xs), carry)


@transformation
def vmap_over_params(run: Function, args: Any) -> Any:
    params, xs, carry = args
    return jax.vmap(jax.value_and_grad(total(run), argnums=(0, 1, 2)), (0, None, None))(stacked(params), xs, carry)


@transformation
def vmap_over_the_second_axis(run: Function, args: Any) -> Any:
    params, xs, carry = args
    many = jnp.stack([xs, xs * 0.5], axis=1)
    return jax.vmap(jax.value_and_grad(total(run), argnums=1), (None, 1, None), out_axes=(0, 1))(params, many, carry)


@transformation
def checkpoint(run: Function, args: Any) -> Any:
    return jax.value_and_grad(jax.checkpoint(total(run)), argnums=(0, 1, 2))(*args)


@transformation
def grad_through_a_scan_of_unrollings(run: Function, args: Any) -> Any:
    return jax.grad(total(chunks(run)), argnums=(0, 1, 2))(*args)


@transformation
def reverse_over_reverse_of_a_scan_of_unrollings(run: Function, args: Any) -> Any:
    return reverse_over_reverse(chunks(run), args)


@transformation
def reverse_over_a_gradient_that_goes_past_a_scan_of_unrollings(run: Function, args: Any) -> Any:
    # The inner gradient takes all that unrolls as known; the outer one is of that.
    def scaled(scale: Any, params: Any, xs: Any, carry: Any) -> Any:
        number = lambda xs: scale**2 * total(run)(params, xs, carry)
        return jax.lax.scan(lambda sum_, xs: (sum_ + number(xs), None), jnp.zeros(()), stacked(xs))[0]

    return jax.grad(lambda args: jax.grad(scaled)(jnp.asarray(1.5), *args))(args)


@transformation
def forward_over_reverse_of_a_checkpointed_scan(run: Function, args: Any) -> Any:
    return forward_over_reverse(chunks(jax.checkpoint(run)), args)


@transformation
def grad_with_one_output_unused(run: Function, args: Any) -> Any:
    only_carry = jax.grad(total(lambda *a: run(*a)[0]), argnums=(0, 1, 2))(*args)
    only_outputs = jax.grad(total(lambda *a: run(*a)[1]), argnums=(0, 1, 2))(*args)
    return only_carry, only_outputs


# Where a cell that is not additive goes another way.
SECOND_ORDER = ("reverse_over_forward", "reverse_over_reverse")


def over_all_that_a_kernel_runs() -> list[Any]:
    """Every transformation of the case that has the most of those that a kernel runs, and some of a GRU."""

    def why(name: str, cell: str, kernel: Any) -> str | None:
        """A reason to skip it."""
        again = cases.of_callbacks(kernel.NAME) if "checkpoint" in name else None
        return cases.refusal(CELLS[cell], kernel) or again

    return [
        pytest.param(name, cell, kernel.NAME, marks=cases.skip_for(why(name, cell, kernel)))
        for kernel in cases.OTHERS
        for cell in (cases.richest(kernel.NAME).name, "gru_after")
        for name in (SECOND_ORDER if cell == "gru_after" else TRANSFORMATIONS)
    ]


@functools.cache
def result(name: str, cell: str, kernel: str) -> Any:
    """What the transformation gives, compiled."""
    args = tuple(cases.data(CELLS[cell], (ROWS,), STEPS, 2))
    run = lambda params, xs, carry: rj.unroll(CELLS[cell], params, xs, carry, **FLAGS, implementation=kernel)
    return jax.jit(lambda args: TRANSFORMATIONS[name](run, args), compiler_options=cases.FAST_TO_COMPILE)(args)


@pytest.mark.parametrize(("name", "cell", "kernel"), over_all_that_a_kernel_runs())
def test_transformation_equals_that_of_scan(kernel: str, name: str, cell: str) -> None:
    got = result(name, cell, kernel)
    assert any(bool(jnp.abs(leaf).max() > 1e-3) for leaf in jax.tree.leaves(got))
    cases.assert_close(got, result(name, cell, "scan"), AGAINST_SCAN)
