"""What holds of every search: when it ends, that rows keep to themselves, dtypes, and JAX's transformations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from recurrent_jax import decode
from tests import cases
from tests.decode.searches import (
    END,
    FUNCTIONS,
    ORACLE,
    PAD,
    Markov,
    Scoring,
    assert_equal,
    log_softmax,
    rows_of,
    search_by_beam,
    search_greedily,
)


def test_a_vocabulary_of_the_end_alone_ends_at_once() -> None:
    step = lambda carry, tokens: (carry, jnp.zeros((2, 1)))
    options: Any = {"end": 0, "max_length": 3, "pad": 9}
    greedy = jax.jit(lambda start: decode.greedy(step, (), start, **options))(np.zeros(2, int))
    assert (greedy.lengths.tolist(), greedy.ended.tolist(), greedy.log_probs.tolist()) == ([0, 0], [True, True], [0, 0])
    assert greedy.tokens.tolist() == [[9, 9]] * 3
    beams = jax.jit(lambda start: decode.beam(step, (), start, beams=2, **options))(np.zeros(2, int))
    assert beams.ended.tolist() == [[True, True], [False, False]]
    assert beams.scores.tolist() == [[0, 0], [-np.inf, -np.inf]]


@pytest.mark.parametrize("size", [None, 3])
def test_step_runs_no_more_often_than_the_longest_row_needs(size: int | None) -> None:
    # Rows of 0 to 3 tokens.
    model, read = Markov(1), []
    model.logits[..., END] += 2
    mild, only_ends = model.logits.copy(), np.where(np.arange(5) == END, model.logits, -np.inf)
    function: Any = decode.greedy if size is None else decode.beam
    options = {} if size is None else {"beams": size}

    def step(carry: Any, tokens: Any) -> Any:
        jax.debug.callback(lambda tokens: read.append(np.asarray(tokens)), tokens)
        return model.step(carry, tokens)

    @jax.jit
    def decoded(logits: Any) -> Any:
        model.logits = logits
        return function(step, model.carry, model.start, end=END, max_length=50, pad=PAD, **options)

    for logits in (mild, only_ends):
        read.clear()
        jax.block_until_ready(decoded(logits))
        jax.effects_barrier()
        model.logits = logits
        if size is None:
            # The end is a step too.
            taken = max(len(search_greedily(model, row, 50).tokens) + 1 for row in range(4))
        else:
            taken = max(search_by_beam(model, row, 50, size, Scoring())[1] for row in range(4))
        assert taken < 10
        # `vmap` makes a call of each hypothesis.
        assert len(read) == taken * (size or 1)
        # What is not a token, such as the padding of rows that have ended, is not read.
        assert np.min(read) >= 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_do_not_know_of_each_other(name: str) -> None:
    function, args, options = FUNCTIONS[name]
    model = Markov(0, rows=6)

    @jax.jit
    def decoded(logits: Any) -> Any:
        model.logits = logits
        return function(model.step, model.carry, model.start, *args, end=END, max_length=6, pad=PAD, **options)

    logits, other = model.logits, model.logits.copy()
    # Row 0 is spoiled, row 3 does not end, row 5 ends at once.
    other[0], other[3, ..., END], other[5, ..., END] = np.nan, -99, 99
    expected, got = decoded(logits), decoded(other)
    for rows in (slice(1, 3), slice(4, 5)):
        assert_equal(rows_of(got, rows), rows_of(expected, rows))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jit_is_no_jit_and_does_not_retrace(name: str) -> None:
    function, args, options = FUNCTIONS[name]
    model, traces = Markov(0), []

    def step(carry: Any, tokens: Any) -> Any:
        traces.append(tokens.shape)
        return model.step(carry, tokens)

    call = lambda carry, start, *args: function(step, carry, start, *args, end=END, max_length=4, **options)
    compiled = jax.jit(call)
    got = compiled(model.carry, model.start, *args)
    before = len(traces)
    compiled(model.carry, model.start[::-1].copy(), *args)
    assert len(traces) == before
    cases.assert_close(got, call(model.carry, model.start, *args), ORACLE)


@pytest.mark.parametrize(("dtype", "exact"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_log_probs_are_of_at_least_float32(dtype: str, exact: str) -> None:
    logits = np.random.default_rng(0).standard_normal(5).astype(jnp.dtype(dtype))
    p = log_softmax(logits.astype(np.float64))
    step = lambda carry, tokens: (carry, jnp.broadcast_to(jnp.asarray(logits), (2, 5)))
    for function, args, options in FUNCTIONS.values():
        # Integers may be of any type.
        call = lambda start, f=function, a=args, o=options: f(
            step, (), start, *a, end=np.int8(4), max_length=np.int64(3), **o
        )
        assert jax.eval_shape(call, np.zeros(2, np.int8)).log_probs.dtype == exact
    got = decode.greedy(step, (), np.zeros(2, np.int8), end=4, max_length=3)
    # Three terms of the dtype.
    np.testing.assert_allclose(got.log_probs, np.full(2, 3 * p.max()), rtol=3 * np.finfo(exact).eps)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_batch_may_be_empty_and_a_carry_weakly_typed(name: str) -> None:
    function, args, options = FUNCTIONS[name]
    step = lambda carry, tokens: (carry * np.float32(1), jnp.zeros((*tokens.shape, 5)))
    call = lambda carry, start: function(step, carry, start, *args, end=0, max_length=3, **options)
    got = jax.jit(call)(jnp.zeros(0, jnp.float32), jnp.zeros(0, int))
    assert got.tokens.shape == ((3, 3, 0) if name == "beam" else (3, 0))
    # An array of Python's numbers gives way to any dtype; what the step makes of it does not.
    step = lambda carry, tokens: (carry * np.float64(1), jnp.zeros((*tokens.shape, 5)))
    weak = jnp.full(2, 1.0)
    assert weak.weak_type
    jax.eval_shape(lambda: call(weak, jnp.zeros(2, int)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_exported_and_sharded(name: str) -> None:
    function, args, options = FUNCTIONS[name]
    model = Markov(0)
    call = lambda carry, start: function(model.step, carry, start, *args, end=END, max_length=3, **options)
    exported = export.export(jax.jit(call))(model.carry, model.start)
    expected = jax.eval_shape(call, model.carry, model.start)
    assert export.deserialize(exported.serialize()).out_tree == jax.tree.structure(expected)
    # To be traced is what it takes: the loop's types tell what differs from shard to shard.
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("data")
    results = jax.tree.map(lambda leaf: jax.sharding.PartitionSpec(*[None] * (leaf.ndim - 1), "data"), expected)
    sharded = jax.shard_map(call, mesh=mesh, in_specs=(rows, rows), out_specs=results)
    assert jax.eval_shape(sharded, model.carry, model.start) == expected
