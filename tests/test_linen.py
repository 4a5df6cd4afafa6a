"""The Linen shell: Flax's calls with Flax as the judge, parameters as documented, and Linen's own transformations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import errors, serialization, traverse_util
from flax import linen as nn

import recurrent_jax as rj
from recurrent_jax import linen as rj_linen
from tests import cases, flax_judge
from tests.flax_judge import CALLS, CELLS, CLOSE, FEATURES, LSTM, ROWS, STEPS, UNITS

# Each cell of Flax, the letters of its gates in our order, and the side that has the bias.
JUDGES: dict[type, tuple[Any, str, str]] = {
    rj.RNN: (nn.SimpleCell, " ", "i"),
    rj.LSTM: (nn.LSTMCell, "ifgo", "h"),
    rj.GRU: (nn.GRUCell, "rzn", "i"),
}


def judge(cell: Any, params: Any) -> tuple[Any, dict[str, Any]]:
    """Flax's cell like ours, and our parameters as it takes them."""
    kind, gates, side = JUDGES[type(cell)]
    theirs: dict[str, dict[str, Any]] = {}
    blocks = (jnp.split(leaf, len(gates), -1) for leaf in params[:3])
    for gate, w_x, w_h, b in zip(gates, *blocks, strict=True):
        theirs[f"i{gate}".strip()], theirs[f"h{gate}".strip()] = {"kernel": w_x}, {"kernel": w_h}
        theirs[f"{side}{gate}".strip()]["bias"] = b
    if isinstance(cell, rj.GRU):
        theirs["hn"]["bias"] = params.b_n
    return kind(UNITS, dtype=cell.compute_dtype, param_dtype=cell.compute_dtype), theirs


def variables(params: Any) -> dict[str, Any]:
    """Parameters of ours as Linen keeps them, by Flax's own function."""
    return {"params": {"cell": serialization.to_state_dict(params)}}


@flax_judge.over_calls
def test_rnn_is_flax_rnn(name: str, call: str) -> None:
    cell = CELLS[name]
    params, _, carry = flax_judge.given(cell)
    flax_cell, flax_params = judge(cell, params)
    ours = lambda *args, **options: rj_linen.RNN(cell).apply(variables(params), *args, **options)
    flax = lambda *args, **options: nn.RNN(flax_cell).apply({"params": {"cell": flax_params}}, *args, **options)
    flax_judge.assert_flax_agrees(ours, flax, cell, None if call == "plain" else carry, **CALLS[call])


def test_rnn_is_flax_rnn_in_float32() -> None:
    cell = rj.LSTM(UNITS)
    params, _, carry = flax_judge.given(cell)
    flax_cell, flax_params = judge(cell, params)
    ours = lambda *args, **options: rj_linen.RNN(cell).apply(variables(params), *args, **options)
    flax = lambda *args, **options: nn.RNN(flax_cell).apply({"params": {"cell": flax_params}}, *args, **options)
    # Float32 over six steps.
    flax_judge.assert_flax_agrees(ours, flax, cell, carry, 1e-6, **CALLS["reverse_lengths"])


@flax_judge.over_calls_both_ways
@pytest.mark.parametrize("kind", [rj_linen.Bidirectional, nn.Bidirectional], ids=["ours", "flax"])
def test_bidirectional_is_flax_bidirectional(kind: Any, call: str, merge: dict[str, Any]) -> None:
    # Flax's own takes our RNN too. What the RNNs were told counts for nothing.
    params, _, carry = flax_judge.given(LSTM)
    other = jax.tree.map(lambda leaf: -leaf, params)
    ours = kind(rj_linen.RNN(LSTM, reverse=True, time_major=True), rj_linen.RNN(LSTM), **merge)
    of_ours = {"params": {"forward_rnn": variables(params)["params"], "backward_rnn": variables(other)["params"]}}
    flax = nn.Bidirectional(nn.RNN(judge(LSTM, params)[0]), nn.RNN(judge(LSTM, params)[0]), **merge)
    of_flax = {
        "params": {
            "forward_rnn": {"cell": judge(LSTM, params)[1]},
            "backward_rnn": {"cell": judge(LSTM, other)[1]},
        }
    }
    flax_judge.assert_flax_agrees(
        lambda *args, **options: ours.apply(of_ours, *args, **options),
        lambda *args, **options: flax.apply(of_flax, *args, **options),
        LSTM,
        rj.BidirectionalCarry(carry, jax.tree.map(lambda leaf: leaf / 2, carry)),
        **CALLS[call],
    )


