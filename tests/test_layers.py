"""Stacks and bidirectional layers: what their cells do by the oracle, put together by hand."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from tests import cases, oracles
from tests.cases import Case

# Float64 on both sides, two or three layers of six steps.
ORACLE = 1e-12
CELL = rj.GRU(cases.UNITS, param_dtype="float64")


def normal(seed: int, *shape: int) -> jax.Array:
    """Normal numbers."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def randomised(tree: Any, seed: int = 0) -> Any:
    """A pytree like this one with no zeros in it."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.standard_normal(leaf.shape), leaf.dtype), tree)


def leaves(tree: Any) -> tuple[np.ndarray, ...]:
    """A NamedTuple's arrays as the oracle takes them."""
    return tuple(np.asarray(leaf) for leaf in jax.tree.leaves(tree))


def resets_backward(resets: Any, mask: Any) -> np.ndarray:
    """At each true step whether the next true one begins another sequence, row by row."""
    back = np.zeros(resets.shape, bool)
    for row in range(resets.shape[1]):
        true = [t for t in range(len(mask)) if mask[t, row]]
        for t, after in itertools.pairwise(true):
            back[t, row] = resets[after, row]
    return back


def direction(case: Case, params: Any, xs: Any, carry: Any, **flags: Any) -> tuple[Any, np.ndarray, Any]:
    """One direction by the oracle, its carries in the cell's containers."""
    initial = case.cell.initial_carry(params, xs.shape[1:-1])
    start = initial if carry is None else carry
    last, ys, carries = oracles.unroll(
        case.oracle, leaves(params), np.asarray(xs), leaves(start), leaves(initial), **flags
    )
    structure = jax.tree.structure(initial)
    return jax.tree.unflatten(structure, last), ys, jax.tree.unflatten(structure, carries)


# Every scenario of one direction with the case that has all there is, and every case with all flags.
FORWARD = [name for name, (_, flags) in cases.SCENARIOS.items() if "reverse" not in flags]
PAIRS = [(cases.LEARNED_START, name) for name in FORWARD]
PAIRS += [(case, "gaps_resets") for case in cases.CASES if case != cases.LEARNED_START]


@pytest.mark.parametrize(("case", "scenario"), PAIRS, ids=[f"{case.name}-{name}" for case, name in PAIRS])
def test_bidirectional_is_both_directions_of_the_oracle(case: Case, scenario: str) -> None:
    with_carry, flags = cases.SCENARIOS[scenario]
    layer = rj.Bidirectional(case.cell)
    params = randomised(layer.init(jax.random.key(0), cases.FEATURES))
    xs = normal(1, cases.STEPS, *cases.BATCH, cases.FEATURES)
    carry = randomised(layer.initial_carry(params, cases.BATCH), 2) if with_carry else None
    back = dict(flags)
    if "resets" in flags:
        back["resets"] = resets_backward(flags["resets"], flags.get("mask", np.ones(xs.shape[:2], bool)))
    forward = direction(case, params.forward, xs, carry and carry.forward, **flags)
    backward = direction(case, params.backward, xs, carry and carry.backward, reverse=True, **back)
    last, ys, carries = layer.apply(params, xs, carry, **flags, return_carries=True)
    cases.assert_close(last, rj.BidirectionalCarry(forward[0], backward[0]), ORACLE)
    cases.assert_close(ys, np.concatenate([forward[1], backward[1]], -1), ORACLE)
    cases.assert_close(carries, rj.BidirectionalCarry(forward[2], backward[2]), ORACLE)


def test_packed_sequences_are_those_that_run_by_themselves() -> None:
    # Sequences of 4, 1 and 3 steps in a row, with a gap behind the first; no step knows another sequence.
    layer = rj.Bidirectional(CELL)
    params = randomised(layer.init(jax.random.key(0), 3))
    xs = normal(1, 10, 1, 3)
    starts, mask = np.zeros((10, 1), bool), np.ones((10, 1), bool)
    starts[[0, 6, 7]], mask[4:6] = True, False
    _, ys = layer.apply(params, xs, mask=mask, resets=starts)
    for part in (slice(0, 4), slice(6, 7), slice(7, 10)):
        cases.assert_close(ys[part], layer.apply(params, xs[part])[1], ORACLE)


@pytest.mark.parametrize("merge", ["concat", "sum", None])
def test_outputs_are_merged_as_said(merge: Any) -> None:
    apart = rj.Bidirectional(CELL, merge=None)
    params = apart.init(jax.random.key(0), 3)
    xs = normal(1, 5, 2, 3)
    _, (forward, backward) = apart.apply(params, xs)
    _, ys = rj.Bidirectional(CELL, merge=merge).apply(params, xs)
    expected = {"concat": jnp.concatenate([forward, backward], -1), "sum": forward + backward}
    cases.assert_same(ys, expected.get(merge, (forward, backward)))


