"""`native` where its compiled code can't go: programs of JAX, and the same results."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from recurrent_jax.kernels import native
from recurrent_jax.kernels.contract import Inputs, Options
from recurrent_jax.kernels.native import calls, library, portable
from recurrent_jax.kernels.native.lowering import compiled_or_portable
from tests import cases

# Float64 in two orders of summation, over six steps.
AGAINST_COMPILED = 1e-12

pytestmark = pytest.mark.skipif(library.load().code is None, reason=f"native is {library.load().problem}")
CASES = tuple(case for case in cases.CASES if cases.refusal(case.cell, native) is None)
over_cells = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def weighted(tree: Any) -> jax.Array:
    """A sum with a weight for every number."""
    rng = np.random.default_rng(2)
    return sum(jnp.sum(leaf * rng.standard_normal(leaf.shape)) for leaf in jax.tree.leaves(tree))


def gradients_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `function` gives and the gradients of all of that, in a program of its own."""

    def loss(*args: Any) -> Any:
        out = function(*args)
        return weighted(out), out

    return jax.jit(lambda *args: jax.value_and_grad(loss, argnums=tuple(range(len(args))), has_aux=True)(*args))


def through_export(function: Any, *args: Any, **options: Any) -> Any:
    """What `function` gives after export."""
    exported = jax.export.export(function, **options)(*args)
    return jax.jit(exported.call, compiler_options=cases.FAST_TO_COMPILE)(*args)


def compiled_calls(function: Any, *args: Any, **lowering: Any) -> int:
    """The calls of compiled code in a program."""
    return function.trace(*args).lower(**lowering).as_text().count("@recurrent_jax_")


@cases.over_scenarios
@over_cells
def test_exported_outputs_and_gradients_equal_the_compiled_ones(case: cases.Case, scenario: str) -> None:
    with_carry, flags = cases.SCENARIOS[scenario]
    params, xs, carry = cases.data(case.cell)
    given = (params, xs, carry) if with_carry else (params, xs)
    function = gradients_of(lambda *given: rj.unroll(case.cell, *given, **flags, return_carries=True))
    assert compiled_calls(function, *given) == 4
    cases.assert_close(through_export(function, *given), function(*given), AGAINST_COMPILED)


@over_cells
def test_exported_outputs_equal_the_compiled_ones(case: cases.Case) -> None:
    # Without derivatives other results are asked of the forward pass.
    function = jax.jit(lambda *given: rj.unroll(case.cell, *given))
    given = cases.data(case.cell)
    assert compiled_calls(function, *given) == 1
    cases.assert_close(through_export(function, *given), function(*given), AGAINST_COMPILED)


# What is saved between the passes means the same in both, so that each can go on where the other stopped.
@pytest.mark.parametrize("name", ["forward", "backward", "inputs", "gradient"])
@pytest.mark.parametrize("reverse", [False, True], ids=["ahead", "reverse"])
@over_cells
def test_each_pass_can_stand_for_the_compiled_one(
    case: cases.Case, reverse: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = cases.data(case.cell)

    def run(params: Any, xs: Any, carry: Any) -> Any:
        initial = jax.tree.map(lambda leaf: leaf * 0.5 + 0.1, carry)
        inputs = Inputs(params, xs, carry, initial, cases.GAPS, cases.RESETS)
        return native.run(case.cell, jax.tree.map(jnp.asarray, inputs), Options(reverse, return_carries=True))

    expected = gradients_of(run)(*given)
    monkeypatch.setattr(calls, name, getattr(portable, name))
    mixed = gradients_of(lambda *args: run(*args))
    assert compiled_calls(mixed, *given) == 3
    cases.assert_close(mixed(*given), expected, AGAINST_COMPILED)


TRANSFORMATIONS: dict[str, Callable[..., Any]] = {
    "vmap over rows": lambda run: jax.vmap(gradients_of(run), (None, 1, 0)),
    "vmap over parameters": lambda run: (
        lambda params, xs, carry: jax.vmap(gradients_of(run), (0, None, None))(
            jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 0.5]), params), xs, carry
        )
    ),
    "second derivatives": lambda run: gradients_of(gradients_of(run)),
    "checkpoint": lambda run: gradients_of(jax.checkpoint(run)),
    "shard_map": lambda run: jax.shard_map(
        lambda *args: gradients_of(run)(*args)[1],
        mesh=jax.sharding.Mesh(np.array(jax.devices()[:1]), ("rows",)),
        in_specs=(jax.P(), jax.P(None, "rows"), jax.P("rows")),
        out_specs=(jax.P(), jax.P(None, "rows"), jax.P("rows")),
    ),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations_are_exported(name: str) -> None:
    cell = rj.GRU(2, param_dtype=jnp.float64)
    given = cases.data(cell, (2,), 3, 2)
    function = jax.jit(TRANSFORMATIONS[name](lambda *args: rj.unroll(cell, *args)))
    assert compiled_calls(function, *given) > 0
    cases.assert_close(through_export(function, *given), function(*given), AGAINST_COMPILED)


def test_one_export_serves_many_platforms() -> None:
    given = cases.data(cases.LSTM.cell)
    function = gradients_of(functools.partial(rj.unroll, cases.LSTM.cell))
    got = through_export(function, *given, platforms=("cpu", "cuda", "tpu"))
    cases.assert_close(got, function(*given), AGAINST_COMPILED)


def test_exported_rows_may_be_of_any_number() -> None:
    params, xs, _ = cases.data(cases.LSTM.cell)
    total = lambda params, xs: jnp.sum(jnp.sin(rj.unroll(cases.LSTM.cell, params, xs)[1]))
    function = jax.jit(jax.grad(total, argnums=(0, 1)))
    (rows,) = jax.export.symbolic_shape("rows")
    exported = jax.export.export(function)(params, jax.ShapeDtypeStruct((len(xs), rows, xs.shape[-1]), xs.dtype))
    for some in (xs, xs[:, :1]):
        cases.assert_close(exported.call(params, some), function(params, some), AGAINST_COMPILED)


def test_compiled_code_goes_where_it_runs_and_nowhere_else() -> None:
    given = cases.data(cases.LSTM.cell)
    function = gradients_of(functools.partial(rj.unroll, cases.LSTM.cell))
    number = lambda *platforms: compiled_calls(function, *given, lowering_platforms=platforms)
    assert number("cpu") == 4
    assert number("cuda") == number("tpu") == number("cpu", "cuda") == 0


def test_the_choice_is_made_when_a_program_is_lowered() -> None:
    traced = []

    def elsewhere(x: jax.Array) -> jax.Array:
        traced.append(x)
        return x + 2

    choose = compiled_or_portable(lambda x: x + 1, elsewhere)
    assert choose(jnp.zeros(())) == jax.jit(choose)(jnp.zeros(())) == 1
    with jax.disable_jit():
        assert choose(jnp.zeros(())) == 1
    assert not traced  # its tracing costs nothing where it is not needed
    assert through_export(jax.jit(choose), jnp.zeros(())) == 2
    assert len(traced) == 1


def test_gradients_without_any_jit_are_the_same() -> None:
    given = cases.data(cases.LSTM.cell)
    gradient = jax.grad(lambda *args: weighted(rj.unroll(cases.LSTM.cell, *args)), argnums=(0, 1, 2))
    with jax.disable_jit():
        eager = gradient(*given)
    cases.assert_close(eager, gradient(*given), AGAINST_COMPILED)