def test_bidirectional_returns_what_it_is_told_to() -> None:
    layer = rj_linen.Bidirectional(rj_linen.RNN(LSTM), rj_linen.RNN(LSTM), time_major=True, return_carry=True)
    xs = flax_judge.given(LSTM).xs
    (carry, ys), kept = layer.init_with_output(jax.random.key(0), xs)
    assert isinstance(carry, rj.BidirectionalCarry)
    assert ys.shape == (STEPS, ROWS, 2 * UNITS)
    cases.assert_same(layer.apply(kept, xs, return_carry=False), ys)
    rows_first = layer.apply(kept, jnp.moveaxis(xs, 0, 1), time_major=False, return_carry=False)
    cases.assert_close(rows_first, jnp.moveaxis(ys, 0, 1), CLOSE)


@flax_judge.over_unrolled
def test_rnn_is_unroll(call: str) -> None:
    params, xs, carry = flax_judge.given(LSTM)
    options, of_unroll = flax_judge.UNROLLED[call]
    expected_carry, expected = rj.unroll(LSTM, params, xs, carry, **of_unroll)
    time_major = options.get("time_major", False)
    got = rj_linen.RNN(LSTM, return_carry=True).apply(
        variables(params), flax_judge.inputs(LSTM, time_major), initial_carry=carry, **options
    )
    cases.assert_same(got, (expected_carry, expected if time_major else jnp.moveaxis(expected, 0, 1)))


@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("lengths", [False, True])
def test_any_batch_shape(batch: tuple[int, ...], lengths: bool) -> None:
    params, xs, _ = cases.data(LSTM, batch, STEPS, FEATURES)
    lengths = np.random.default_rng(0).integers(0, STEPS + 1, batch) if lengths else None
    got = rj_linen.RNN(LSTM, reverse=True).apply(variables(params), jnp.moveaxis(xs, 0, -2), seq_lengths=lengths)
    _, ys = rj.unroll(LSTM, params, xs, lengths=lengths, reverse=True)
    expected = np.zeros_like(ys)
    for row in np.ndindex(batch):
        true = STEPS if lengths is None else lengths[row]
        expected[(slice(true), *row)] = ys[(slice(true), *row)][::-1]
    cases.assert_same(got, np.moveaxis(expected, 0, -2))


@pytest.mark.parametrize("lengths", [None, flax_judge.LENGTHS])
def test_outputs_may_be_trees_of_any_rank(lengths: Any) -> None:
    class Echo(cases.Counter):
        """Puts out a number for each row, and a matrix."""

        def step(self, params: Any, carry: Any, x: Any) -> Any:
            return carry, {"number": x[..., 0], "matrix": jnp.stack([x, x], -1)}

    xs = flax_judge.inputs(LSTM)
    got = rj_linen.RNN(Echo(), reverse=True).apply({"params": {"cell": {}}}, xs, seq_lengths=lengths)
    expected = np.zeros_like(xs)
    for row, true in enumerate([STEPS] * ROWS if lengths is None else lengths):
        expected[row, :true] = np.asarray(xs)[row, :true][::-1]
    cases.assert_same(got, {"number": expected[..., 0], "matrix": np.stack([expected, expected], -1)})


def test_a_call_goes_before_the_constructor() -> None:
    params = flax_judge.given(LSTM).params
    told = {"time_major": True, "return_carry": True, "reverse": True, "keep_order": True}
    xs = flax_judge.inputs(LSTM)
    plain = rj_linen.RNN(LSTM)
    other = rj_linen.RNN(LSTM, **told)
    turned = plain.apply(variables(params), jnp.moveaxis(xs, 0, 1), **told)
    cases.assert_same(other.apply(variables(params), jnp.moveaxis(xs, 0, 1)), turned)
    untold = dict.fromkeys(told, False)
    cases.assert_same(other.apply(variables(params), xs, **untold), plain.apply(variables(params), xs))