def test_directions_may_differ_in_their_cells() -> None:
    layer = rj.Bidirectional(CELL, rj.LSTM(7, param_dtype="float64"))
    params = layer.init(jax.random.key(0), 3)
    carry, ys = layer.apply(params, normal(1, 5, 2, 3))
    assert ys.shape == (5, 2, cases.UNITS + 7)
    assert carry.backward.c.shape == (2, 7)


def test_directions_draw_parameters_of_their_own() -> None:
    params = rj.Bidirectional(CELL).init(jax.random.key(0), 3)
    assert not np.array_equal(params.forward.w_x, params.backward.w_x)


STACK = rj.Stack([CELL, rj.LSTM(5, param_dtype="float64"), rj.RNN(5, param_dtype="float64")])
ORACLES = (oracles.gru_after, oracles.lstm, oracles.rnn_tanh)


@pytest.mark.parametrize(
    ("scenario", "residual"), [(name, False) for name in cases.SCENARIOS] + [("gaps_resets", True)]
)
def test_stack_is_its_layers_in_turn_by_the_oracle(scenario: str, residual: bool) -> None:
    with_carry, flags = cases.SCENARIOS[scenario]
    # With residual all but the first keep their size.
    stack = rj.Stack((rj.GRU(5, param_dtype="float64"), *STACK.layers[1:]), residual=True) if residual else STACK
    params = randomised(stack.init(jax.random.key(0), cases.FEATURES))
    xs = normal(1, cases.STEPS, *cases.BATCH, cases.FEATURES)
    carry = randomised(stack.initial_carry(params, cases.BATCH), 2) if with_carry else None
    got = stack.apply(params, xs, carry, **flags, return_carries=True)
    ys, results = np.asarray(xs), []
    for number, (cell, oracle) in enumerate(zip(stack.layers, ORACLES, strict=True)):
        before = None if carry is None else carry[number]
        last, out, carries = direction(Case("", cell, oracle), params[number], ys, before, **flags)
        results.append((last, carries))
        ys = out + ys if residual and number else out
    last, carries = zip(*results, strict=True)
    cases.assert_close(got, (last, ys, carries), ORACLE)


def test_residual_connections_keep_padding_out_of_results() -> None:
    stack = rj.Stack([CELL, CELL], residual=True)
    params = stack.init(jax.random.key(0), 3)
    xs = normal(1, 6, 2, 3)
    spoiled = xs.at[4:, 1].set(jnp.nan)
    cases.assert_same(stack.apply(params, spoiled, lengths=[6, 4]), stack.apply(params, xs, lengths=[6, 4]))


@pytest.mark.parametrize("residual", [False, True])
def test_steps_of_a_stack_are_its_sequence(residual: bool) -> None:
    stack = rj.Stack([CELL, rj.LSTM(cases.UNITS, param_dtype="float64")], residual=residual)
    params = stack.init(jax.random.key(0), 3)
    xs = normal(1, 5, 2, 3)
    carry, ys = stack.initial_carry(params, (2,)), []
    for x in xs:
        carry, y = stack.step(params, carry, x)
        ys.append(y)
    cases.assert_close((carry, jnp.stack(ys)), stack.apply(params, xs), ORACLE)


def test_stack_keeps_the_contract_of_a_cell() -> None:
    report = rj.check_cell(rj.Stack([rj.LSTM(4), rj.Stack([rj.GRU(3), rj.RNN(3)], residual=True)]))
    assert report.ok, str(report)


def test_layers_may_be_bidirectional_and_stacks() -> None:
    stack = rj.Stack([rj.Bidirectional(CELL), rj.Stack([CELL, CELL]), rj.Bidirectional(CELL, merge="sum")])
    params = stack.init(jax.random.key(0), 3)
    carry, ys = stack.apply(params, normal(1, 5, 2, 3), lengths=[5, 2])
    assert ys.shape == (5, 2, cases.UNITS)
    assert params[1][0].w_x.shape[0] == 2 * cases.UNITS
    assert jax.tree.structure(carry) == jax.tree.structure(stack.initial_carry(params, (2,)))


WIDE = rj.Stack([rj.RNN(64), rj.RNN(64), rj.RNN(64)], dropout=0.25)


