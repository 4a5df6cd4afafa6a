"""The NNX shell: Flax's calls with Flax as the judge, parameters as documented, and NNX's own transformations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import recurrent_jax as rj
from recurrent_jax import nnx as rj_nnx
from tests import cases, flax_judge
from tests.flax_judge import CALLS, CELLS, CLOSE, FEATURES, LSTM, ROWS, STEPS, UNITS

JUDGES: dict[type, Any] = {rj.RNN: nnx.SimpleCell, rj.LSTM: nnx.OptimizedLSTMCell, rj.GRU: nnx.GRUCell}


def judged(cell: Any) -> Any:
    """Our parameters, but for the bias that the GRU of NNX has not."""
    params = flax_judge.given(cell).params
    return params._replace(b_n=jnp.zeros_like(params.b_n)) if isinstance(cell, rj.GRU) else params


def judge(cell: Any, params: Any) -> nnx.RNN:
    """Flax's RNN with our parameters."""
    dtypes = {"dtype": cell.compute_dtype, "param_dtype": cell.compute_dtype}
    theirs = JUDGES[type(cell)](FEATURES, UNITS, **dtypes, rngs=nnx.Rngs(0))
    theirs.dense_i.kernel[...], theirs.dense_h.kernel[...] = params.w_x, params.w_h
    (theirs.dense_h if isinstance(cell, rj.LSTM) else theirs.dense_i).bias[...] = params.b
    return nnx.RNN(theirs)


def make(cell: Any, params: Any = None, **options: Any) -> rj_nnx.RNN:
    """Our RNN, with given parameters in place of those it draws."""
    rnn = rj_nnx.RNN(cell, FEATURES, **options, rngs=nnx.Rngs(params=0, dropout=1))
    rnn.params = jax.tree.map(nnx.Param, flax_judge.given(cell).params if params is None else params)
    return rnn


@flax_judge.over_calls
def test_rnn_is_flax_rnn(name: str, call: str) -> None:
    cell = CELLS[name]
    carry = None if call == "plain" else flax_judge.given(cell).carry
    params = judged(cell)
    flax_judge.assert_flax_agrees(make(cell, params), judge(cell, params), cell, carry, **CALLS[call])


@flax_judge.over_calls_both_ways
@pytest.mark.parametrize("kind", [rj_nnx.Bidirectional, nnx.Bidirectional], ids=["ours", "flax"])
def test_bidirectional_is_flax_bidirectional(kind: Any, call: str, merge: dict[str, Any]) -> None:
    # Flax's own takes our RNN too. What the RNNs were told counts for nothing.
    params, _, carry = flax_judge.given(LSTM)
    other = jax.tree.map(lambda leaf: -leaf, params)
    flax_judge.assert_flax_agrees(
        kind(make(LSTM, params, reverse=True, time_major=True), make(LSTM, other), **merge),
        nnx.Bidirectional(judge(LSTM, params), judge(LSTM, other), **merge),
        LSTM,
        rj.BidirectionalCarry(carry, jax.tree.map(lambda leaf: leaf / 2, carry)),
        **CALLS[call],
    )


def test_bidirectional_returns_what_it_is_told_to() -> None:
    layer = rj_nnx.Bidirectional(make(LSTM), make(LSTM), time_major=True, return_carry=True)
    xs = flax_judge.given(LSTM).xs
    carry, ys = layer(xs)
    assert isinstance(carry, rj.BidirectionalCarry)
    assert ys.shape == (STEPS, ROWS, 2 * UNITS)
    cases.assert_same(layer(xs, return_carry=False), ys)
    rows_first = layer(jnp.moveaxis(xs, 0, 1), time_major=False, return_carry=False)
    cases.assert_close(rows_first, jnp.moveaxis(ys, 0, 1), CLOSE)


@flax_judge.over_unrolled
def test_rnn_is_unroll(call: str) -> None:
    params, xs, carry = flax_judge.given(LSTM)
    options, of_unroll = flax_judge.UNROLLED[call]
    expected_carry, expected = rj.unroll(LSTM, params, xs, carry, **of_unroll)
    time_major = options.get("time_major", False)
    given = flax_judge.inputs(LSTM, time_major)
    got = make(LSTM, return_carry=True)(given, initial_carry=carry, **options)
    cases.assert_same(got, (expected_carry, expected if time_major else jnp.moveaxis(expected, 0, 1)))