LAYERS = {
    "stack": rj.Stack([LSTM, CELLS["gru"]]),
    "bidirectional": rj.Bidirectional(LSTM, CELLS["gru"]),
    "pair": rj.Bidirectional(LSTM, CELLS["gru"], merge=None),
    "both": rj.Stack([rj.Bidirectional(LSTM), rj.Stack([CELLS["rnn"]])]),
    "two_matmuls": rj.GRU(UNITS, reset="before", param_dtype="float64"),
    "variants": rj.Stack(flax_judge.VARIANTS),
    "peepholes": flax_judge.VARIANTS[0],
    "learned_carry": cases.LEARNED_START.cell,
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_their_apply(name: str) -> None:
    layer = LAYERS[name]
    rnn = rj_linen.RNN(layer, return_carry=True)
    params, xs, _ = flax_judge.given(layer)
    options = {"lengths": flax_judge.LENGTHS, "resets": flax_judge.RESETS.T}
    if hasattr(layer, "apply"):
        carry, ys = layer.apply(params, xs, **options)
    else:
        carry, ys = rj.unroll(layer, params, xs, **options)
    kept = rnn.init(jax.random.key(0), flax_judge.inputs(layer))
    mine = variables(params)
    assert jax.tree.map(jnp.shape, kept) == jax.tree.map(jnp.shape, _without_none(mine))
    got = rnn.apply(mine, flax_judge.inputs(layer), seq_lengths=flax_judge.LENGTHS, resets=flax_judge.RESETS)
    cases.assert_same(got, (carry, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), ys)))


def _without_none(tree: Any) -> Any:
    """Dicts of dicts, without the entries that are None."""
    flat = traverse_util.flatten_dict(tree)
    return traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if leaf is not None})


def test_parameters_are_plain_dicts_of_what_init_draws() -> None:
    class Model(nn.Module):
        """A user's."""

        @nn.compact
        def __call__(self, xs: Any) -> Any:
            ys = rj_linen.RNN(rj.Stack([LSTM, LAYERS["two_matmuls"]]), name="rnn")(xs)
            return nn.Dense(2, param_dtype="float64")(ys)

    kept = Model().init(jax.random.key(0), flax_judge.inputs(LSTM))
    flat = traverse_util.flatten_dict(kept["params"], sep="/")
    assert {name: leaf.shape for name, leaf in flat.items() if name.startswith("rnn")} == {
        "rnn/cell/0/w_x": (FEATURES, 4 * UNITS),
        "rnn/cell/0/w_h": (UNITS, 4 * UNITS),
        "rnn/cell/0/b": (4 * UNITS,),
        "rnn/cell/1/w_x": (UNITS, 3 * UNITS),
        "rnn/cell/1/w_h": (UNITS, 3 * UNITS),
        "rnn/cell/1/b": (3 * UNITS,),
    }
    # The values are those of `init`: the forget gate's bias is 1, a recurrent block orthogonal.
    cases.assert_same(flat["rnn/cell/0/b"], LSTM.init(jax.random.key(1), FEATURES).b)
    block = flat["rnn/cell/1/w_h"][:, :UNITS]
    cases.assert_close(block.T @ block, jnp.eye(UNITS), CLOSE)
    other = Model().init(jax.random.key(1), flax_judge.inputs(LSTM))["params"]["rnn"]["cell"]["1"]["w_h"]
    assert not np.array_equal(flat["rnn/cell/1/w_h"], other)


def test_parameters_come_back_for_a_step() -> None:
    xs = flax_judge.inputs(LSTM)
    rnn = rj_linen.RNN(LSTM)
    ys, kept = rnn.init_with_output(jax.random.key(0), xs)
    params = rj.LSTMParams(**kept["params"]["cell"])
    _, y = LSTM.step(params, LSTM.initial_carry(params, (ROWS,)), xs[:, 0])
    cases.assert_close(y, ys[:, 0], CLOSE)


def test_a_cell_without_parameters() -> None:
    xs = flax_judge.inputs(LSTM)
    rnn = rj_linen.RNN(cases.Counter())
    ys, kept = rnn.init_with_output(jax.random.key(0), xs)
    assert not jax.tree.leaves(kept)
    assert (np.asarray(ys)[..., 0] == np.arange(1, STEPS + 1)).all()


def test_gradients_are_those_of_unroll() -> None:
    params, xs, _ = flax_judge.given(LSTM)
    options = {"seq_lengths": flax_judge.LENGTHS, "reverse": True}
    rnn = rj_linen.RNN(LSTM)
    got = jax.jit(jax.grad(lambda kept: jnp.sum(rnn.apply(kept, flax_judge.inputs(LSTM), **options) ** 2)))
    lengths = flax_judge.LENGTHS
    expected = jax.grad(lambda params: jnp.sum(rj.unroll(LSTM, params, xs, lengths=lengths, reverse=True)[1] ** 2))
    cases.assert_close(got(variables(params)), variables(expected(params)), CLOSE)