def seen_by_layers(key: jax.Array | None, rows: int = 16) -> tuple[jax.Array, list[jax.Array], jax.Array]:
    """The inputs of a stack, what each of its layers was given, and the outputs."""
    seen: list[jax.Array] = []

    class Spy:
        """A layer that notes what it is given and hands it on."""

        def apply(self, params: Any, xs: Any, carry: Any, *, key: Any, **options: Any) -> Any:
            seen.append(xs)
            return (), xs

    stack = rj.Stack([Spy(), Spy(), Spy()], dropout=WIDE.dropout)
    xs = 1 + normal(0, 7, rows, 64) ** 2
    _, ys = stack.apply(((), (), ()), xs, key=key)
    return xs, seen, ys


def test_dropout_lies_between_layers_the_same_at_every_step() -> None:
    xs, (first, second, third), ys = seen_by_layers(jax.random.key(1))
    cases.assert_same(first, xs)
    for above, below in ((second, first), (third, second)):
        kept = np.asarray(above != 0) | np.asarray(below == 0)
        # Of all steps, of each row and feature by itself.
        assert (kept == kept[0]).all()
        assert len({row.tobytes() for row in kept[0]}) == len(kept[0])
        np.testing.assert_allclose(np.asarray(above)[kept], np.asarray(below)[kept] / 0.75, rtol=1e-15)
    cases.assert_same(ys, third)


def test_dropout_sets_its_share_to_zero() -> None:
    _, (_, second, third), _ = seen_by_layers(jax.random.key(1), rows=256)
    alive = np.asarray(second[0] != 0)
    # 16,384 draws: four standard deviations.
    assert alive.mean() == pytest.approx(0.75, abs=4 * (0.25 * 0.75 / alive.size) ** 0.5)
    # The second dropout is drawn by itself: as many of those alive survive it.
    assert np.asarray(third[0] != 0)[alive].mean() == pytest.approx(0.75, abs=0.02)


def test_no_key_is_evaluation_and_a_key_is_a_draw() -> None:
    params = WIDE.init(jax.random.key(0), 3)
    xs = normal(1, 5, 2, 3).astype(jnp.float32)
    apply = lambda key: WIDE.apply(params, xs, key=key)[1]
    cases.assert_same(apply(None), rj.Stack(WIDE.layers).apply(params, xs)[1])
    cases.assert_same(apply(jax.random.key(1)), apply(jax.random.key(1)))
    assert not np.array_equal(apply(jax.random.key(1)), apply(jax.random.key(2)))


def test_inner_stacks_draw_for_themselves() -> None:
    drawn = []

    class Drawing:
        """A layer that draws from the key it is given."""

        def apply(self, params: Any, xs: Any, carry: Any, *, key: Any, **options: Any) -> Any:
            drawn.append(float(jax.random.normal(key)))
            return (), xs

    inner = rj.Stack([Drawing(), Drawing()])
    rj.Stack([inner, inner]).apply((((), ()), ((), ())), normal(1, 5, 2, 3), key=jax.random.key(1))
    assert len(set(drawn)) == 4


def test_a_layer_does_not_draw_what_the_dropout_before_it_drew() -> None:
    drawn = []

    class Drawing:
        """A layer that draws as the dropout does, from the key it is given."""

        def apply(self, params: Any, xs: Any, carry: Any, *, key: Any, **options: Any) -> Any:
            drawn.append((np.asarray(jax.random.bernoulli(key, 0.75, (1, *xs.shape[1:]))), np.asarray(xs[:1] != 0)))
            return (), xs

    rj.Stack([Drawing(), Drawing()], dropout=0.25).apply(((), ()), jnp.ones((2, 4, 64)), key=jax.random.key(1))
    assert not np.array_equal(*drawn[1])


def test_options_reach_every_cell() -> None:
    stack = rj.Stack([rj.Bidirectional(CELL), rj.GRU(3, reset="before", param_dtype="float64")])
    params = stack.init(jax.random.key(0), 3)
    with pytest.raises(NotImplementedError, match="fused refuses"):
        stack.apply(params, normal(1, 5, 2, 3), implementation="fused")
    with pytest.raises(TypeError, match="no_such_option"):
        stack.apply(params, normal(1, 5, 2, 3), no_such_option=1)


def test_layers_work_under_jit_grad_and_vmap() -> None:
    stack = rj.Stack([rj.Bidirectional(CELL), CELL], dropout=0.5)
    params = stack.init(jax.random.key(0), 3)
    xs = normal(1, 2, 5, 2, 3)

    def loss(params: Any, xs: Any) -> Any:
        return jnp.sum(stack.apply(params, xs, lengths=jnp.array([5, 2]), key=jax.random.key(1))[1] ** 2)

    derivatives = jax.value_and_grad(loss)
    together = jax.jit(jax.vmap(derivatives, (None, 0)), compiler_options=cases.FAST_TO_COMPILE)(params, xs)
    alone = jax.jit(derivatives, compiler_options=cases.FAST_TO_COMPILE)
    for number in range(len(xs)):
        cases.assert_close(jax.tree.map(lambda leaf, n=number: leaf[n], together), alone(params, xs[number]), ORACLE)