def test_a_call_goes_before_the_constructor() -> None:
    told = {"time_major": True, "return_carry": True, "reverse": True, "keep_order": True}
    xs = flax_judge.inputs(LSTM)
    plain, other = make(LSTM), make(LSTM, **told)
    cases.assert_same(other(jnp.moveaxis(xs, 0, 1)), plain(jnp.moveaxis(xs, 0, 1), **told))
    cases.assert_same(other(xs, **dict.fromkeys(told, False)), plain(xs))


DROPPING = rj.Stack([rj.Stack([LSTM, LSTM], dropout=0.5), LSTM])
BOTH = rj.Bidirectional(LSTM, rj.GRU(UNITS, reset="before", param_dtype="float64"))
VARIANTS = rj.Stack(flax_judge.VARIANTS)


@pytest.mark.parametrize("layer", [DROPPING, BOTH, VARIANTS], ids=["stack", "bidirectional", "variants"])
def test_layers_are_their_apply(layer: Any) -> None:
    params, xs, _ = flax_judge.given(layer)
    carry, ys = layer.apply(params, xs, lengths=flax_judge.LENGTHS, resets=flax_judge.RESETS.T)
    rnn = make(layer, return_carry=True, deterministic=True)
    got = rnn(flax_judge.inputs(layer), seq_lengths=flax_judge.LENGTHS, resets=flax_judge.RESETS)
    cases.assert_same(got, (carry, jnp.moveaxis(ys, 0, 1)))


def test_parameters_are_what_init_draws() -> None:
    layer = rj.Stack([LSTM, rj.GRU(UNITS, reset="before")])
    rnn = rj_nnx.RNN(layer, FEATURES, rngs=nnx.Rngs(params=0))
    drawn = layer.init(nnx.Rngs(params=0).params(), FEATURES)
    cases.assert_same(nnx.as_pure(rnn.params), drawn)
    flat = dict(nnx.to_flat_state(nnx.state(rnn, nnx.Param)))
    assert {path: leaf.shape for path, leaf in flat.items()} == {
        ("params", 0, "w_x"): (FEATURES, 4 * UNITS),
        ("params", 0, "w_h"): (UNITS, 4 * UNITS),
        ("params", 0, "b"): (4 * UNITS,),
        ("params", 1, "w_x"): (UNITS, 3 * UNITS),
        ("params", 1, "w_h"): (UNITS, 3 * UNITS),
        ("params", 1, "b"): (3 * UNITS,),
    }
    assert len(jax.tree.leaves(nnx.state(rnn))) == len(flat)


def test_parameters_step() -> None:
    xs = flax_judge.inputs(LSTM)
    rnn = make(LSTM)
    params = nnx.as_pure(rnn.params)
    _, y = LSTM.step(params, LSTM.initial_carry(params, (ROWS,)), xs[:, 0])
    cases.assert_close(y, rnn(xs)[:, 0], CLOSE)


def test_a_cell_without_parameters() -> None:
    rnn = rj_nnx.RNN(cases.Counter(), FEATURES, rngs=nnx.Rngs(0))
    assert (np.asarray(rnn(flax_judge.inputs(LSTM)))[..., 0] == np.arange(1, STEPS + 1)).all()


def test_split_and_merge_keep_everything() -> None:
    rnn = make(LSTM, reverse=True, implementation=("fused", "scan"))
    xs = flax_judge.inputs(LSTM)
    graph, state = nnx.split(rnn)
    cases.assert_same(nnx.merge(graph, state)(xs), rnn(xs))
    cases.assert_same(nnx.merge(graph, jax.tree.map(jnp.zeros_like, state))(xs), jnp.zeros((ROWS, STEPS, UNITS)))
    # A fresh equal module does not recompile.
    assert hash(nnx.split(make(LSTM, reverse=True, implementation=("fused", "scan")))[0]) == hash(graph)


def test_gradients_are_those_of_unroll() -> None:
    params, xs, _ = flax_judge.given(LSTM)
    lengths = flax_judge.LENGTHS

    @nnx.jit
    @nnx.grad
    def got(rnn: Any, xs: Any) -> Any:
        return jnp.sum(rnn(xs, seq_lengths=lengths, reverse=True) ** 2)

    expected = jax.grad(lambda params: jnp.sum(rj.unroll(LSTM, params, xs, lengths=lengths, reverse=True)[1] ** 2))
    pure = nnx.to_pure_dict(got(make(LSTM), flax_judge.inputs(LSTM)))["params"]
    cases.assert_close(rj.LSTMParams(**pure), expected(params), CLOSE)


