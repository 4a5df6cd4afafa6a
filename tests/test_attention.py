"""Attention and the attentive cell, against NumPy written from the papers, row by row and position by position."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent_jax as rj
from tests import cases, oracles

# Float64 on both sides, a few steps.
ORACLE = 1e-12
SCORES = ["dot", "general", "additive"]
POSITIONS, ROWS, UNITS, FEATURES = 5, 3, 4, 3
LENGTHS = np.array([5, 2, 0])
CELL = rj.LSTM(UNITS, param_dtype="float64")
MEMORY_SIZE = {"dot": UNITS, "general": 6, "additive": 6}


def normal(seed: int, *shape: int) -> jax.Array:
    """Normal numbers."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def score(kind: str, params: Any, query: np.ndarray, m: np.ndarray) -> float:
    """Luong et al. (2015), equation 8, and Bahdanau et al. (2014), appendix A.1.2, for one position."""
    if kind == "dot":
        return float(query @ m)
    if kind == "general":
        return float(query @ (m @ np.asarray(params.w_memory)))
    return float(np.asarray(params.v) @ np.tanh(query @ np.asarray(params.w_query) + m @ np.asarray(params.w_memory)))


def attend(kind: str, params: Any, query: np.ndarray, values: np.ndarray, length: int) -> tuple[Any, Any]:
    """Context and weights of one row: `values [S, M]`, of which the first `length` are true."""
    weights = np.zeros(len(values))
    if length:
        scores = np.array([score(kind, params, query, m) for m in values[:length]])
        weights[:length] = np.exp(scores) / np.exp(scores).sum()
    return weights[:length] @ values[:length], weights


def attentive_step(kind: str, params: Any, feeding: bool, length: int) -> Callable[..., Any]:
    """Luong et al. (2015), equations 5 to 7, and input feeding, for one row whose memory is the last parameter."""

    def step(leaves: Any, carry: Any, x: np.ndarray) -> Any:
        *inner, values = leaves
        h_tilde, _, h, c = carry
        if feeding:
            x = np.concatenate([x, h_tilde])
        (h, c), s = oracles.lstm(tuple(inner), (h, c), x)
        context, weights = attend(kind, params.attention, s, values, length)
        h_tilde = np.tanh(np.concatenate([context, s]) @ np.asarray(params.w_c))
        return (h_tilde, weights, h, c), h_tilde

    return step


def make(kind: str, **options: Any) -> tuple[rj.AttentiveCell, Any, jax.Array, jax.Array]:
    """An attentive cell, its parameters with a ragged memory whose padding is NaN, the values, and inputs."""
    attention = rj.Attention(kind, param_dtype="float64")  # type: ignore[arg-type]
    cell = rj.AttentiveCell(CELL, MEMORY_SIZE[kind], attention=attention, param_dtype="float64", **options)
    values = normal(1, POSITIONS, ROWS, MEMORY_SIZE[kind])
    values = jnp.where(jnp.arange(POSITIONS)[:, None, None] < LENGTHS[None, :, None], values, jnp.nan)
    params = cell.init(jax.random.key(0), FEATURES)
    return cell, cell.remember(params, values, lengths=LENGTHS), values, normal(2, 6, ROWS, FEATURES)


def oracle(cell: Any, params: Any, values: Any, xs: Any, carry: Any = None, **flags: Any) -> tuple[Any, Any, Any]:
    """The attentive cell by the oracle, each row with its own memory: final carry, outputs, carries."""
    initial = cell.initial_carry(params, (ROWS,))
    flat = lambda c: (c.h, c.weights, c.cell.h, c.cell.c)
    rows = []
    for row in range(ROWS):
        step = attentive_step(cell.attention.score, params, cell.input_feeding, int(LENGTHS[row]))
        leaves = (*map(np.asarray, params.cell), np.asarray(values)[:, row])
        start, first = (tuple(np.asarray(leaf)[row] for leaf in flat(c)) for c in (carry or initial, initial))
        own = {name: flag if name == "reverse" else np.asarray(flag)[..., row] for name, flag in flags.items()}
        rows.append(oracles.unroll(step, leaves, np.asarray(xs)[:, row], start, first, **own))
    together = lambda parts, axis: rj.AttentiveCarry(
        rj.LSTMCarry(*(np.stack([p[i] for p in parts], axis) for i in (2, 3))),
        *(np.stack([p[i] for p in parts], axis) for i in (0, 1)),
    )
    return (
        together([last for last, _, _ in rows], 0),
        np.stack([ys for _, ys, _ in rows], 1),
        together([carries for _, _, carries in rows], 1),
    )