def test_half_precision_stays_half_between_layers() -> None:
    stack = rj.Stack([rj.LSTM(4, dtype="bfloat16"), rj.LSTM(4, dtype="bfloat16")], dropout=0.5, residual=True)
    params = stack.init(jax.random.key(0), 4)
    carry, ys = stack.apply(params, jnp.ones((5, 2, 4)), key=jax.random.key(1))
    assert ys.dtype == jnp.bfloat16
    assert carry[1].c.dtype == jnp.float32


def test_equal_layers_are_equal() -> None:
    make = lambda: rj.Stack([rj.Bidirectional(rj.LSTM(4)), rj.GRU(3)], dropout=0.1)
    assert make() == make()
    assert hash(make()) == hash(make())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: rj.Stack([]), ValueError, "layers: expected at least one layer, got none"),
        (lambda: rj.Stack([rj.LSTM]), TypeError, "cell: expected an instance, got the class LSTM"),
        (lambda: rj.Stack([3]), TypeError, "cell: expected the methods init, initial_carry and step, 3 lacks"),
        (lambda: rj.Stack(CELL), TypeError, r"layers: expected a sequence of layers, got GRU\("),
        (lambda: rj.Stack([CELL], dropout=1.0), ValueError, "dropout: expected at least 0 and below 1, got 1.0"),
        (lambda: rj.Stack([CELL], dropout="half"), ValueError, "dropout: expected at least 0 and below 1, got 'half'"),
        (lambda: rj.Stack([CELL], residual=1), TypeError, "residual: expected True or False, got 1"),
        (lambda: rj.Bidirectional(rj.LSTM), TypeError, "cell: expected an instance, got the class LSTM"),
        (lambda: rj.Bidirectional(CELL, merge="mean"), ValueError, "merge: expected 'concat', 'sum' or None, got"),
        (
            lambda: rj.Stack([CELL, rj.GRU(3)], residual=True).init(jax.random.key(0), 2),
            ValueError,
            "layers: expected layer 1 to put out 4 features, since residual, got 3",
        ),
        (
            lambda: rj.Stack([rj.Bidirectional(CELL, merge=None), CELL]).init(jax.random.key(0), 2),
            ValueError,
            r"layers: expected layers that put out one array, got Bidirectional\(",
        ),
    ],
)
def test_mistakes_in_making_a_layer_are_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_mistakes_in_calling_a_layer_are_named() -> None:
    layer = rj.Bidirectional(CELL)
    params = layer.init(jax.random.key(0), 3)
    xs = normal(1, 5, 2, 3)
    with pytest.raises(TypeError, match="reverse: not expected, a bidirectional layer runs both ways"):
        layer.apply(params, xs, reverse=True)
    with pytest.raises(ValueError, match=r"xs: expected \[T, ..., 3\], got \[5, 2, 4\]"):
        layer.apply(params, normal(1, 5, 2, 4))
    with pytest.raises(ValueError, match=r"carry: expected BidirectionalCarry\(forward, backward\), got RNNCarry"):
        layer.apply(params, xs, CELL.initial_carry(params.forward, (2,)))
    stack = rj.Stack([layer])
    with pytest.raises(TypeError, match=r"layers: expected cells, which can take single steps, got Bidirectional\("):
        stack.step((params,), stack.initial_carry((params,), (2,)), xs[0])
    with pytest.raises(ValueError, match="carry: expected one for each of the 1 layers, got 2"):
        stack.apply((params,), xs, (None, None))
    with pytest.raises(ValueError, match="params: expected one for each of the 1 layers, got 2"):
        stack.apply((params, params), xs)


def test_an_attentive_cell_may_be_the_top_of_a_stack() -> None:
    cell = rj.AttentiveCell(rj.LSTM(4), memory_size=4)
    stack = rj.Stack([rj.LSTM(5), cell])
    lower, upper = stack.init(jax.random.key(0), 3)
    params = (lower, cell.remember(upper, jnp.ones((7, 2, 4), jnp.float32)))
    _, ys = rj.unroll(stack, params, jnp.ones((3, 2, 3), jnp.float32))
    assert ys.shape == (3, 2, 4)