def test_a_model_trains() -> None:
    class Model(nnx.Module):
        """The sum of the inputs, from the last output."""

        def __init__(self, rngs: nnx.Rngs) -> None:
            self.rnn = rj_nnx.RNN(DROPPING, FEATURES, rngs=rngs)
            self.out = nnx.Linear(UNITS, 1, param_dtype="float64", rngs=rngs)

        def __call__(self, xs: Any) -> Any:
            return self.out(self.rnn(xs)[:, -1])[:, 0]

    xs = flax_judge.inputs(LSTM)
    model = Model(nnx.Rngs(0))
    optimiser = nnx.Optimizer(model, optax.sgd(0.05, momentum=0.9), wrt=nnx.Param)
    loss = lambda model: jnp.mean((model(xs) - xs.sum((1, 2))) ** 2)

    @nnx.jit
    def step(model: Any, optimiser: Any) -> None:
        optimiser.update(model, nnx.grad(loss)(model))

    model.eval()
    first, drawn = loss(model), model.rnn.rngs.count[...]
    model.train()
    for _ in range(5):
        step(model, optimiser)
    # Within jit too, each call drew dropout anew.
    assert model.rnn.rngs.count[...] == drawn + 5
    model.eval()
    for _ in range(60):
        step(model, optimiser)
    assert loss(model) < 0.1 * first
    assert model.rnn.rngs.count[...] == drawn + 5


def test_dropout_draws_from_its_own_stream() -> None:
    params, xs, _ = flax_judge.given(DROPPING)
    rnn = make(DROPPING, time_major=True)
    stream = nnx.Rngs(dropout=1).dropout.fork()
    first, second = (DROPPING.apply(params, xs, key=stream())[1] for _ in range(2))
    cases.assert_same(rnn(xs), first)
    cases.assert_same(rnn(xs), second)
    assert not np.array_equal(first, second)
    given = DROPPING.apply(params, xs, key=nnx.Rngs(dropout=2).dropout())[1]
    cases.assert_same(rnn(xs, rngs=nnx.Rngs(dropout=2)), given)
    cases.assert_same(rnn(xs, rngs=nnx.Rngs(dropout=2).dropout), given)


def test_deterministic_is_without_dropout() -> None:
    params, xs, _ = flax_judge.given(DROPPING)
    _, expected = DROPPING.apply(params, xs)
    rnn = make(DROPPING, time_major=True)
    cases.assert_same(rnn(xs, deterministic=True), expected)
    cases.assert_same(nnx.view(rnn, deterministic=True)(xs), expected)
    assert not np.array_equal(rnn(xs), expected)
    assert not np.array_equal(nnx.view(rnn, deterministic=False)(xs), expected)
    rnn.eval()
    cases.assert_same(rnn(xs), expected)
    assert not np.array_equal(rnn(xs, deterministic=False), expected)
    cases.assert_same(make(DROPPING, time_major=True, deterministic=True)(xs), expected)


@pytest.mark.parametrize("kind", [rj_nnx.Bidirectional, nnx.Bidirectional], ids=["ours", "flax"])
def test_both_directions_drop_out_by_themselves(kind: Any) -> None:
    # On inputs that are the same at every step, with the same parameters, only dropout tells the directions apart.
    xs = jnp.ones((ROWS, STEPS, FEATURES), "float64")
    difference = lambda forward, backward: forward - jnp.flip(backward, 1)
    rngs = nnx.Rngs(0)
    forward, backward = (rj_nnx.RNN(DROPPING, FEATURES, rngs=rngs) for _ in range(2))
    backward.params = forward.params
    layer = kind(forward, backward, merge_fn=difference)
    first = layer(xs)
    assert first.any()
    # Flax's hands on a stream for carries that begins with seed 0 in every layer; it is not drawn from.
    assert not np.array_equal(kind(forward, backward, merge_fn=difference)(xs), first)
    assert not nnx.view(layer, deterministic=True)(xs).any()


def test_one_stream_given_to_both_directions_is_drawn_from_twice() -> None:
    xs = jnp.ones((ROWS, STEPS, FEATURES), "float64")
    layer = rj_nnx.Bidirectional(make(DROPPING), make(DROPPING), merge_fn=lambda a, b: a - jnp.flip(b, 1))
    first = layer(xs, rngs=nnx.Rngs(5))
    assert first.any()
    cases.assert_same(layer(xs, rngs=nnx.Rngs(5)), first)
    assert not layer(xs, rngs=nnx.Rngs(5), deterministic=True).any()