def test_a_model_trains() -> None:
    class Model(nn.Module):
        """The sum of the inputs, from the last output."""

        @nn.compact
        def __call__(self, xs: Any) -> Any:
            return nn.Dense(1, param_dtype="float64")(rj_linen.RNN(LSTM)(xs)[:, -1])

    model, optimiser = Model(), optax.sgd(0.05, momentum=0.9)
    xs = flax_judge.inputs(LSTM)
    loss = lambda kept: jnp.mean((model.apply(kept, xs)[:, 0] - xs.sum((1, 2))) ** 2)

    @jax.jit
    def step(kept: Any, state: Any) -> tuple[Any, Any, Any]:
        value, grads = jax.value_and_grad(loss)(kept)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(kept, updates), state, value

    kept = model.init(jax.random.key(0), xs)
    state, first = optimiser.init(kept), loss(kept)
    for _ in range(60):
        kept, state, value = step(kept, state)
    assert value < 0.1 * first


DROPPING = rj.Stack([rj.Stack([LSTM, LSTM], dropout=0.5), LSTM])


def test_dropout_draws_from_its_own_stream() -> None:
    class Drawn(nn.Module):
        """The key that a module at the top draws."""

        @nn.compact
        def __call__(self) -> Any:
            return self.make_rng("dropout")

    params, xs, _ = flax_judge.given(DROPPING)
    rngs = {"dropout": jax.random.key(1)}
    _, expected = DROPPING.apply(params, xs, key=Drawn().apply({}, rngs=rngs))
    rnn = rj_linen.RNN(DROPPING, time_major=True)
    cases.assert_same(rnn.apply(variables(params), xs, deterministic=False, rngs=rngs), expected)
    assert not np.array_equal(expected, DROPPING.apply(params, xs)[1])


def test_deterministic_is_without_dropout() -> None:
    params, xs, _ = flax_judge.given(DROPPING)
    _, expected = DROPPING.apply(params, xs)
    told = rj_linen.RNN(DROPPING, time_major=True, deterministic=True)
    cases.assert_same(told.apply(variables(params), xs), expected)
    told = rj_linen.RNN(DROPPING, time_major=True, deterministic=False)
    cases.assert_same(told.apply(variables(params), xs, deterministic=True), expected)
    # Nothing to say where there is no dropout, and no stream to give.
    without = rj_linen.RNN(rj.Stack([LSTM]))
    assert without.init_with_output(jax.random.key(0), xs)[0].shape == (STEPS, ROWS, UNITS)
    without.init(jax.random.key(0), xs, deterministic=False)


def test_both_directions_drop_out_by_themselves() -> None:
    # On inputs that are the same at every step, with the same parameters, only dropout tells the directions apart.
    difference = lambda forward, backward: forward - jnp.flip(backward, 1)
    layer = rj_linen.Bidirectional(rj_linen.RNN(DROPPING), rj_linen.RNN(DROPPING), merge_fn=difference)
    of_rnn = variables(flax_judge.given(DROPPING).params)["params"]
    kept = {"params": {"forward_rnn": of_rnn, "backward_rnn": of_rnn}}
    run = lambda **options: layer.apply(kept, jnp.ones((ROWS, STEPS, FEATURES), "float64"), **options)
    assert not run(deterministic=True).any()
    assert run(deterministic=False, rngs={"dropout": jax.random.key(1)}).any()


def test_options_reach_the_kernel() -> None:
    cell = LAYERS["two_matmuls"]
    mine, xs = variables(flax_judge.given(cell).params), flax_judge.inputs(cell)
    with pytest.raises(NotImplementedError, match="fused refuses"):
        rj_linen.RNN(cell, implementation="fused").apply(mine, xs)
    for option in ("unroll", "checkpoint_every"):
        with pytest.raises(ValueError, match=f"{option}: expected a positive integer, got 0"):
            rj_linen.RNN(cell, **{option: 0}).apply(mine, xs)


def test_works_under_vmap_and_remat_of_linen() -> None:
    xs = flax_judge.inputs(LSTM)
    ensemble = nn.vmap(
        rj_linen.RNN, in_axes=None, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=2
    )(LSTM)
    ys, kept = ensemble.init_with_output(jax.random.key(0), xs)
    assert not np.array_equal(ys[0], ys[1])
    for number in range(2):
        one = jax.tree.map(lambda leaf, n=number: leaf[n], kept)
        cases.assert_close(ys[number], rj_linen.RNN(LSTM).apply(one, xs), CLOSE)
    loss = lambda kind: jax.grad(lambda kept: jnp.sum(kind(LSTM).apply(kept, xs) ** 2))(one)
    cases.assert_close(loss(nn.remat(rj_linen.RNN)), loss(rj_linen.RNN), CLOSE)