@pytest.mark.parametrize("kind", SCORES)
def test_attention_is_that_of_the_papers(kind: Any) -> None:
    attention = rj.Attention(kind, param_dtype="float64")
    params = attention.init(jax.random.key(0), UNITS, MEMORY_SIZE[kind])
    values, queries = normal(1, POSITIONS, ROWS, MEMORY_SIZE[kind]), normal(2, 7, ROWS, UNITS)
    context, weights = attention.apply(params, queries, attention.remember(params, values, lengths=LENGTHS))
    for t, row in np.ndindex(7, ROWS):
        expected = attend(kind, params, np.asarray(queries)[t, row], np.asarray(values)[:, row], int(LENGTHS[row]))
        cases.assert_close((context[t, row], weights[t, row]), expected, ORACLE)


@pytest.mark.parametrize("feeding", [True, False])
@pytest.mark.parametrize("kind", SCORES)
def test_attentive_cell_is_that_of_the_paper(kind: str, feeding: bool) -> None:
    cell, params, values, xs = make(kind, input_feeding=feeding)
    mask = np.random.default_rng(3).random((6, ROWS)) < 0.7
    resets = np.random.default_rng(4).random((6, ROWS)) < 0.3
    carry = jax.tree.map(lambda leaf: normal(5, *leaf.shape), cell.initial_carry(params, (ROWS,)))
    flags = {"mask": mask, "resets": resets}
    last, ys, carries = rj.unroll(cell, params, xs, carry, **flags, return_carries=True)
    expected = oracle(cell, params, values, xs, carry, **flags)
    cases.assert_close((last, ys, carries), expected, ORACLE)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("flags", [{}, {"lengths": np.array([6, 0, 4])}, {"resets": True, "mask": True}], ids=str)
def test_attending_all_at_once_is_attending_step_by_step(flags: Any, reverse: bool) -> None:
    cell, params, values, xs = make("general", input_feeding=False)
    flags = {
        name: np.random.default_rng(3).random((6, ROWS)) < 0.6 if flag is True else flag for name, flag in flags.items()
    }
    carry = jax.tree.map(lambda leaf: normal(5, *leaf.shape), cell.initial_carry(params, (ROWS,)))
    last, ys = cell.apply(params, xs, carry, **flags, reverse=reverse)
    expected = oracle(cell, params, values, xs, carry, **flags, reverse=reverse)[:2]
    cases.assert_close((last, ys), expected, ORACLE)


def test_attending_all_at_once_takes_the_inner_cells_own_kernel() -> None:
    cell, params, _, xs = make("dot", input_feeding=False)
    with pytest.raises(NotImplementedError, match="fused"):
        rj.unroll(cell, params, xs, implementation="fused")
    cell.apply(params, xs, implementation="fused")


def test_no_steps_return_the_initial_carry() -> None:
    cell, params, _, xs = make("dot", input_feeding=False)
    carry, ys = cell.apply(params, xs[:0])
    assert ys.shape == (0, ROWS, UNITS)
    cases.assert_same(carry, cell.initial_carry(params, (ROWS,)))


@pytest.mark.parametrize("kind", SCORES)
def test_padding_of_the_memory_changes_nothing(kind: str) -> None:
    cell, params, values, xs = make(kind)
    bare = params._replace(memory=None)

    def loss(params: Any, values: Any) -> Any:
        ys = cell.apply(cell.remember(params, values, lengths=LENGTHS), xs)[1]
        return (ys**2).sum()

    results = jax.value_and_grad(loss, (0, 1))(bare, values)
    further = jnp.concatenate([jnp.where(jnp.isnan(values), 1e30, values), jnp.full_like(values[:2], jnp.inf)])
    value, (for_params, for_values) = jax.value_and_grad(loss, (0, 1))(bare, further)
    cases.assert_close((value, (for_params, for_values[:POSITIONS])), results, ORACLE)
    assert not for_values[POSITIONS:].any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results))