def test_options_reach_the_kernel() -> None:
    cell, xs = BOTH.backward, flax_judge.inputs(BOTH)
    with pytest.raises(NotImplementedError, match="fused refuses"):
        make(cell, implementation="fused")(xs)
    for option in ("unroll", "checkpoint_every"):
        with pytest.raises(ValueError, match=f"{option}: expected a positive integer, got 0"):
            make(cell, **{option: 0})(xs)


def test_works_under_vmap_and_remat_of_nnx() -> None:
    xs = flax_judge.inputs(LSTM)

    @nnx.split_rngs(splits=2)
    @nnx.vmap
    def ensemble(rngs: nnx.Rngs) -> rj_nnx.RNN:
        return rj_nnx.RNN(LSTM, FEATURES, rngs=rngs)

    many = ensemble(nnx.Rngs(0))
    ys = nnx.vmap(lambda rnn, xs: rnn(xs), in_axes=(0, None))(many, xs)
    assert not np.array_equal(ys[0], ys[1])
    for number in range(2):
        params = jax.tree.map(lambda leaf, n=number: leaf[n], nnx.as_pure(many.params))
        cases.assert_close(ys[number], make(LSTM, params)(xs), CLOSE)
    loss = lambda rnn: jnp.sum(rnn(xs) ** 2)
    cases.assert_close(nnx.grad(nnx.remat(loss))(make(LSTM)), nnx.grad(loss)(make(LSTM)), CLOSE)


@pytest.mark.parametrize(
    ("cell", "features", "error", "message"),
    [
        (rj.LSTM, 3, TypeError, "cell: expected an instance, got the class LSTM"),
        (rj.Stack, 3, TypeError, "cell: expected an instance, got the class Stack"),
        (3, 3, TypeError, "cell: expected the methods init, initial_carry and step, 3 lacks"),
        (LSTM, 0, ValueError, "in_size: expected a positive integer, got 0"),
        (DROPPING, 3, AttributeError, "dropout"),
    ],
)
def test_mistakes_in_making_a_module_are_named(cell: Any, features: int, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        rj_nnx.RNN(cell, features, rngs=nnx.Rngs(params=0))


def test_a_cell_of_flax_is_no_cell() -> None:
    with pytest.raises(TypeError, match=r"cell: expected the methods .* LSTMCell\((.|\n)* lacks init"):
        rj_nnx.RNN(nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0)), 3, rngs=nnx.Rngs(0))


def test_mistakes_in_calling_a_module_are_named() -> None:
    carry, xs, rnn = flax_judge.given(LSTM).carry, flax_judge.inputs(LSTM), make(LSTM)
    with pytest.raises(ValueError, match="inputs: expected 3 features, got 4"):
        rnn(jnp.ones((ROWS, STEPS, 4)))
    with pytest.raises(ValueError, match=r"inputs: expected \[..., T, D\], got \[3\]"):
        rnn(jnp.ones(3))
    with pytest.raises(TypeError, match="inputs: expected a floating dtype, got int"):
        rnn(np.ones((ROWS, STEPS, FEATURES), int))
    with pytest.raises(ValueError, match=r"resets: expected shape \[5, 6\], got \[6, 5\]"):
        rnn(xs, resets=flax_judge.RESETS.T)
    with pytest.raises(ValueError, match=r"carry: expected LSTMCarry\(h .* got tuple"):
        rnn(xs, initial_carry=tuple(carry))
    with pytest.raises(TypeError, match="reverse: not expected, a bidirectional layer runs both ways"):
        make(BOTH)(xs, reverse=True)
    with pytest.raises(ValueError, match=r"initial_carry: expected \(forward, backward\), got Array"):
        rj_nnx.Bidirectional(rnn, rnn)(xs, initial_carry=carry.h)


def test_bidirectional_of_bare_cells_is_named() -> None:
    message = r"expected an RNN module, RNN\(cell\), or for bare cells RNN\(rj.Bidirectional\(cell\)\), got LSTM\("
    with pytest.raises(TypeError, match=f"^forward_rnn: {message}"):
        rj_nnx.Bidirectional(LSTM, LSTM)
    with pytest.raises(TypeError, match=f"^backward_rnn: {message}"):
        rj_nnx.Bidirectional(make(LSTM), LSTM)
    with pytest.raises(TypeError, match=r"^backward_rnn: expected an RNN module, RNN\(cell\)"):
        rj_nnx.Bidirectional(make(LSTM), nnx.GRUCell(FEATURES, 4, rngs=nnx.Rngs(0)))
    with pytest.raises(TypeError, match=r"^forward_rnn: expected an RNN module, .* got <class "):
        rj_nnx.Bidirectional(rj_nnx.RNN, rj_nnx.RNN)