@pytest.mark.parametrize("kind", [rj_linen.RNN, lambda cell: nn.RNN(nn.LSTMCell(UNITS))], ids=["ours", "flax"])
@pytest.mark.parametrize("lifted", [nn.remat, nn.jit], ids=["remat", "jit"])
def test_bidirectional_is_lifted_with_its_modules(kind: Any, lifted: Any) -> None:
    class Model(nn.Module):
        """A user's, which makes its layers in setup."""

        both: Any

        def setup(self) -> None:
            """Modules as attributes."""
            self.layer = self.both(kind(LSTM), kind(LSTM))

        def __call__(self, xs: Any) -> Any:
            """Runs them."""
            return self.layer(xs)

    xs = flax_judge.inputs(LSTM).astype("float32")
    plain = Model(rj_linen.Bidirectional)
    kept = plain.init(jax.random.key(0), xs)
    cases.assert_close(Model(lifted(rj_linen.Bidirectional)).apply(kept, xs), plain.apply(kept, xs), 1e-6)
    assert plain.clone() == plain


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rj_linen.RNN(rj.LSTM), "cell: expected an instance, got the class LSTM"),
        (lambda: rj_linen.RNN(rj.Stack), "cell: expected an instance, got the class Stack"),
        (lambda: rj_linen.RNN(3), "cell: expected the methods init, initial_carry and step, 3 lacks"),
        (lambda: rj_linen.RNN(nn.LSTMCell(4)), r"cell: expected the methods .* LSTMCell\((.|\n)* lacks initial_carry"),
        (
            lambda: rj_linen.Bidirectional(nn.GRUCell(4), nn.GRUCell(4)),
            r"^forward_rnn: expected an RNN module, RNN\(cell\)",
        ),
        (
            lambda: rj_linen.Bidirectional(LSTM, LSTM),
            r"^forward_rnn: expected an RNN module, RNN\(cell\), or for bare cells RNN\(rj.Bidirectional\(cell\)\), ",
        ),
        (lambda: rj_linen.Bidirectional(rj_linen.RNN(LSTM), LSTM), r"^backward_rnn: expected an RNN .* got LSTM\("),
        (lambda: rj_linen.Bidirectional(rj_linen.RNN, rj_linen.RNN), r"^forward_rnn: expected an RNN .* got <class "),
    ],
)
def test_mistakes_in_making_a_module_are_named(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_mistakes_in_calling_a_module_are_named() -> None:
    params, _, carry = flax_judge.given(LSTM)
    xs = flax_judge.inputs(LSTM)
    call = lambda *args, **options: rj_linen.RNN(LSTM).apply(variables(params), *args, **options)
    with pytest.raises(ValueError, match=r"inputs: expected \[..., T, D\], got \[3\]"):
        call(jnp.ones(3))
    with pytest.raises(ValueError, match=r"inputs: expected \[T, ..., D\], got \[3\]"):
        call(jnp.ones(3), time_major=True)
    with pytest.raises(TypeError, match=r"inputs: expected an array \[..., T, D\], got list"):
        call([1.0])
    with pytest.raises(errors.ScopeParamShapeError):
        call(jnp.ones((ROWS, STEPS, FEATURES + 1)))
    with pytest.raises(ValueError, match=r"resets: expected shape \[5, 6\], got \[6, 5\]"):
        call(xs, resets=flax_judge.RESETS.T)
    with pytest.raises(ValueError, match=r"lengths: expected shape \[5\], got \[6\]"):
        call(xs, seq_lengths=np.arange(6))
    with pytest.raises(ValueError, match=r"carry: expected LSTMCarry\(h .* got tuple"):
        call(xs, initial_carry=tuple(carry))
    with pytest.raises(TypeError, match="reverse: not expected, a bidirectional layer runs both ways"):
        rj_linen.RNN(rj.Bidirectional(LSTM)).init(jax.random.key(0), xs, reverse=True)
    both = rj_linen.Bidirectional(rj_linen.RNN(LSTM), rj_linen.RNN(LSTM))
    with pytest.raises(ValueError, match=r"initial_carry: expected \(forward, backward\), got Array"):
        both.init(jax.random.key(0), xs, initial_carry=carry.h)
    dropping = rj_linen.RNN(DROPPING)
    mine = variables(flax_judge.given(DROPPING).params)
    with pytest.raises(ValueError, match="deterministic: expected True or False, since the layers have dropout, got N"):
        dropping.apply(mine, xs)
    with pytest.raises(errors.InvalidRngError, match="dropout"):
        dropping.apply(mine, xs, deterministic=False)