@pytest.mark.parametrize("kind", SCORES)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    cell, params, values, xs = make(kind)
    values = jnp.nan_to_num(values)

    def loss(params: Any, values: Any, xs: Any) -> Any:
        carry, ys = cell.apply(cell.remember(params, values, lengths=LENGTHS), xs, lengths=np.array([6, 3, 1]))
        return jnp.sin(ys).sum() + sum(jnp.cos(leaf).sum() for leaf in jax.tree.leaves(carry))

    inputs = (params._replace(memory=None), values, xs)
    gradient = jax.tree.leaves(jax.grad(loss, (0, 1, 2))(*inputs))
    leaves, structure = jax.tree.flatten(inputs)
    directions = [normal(10 + i, *leaf.shape) for i, leaf in enumerate(leaves)]
    along = jax.jit(lambda t: loss(*jax.tree.unflatten(structure, [a + t * d for a, d in zip(leaves, directions)])))  # noqa: B905
    step = 1e-6
    slope = (along(step) - along(-step)) / (2 * step)
    expected = sum(float((g * d).sum()) for g, d in zip(gradient, directions, strict=True))
    # Central differences of a smooth function: the square of the step, and rounding over the step.
    np.testing.assert_allclose(slope, expected, rtol=1e-7)


def test_batch_shapes_of_query_and_memory_meet_at_their_ends() -> None:
    attention = rj.Attention("additive", param_dtype="float64")
    params = attention.init(jax.random.key(0), UNITS, 6)
    values, query = normal(1, POSITIONS, 6), normal(2, 2, ROWS, UNITS)
    alone, weights = attention.apply(params, query, attention.remember(params, values, lengths=3))
    assert weights.shape == (2, ROWS, POSITIONS)
    spread = jnp.broadcast_to(values[:, None, None], (POSITIONS, 2, ROWS, 6))
    many = attention.remember(params, spread, lengths=np.full((2, ROWS), 3))
    cases.assert_close(alone, attention.apply(params, query, many)[0], ORACLE)


def test_many_hypotheses_share_one_memory() -> None:
    # No array of the program is as large as the memory of each hypothesis would be.
    cell, params, _, xs = make("general")
    many = 11
    carry = jax.vmap(lambda _: cell.initial_carry(params, (ROWS,)))(jnp.arange(many))
    x = jnp.broadcast_to(xs[0], (many, *xs[0].shape))
    step = jax.vmap(lambda carry, x: cell.step(params, carry, x))
    program = jax.make_jaxpr(step)(carry, x)
    shapes = {v.aval.shape for eqn in program.jaxpr.eqns for v in eqn.outvars}
    assert not any(many in s and POSITIONS in s and MEMORY_SIZE["general"] in s for s in shapes)
    one = cell.step(params, cell.initial_carry(params, (ROWS,)), xs[0])
    cases.assert_close(jax.tree.map(lambda leaf: leaf[3], step(carry, x)), one, ORACLE)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_softmax_of_half_precision_is_computed_in_single(dtype: str) -> None:
    # Scores near 300, where a bfloat16 knows even numbers only and a float16's exp is infinite.
    attention = rj.Attention("dot")
    keys = jnp.asarray([[300.0, 1.0], [300.0, 1.5], [300.0, 2.0]], dtype)
    params = attention.init(jax.random.key(0), 2, 2)
    context, weights = attention.apply(params, jnp.asarray([1.0, 1.0], dtype), attention.remember(params, keys))
    assert weights.dtype == jnp.float32
    assert context.dtype == dtype
    shares = np.exp([0.0, 0.5, 1.0])
    np.testing.assert_allclose(weights, shares / shares.sum(), rtol=1e-5)


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("steps", [(), (9,)], ids=str)
def test_attention_of_half_precision_is_that_of_single(kind: Any, steps: tuple[int, ...]) -> None:
    attention = rj.Attention(kind)
    params = attention.init(jax.random.key(0), 8, 8)
    values, query = (0.5 * normal(seed, *shape) for seed, shape in ((1, (7, ROWS, 8)), (2, (*steps, ROWS, 8))))

    def context(dtype: Any) -> Any:
        def attend(values: Any, query: Any) -> Any:
            memory = attention.remember(params, values.astype(dtype), lengths=LENGTHS)
            return attention.apply(params, query.astype(dtype), memory)[0].astype("float32")

        return attend

    def gradient(dtype: Any) -> Any:
        return jax.jit(jax.grad(lambda *args: jnp.sum(context(dtype)(*args) ** 2), (0, 1)))

    for function in (context, gradient):
        half, single = (jax.tree.leaves(function(dtype)(values, query)) for dtype in ("bfloat16", "float32"))
        for one, other in zip(half, single, strict=True):
            # A few roundings of 8 bits.
            np.testing.assert_allclose(one, other, atol=0.03 * abs(other).max())


def test_cell_of_half_precision_keeps_its_dtypes() -> None:
    cell = rj.AttentiveCell(rj.LSTM(UNITS, dtype="bfloat16"), UNITS, dtype="bfloat16")
    params = cell.init(jax.random.key(0), FEATURES)
    params = cell.remember(params, jnp.ones((POSITIONS, ROWS, UNITS), jnp.bfloat16), lengths=LENGTHS)
    carry, ys = rj.unroll(cell, params, jnp.ones((3, ROWS, FEATURES), jnp.float32))
    assert (ys.dtype, carry.h.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert (carry.cell.c.dtype, carry.weights.dtype) == (jnp.float32, jnp.float32)


def test_dot_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    values, queries = normal(1, POSITIONS, ROWS, UNITS), normal(2, 7, ROWS, UNITS)
    lengths = np.array([5, 2, 1])
    attention = rj.Attention("dot", param_dtype="float64")
    params = attention.init(jax.random.key(0), UNITS, UNITS)
    context, _ = attention.apply(params, queries, attention.remember(params, values, lengths=lengths))
    memory = torch.tensor(np.asarray(values)).transpose(0, 1)
    mask = torch.arange(POSITIONS)[None, None] < torch.tensor(lengths)[:, None, None]
    theirs = torch.nn.functional.scaled_dot_product_attention(
        torch.tensor(np.asarray(queries)).transpose(0, 1), memory, memory, attn_mask=mask, scale=1.0
    )
    cases.assert_close(context, theirs.transpose(0, 1).numpy(), ORACLE)


def test_inner_cell_may_be_a_stack() -> None:
    stack = rj.Stack([CELL, rj.GRU(7, param_dtype="float64")])
    cell = rj.AttentiveCell(stack, 7, hidden_size=9, param_dtype="float64")
    params = cell.init(jax.random.key(0), FEATURES)
    assert params.cell[0].w_x.shape == (FEATURES + 9, 4 * UNITS)
    assert params.w_c.shape == (14, 9)
    params = cell.remember(params, normal(1, POSITIONS, ROWS, 7), lengths=LENGTHS)
    xs = normal(2, 4, ROWS, FEATURES)
    _, ys = cell.apply(params, xs)
    carry = cell.initial_carry(params, (ROWS,))
    for x, y in zip(xs, ys, strict=True):
        carry, here = cell.step(params, carry, x)
        cases.assert_close(here, y, ORACLE)
    assert ys.shape == (4, ROWS, 9)


def test_dropout_within_a_fed_cell_is_refused() -> None:
    cell = rj.AttentiveCell(rj.Stack([CELL, CELL], dropout=0.5), UNITS, param_dtype="float64")
    params = cell.remember(cell.init(jax.random.key(0), FEATURES), normal(1, POSITIONS, ROWS, UNITS))
    xs = normal(2, 4, ROWS, FEATURES)
    with pytest.raises(NotImplementedError, match="key: expected None, since with input feeding"):
        cell.apply(params, xs, key=jax.random.key(1))
    fed = cell.apply(params, xs)[1]
    assert fed.shape == (4, ROWS, UNITS)


def test_attentive_cell_keeps_the_contract_of_cells() -> None:
    class Remembering:
        """An attentive cell that is born with a memory of one row, as `check_cell` needs."""

        cell = rj.AttentiveCell(CELL, UNITS, param_dtype="float64")

        def init(self, key: Any, in_size: int) -> Any:
            return self.cell.remember(self.cell.init(key, in_size), normal(1, POSITIONS, UNITS))

        initial_carry = staticmethod(cell.initial_carry)
        step = staticmethod(cell.step)

    report = rj.check_cell(Remembering())
    assert report.ok, report


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: rj.Attention("cosine"), ValueError, "score: expected 'dot', 'general' or 'additive', got 'cosine'"),
        (lambda: rj.Attention("dot", size=3), ValueError, "size: expected None, since only the additive score"),
        (lambda: rj.Attention("additive", size=0), ValueError, "size: expected a positive integer, got 0"),
        (lambda: rj.Attention(param_dtype="int8"), ValueError, "param_dtype: expected one of"),
        (
            lambda: rj.Attention().init(jax.random.key(0), 3, 4),
            ValueError,
            "memory_size: expected that of the query, 3",
        ),
        (lambda: rj.Attention().init(jax.random.key(0), 3, 0), ValueError, "memory_size: expected a positive integer"),
        (lambda: rj.AttentiveCell(rj.LSTM, 3), TypeError, "cell: expected an instance"),
        (lambda: rj.AttentiveCell(CELL, 0), ValueError, "memory_size: expected a positive integer, got 0"),
        (lambda: rj.AttentiveCell(CELL, 3, attention="dot"), TypeError, "attention: expected an Attention, got 'dot'"),
        (lambda: rj.AttentiveCell(CELL, 3, hidden_size=-1), ValueError, "hidden_size: expected a positive integer"),
        (lambda: rj.AttentiveCell(CELL, 3, input_feeding=1), TypeError, "input_feeding: expected True or False, got 1"),
        (lambda: rj.AttentiveCell(CELL, 3, dtype="int8"), ValueError, "dtype: expected one of"),
        (lambda: rj.AttentiveCell(CELL, 5).init(jax.random.key(0), 3), ValueError, "memory_size: expected that of"),
    ],
)
def test_errors_of_making_name_the_argument(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("shape", [(4,), (2, 4), (3, 2, 4)])
def test_query_of_another_batch_is_refused(shape: tuple[int, ...]) -> None:
    attention = rj.Attention()
    params = attention.init(jax.random.key(0), 4, 4)
    memory = attention.remember(params, jnp.ones((5, 3, 4)))
    with pytest.raises(ValueError, match=r"query: expected \[..., 3, Q\], the batch shape of the memory, got \["):
        attention.apply(params, jnp.ones(shape), memory)


@pytest.mark.parametrize(
    ("values", "options", "error", "message"),
    [
        (jnp.ones((5, 3, 7)), {}, ValueError, r"values: expected \[S, ..., 4\], got \[5, 3, 7\]"),
        (jnp.ones(4), {}, ValueError, r"values: expected \[S, ..., M\], got \[4\]"),
        (jnp.ones((5, 4), int), {}, TypeError, "values: expected a floating dtype, got int64"),
        (jnp.ones((5, 3, 4)), {"lengths": [5, 6, 0]}, ValueError, "lengths: expected values from 0 to T=5, got 6"),
    ],
)
def test_errors_of_remembering_name_the_argument(values: Any, options: Any, error: Any, message: str) -> None:
    cell = rj.AttentiveCell(CELL, UNITS, param_dtype="float64")
    params = cell.init(jax.random.key(0), FEATURES)
    with pytest.raises(error, match=message):
        cell.remember(params, values, **options)


@pytest.mark.parametrize("feeding", [True, False])
def test_a_cell_without_a_memory_says_how_to_come_by_one(feeding: bool) -> None:
    cell = rj.AttentiveCell(CELL, UNITS, input_feeding=feeding)
    params = cell.init(jax.random.key(0), FEATURES)
    with pytest.raises(
        ValueError, match=r"params: expected a memory, got None; params = cell.remember\(params, values\)"
    ):
        cell.apply(params, jnp.ones((2, FEATURES)))
