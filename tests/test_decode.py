"""Decoding against searches in plain Python with lists and float64 NumPy, one row at a time, written from the rules."""

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import recurrent_jax as rj
from recurrent_jax import decode
from tests import cases, oracles


@pytest.fixture(autouse=True, scope="module")
def quick_to_compile() -> Any:
    """LLVM's optimiser, which takes most of the time, is not on trial."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# Float64 on both sides, sums of at most eight terms.
ORACLE = 1e-12
END, PAD = 2, -7


class Markov:
    """Logits and attention depend on the row, the token read and the one before it, which the carry holds."""

    def __init__(self, seed: int, rows: int = 4, vocabulary: int = 5, sources: int = 3) -> None:
        rng = np.random.default_rng(seed)
        pairs = (rows, vocabulary, vocabulary)
        self.logits = 1.5 * rng.standard_normal((*pairs, vocabulary))
        # Some rows end soon, some hardly.
        self.logits[..., END] += np.linspace(-2, 1, rows)[:, None, None]
        self.weights = rng.dirichlet(np.full(sources, 0.3), pairs)
        # A source position that is never attended to.
        self.weights[0, ..., -1] = 0
        self.start = np.arange(rows) % vocabulary
        self.carry = {"previous": jnp.zeros(rows, jnp.int32), "weights": jnp.zeros((rows, sources))}

    def step(self, carry: Any, tokens: jax.Array) -> Any:
        """By JAX."""
        at = (jnp.arange(len(self.start)), carry["previous"], tokens)
        return {"previous": tokens, "weights": jnp.asarray(self.weights)[at]}, jnp.asarray(self.logits)[at]

    def attention(self, carry: Any) -> jax.Array:
        """By JAX."""
        return carry["weights"]

    def initial(self, row: int) -> Any:
        """By NumPy: the state of a row before its first step."""
        return 0

    def advance(self, row: int, state: Any, token: int) -> tuple[Any, np.ndarray, np.ndarray]:
        """By NumPy: the next state, the logits and the attention."""
        return token, self.logits[row, state, token], self.weights[row, state, token]


class Recurrent:
    """The same of a GRU, whose parameters are closed over."""

    def __init__(self, seed: int, rows: int = 4, vocabulary: int = 5, sources: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.cell = rj.GRU(6, param_dtype="float64")
        shapes = jax.eval_shape(lambda: self.cell.init(jax.random.key(0), vocabulary))
        self.params = jax.tree.map(lambda leaf: jnp.asarray(1.5 * rng.standard_normal(leaf.shape)), shapes)
        self.out = 2 * rng.standard_normal((6, vocabulary))
        self.look = 3 * rng.standard_normal((6, sources))
        self.start = rng.integers(0, vocabulary, rows)
        self.carry = rj.RNNCarry(jnp.asarray(rng.standard_normal((rows, 6))))

    def step(self, carry: Any, tokens: jax.Array) -> Any:
        """By JAX."""
        carry, h = self.cell.step(self.params, carry, jax.nn.one_hot(tokens, self.out.shape[1]))
        return carry, h @ self.out

    def attention(self, carry: Any) -> jax.Array:
        """By JAX."""
        return jax.nn.softmax(carry.h @ self.look, axis=-1)

    def initial(self, row: int) -> Any:
        """By NumPy: the state of a row before its first step."""
        return (np.asarray(self.carry.h[row]),)

    def advance(self, row: int, state: Any, token: int) -> tuple[Any, np.ndarray, np.ndarray]:
        """By NumPy: the next state, the logits and the attention."""
        x = np.eye(self.out.shape[1])[token]
        state, h = oracles.gru_after(tuple(np.asarray(leaf) for leaf in self.params), state, x)
        return state, h @ self.out, np.exp(log_softmax(h @ self.look))


class Tied(Markov):
    """Logits of -1, of both zeros, which are equal, and of -1e-17, which log p may not tell from them."""

    def __init__(self, seed: int, **sizes: int) -> None:
        super().__init__(seed, **sizes)
        self.logits = np.random.default_rng(seed).choice([-1.0, -0.0, 0.0, -1e-17], self.logits.shape)


MODELS = [Markov, Recurrent]


class Sequence(NamedTuple):
    """What a search found."""

    tokens: list[int]
    ended: bool
    log_prob: float
    score: float


@dataclasses.dataclass
class Hypothesis:
    """What a search goes on with; `token` is the next to be read."""

    tokens: list[int]
    token: int
    state: Any
    log_prob: float
    coverage: Any = 0.0


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """By its definition; -inf stays -inf."""
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def search_greedily(model: Any, row: int, steps: int) -> Sequence:
    """The likeliest token at each step."""
    token, state, tokens, total = model.start[row], model.initial(row), [], 0.0
    for _ in range(steps):
        state, logits, _ = model.advance(row, state, token)
        token = int(np.argmax(logits))
        total += log_softmax(logits)[token]
        if token == END:
            return Sequence(tokens, True, total, total)
        tokens.append(token)
    return Sequence(tokens, False, total, total)


@dataclasses.dataclass
class Scoring:
    """The score of a sequence of n tokens, the end token with them."""

    length_normalisation: float = 0.0
    coverage_penalty: float = 0.0
    source_lengths: tuple[int, ...] | None = None

    def __call__(self, row: int, log_prob: float, n: int, coverage: Any) -> float:
        """Wu et al. (2016), equation 14."""
        exponent, weight = float(self.length_normalisation), float(self.coverage_penalty)
        if weight:
            true = coverage if self.source_lengths is None else coverage[: self.source_lengths[row]]
            weight *= sum(np.log(min(max(total, 1e-30), 1.0)) for total in true)
        return log_prob / ((5 + n) ** exponent / 6**exponent) + weight

    def options(self, model: Any) -> dict[str, Any]:
        """As `beam` takes them."""
        return {**dataclasses.asdict(self), "attention": model.attention if self.coverage_penalty else None}


def search_by_beam(model: Any, row: int, steps: int, size: int, scoring: Scoring) -> tuple[list[Sequence], int]:
    """The rule of `beam` with lists; also how many steps it took."""
    live = [Hypothesis([], model.start[row], model.initial(row), 0.0)]
    finished: list[Sequence] = []
    by_score = lambda sequences: sorted(sequences, key=lambda each: -each.score)
    taken, done = 0, False
    while taken < steps and live and not done:
        taken += 1
        candidates = []
        for old in live:
            state, logits, weights = model.advance(row, old.state, old.token)
            for token, gained in enumerate(log_softmax(logits)):
                if gained > -np.inf:
                    new = Hypothesis(old.tokens, token, state, old.log_prob + gained, old.coverage + weights)
                    candidates.append(new)
        candidates = sorted(candidates, key=lambda new: -new.log_prob)[: 2 * size]
        for new in candidates[:size]:
            if new.token == END:
                score = scoring(row, new.log_prob, taken, new.coverage)
                finished.append(Sequence(new.tokens, True, new.log_prob, score))
        going = [new for new in candidates if new.token != END][:size]
        live = [dataclasses.replace(new, tokens=[*new.tokens, new.token]) for new in going]
        finished = by_score(finished)[:size]
        hopes = [scoring(row, h.log_prob, taken, h.coverage) for h in live]
        done = len(finished) == size and max(hopes, default=-np.inf) <= finished[-1].score
    cut = [Sequence(h.tokens, False, h.log_prob, scoring(row, h.log_prob, steps, h.coverage)) for h in live]
    return (by_score(finished)[:size] + by_score(cut))[:size], taken


def search_all(model: Any, row: int, steps: int, scoring: Scoring) -> list[Sequence]:
    """Every sequence there is, best first, those that end before those that are cut."""
    vocabulary = len(model.advance(row, model.initial(row), 0)[1])
    found = []
    for length in range(steps + 1):
        for tokens in itertools.product([v for v in range(vocabulary) if v != END], repeat=length):
            read, written = [model.start[row], *tokens], [*tokens, END]
            state, total, coverage = model.initial(row), 0.0, 0.0
            for before, after in list(zip(read, written, strict=True))[:steps]:
                state, logits, weights = model.advance(row, state, before)
                total, coverage = total + log_softmax(logits)[after], coverage + weights
            score = scoring(row, total, min(length + 1, steps), coverage)
            found.append(Sequence(list(tokens), length < steps, total, score))
    return sorted(found, key=lambda each: (not each.ended, -each.score))


def run(function: Any, model: Any, *args: Any, steps: int, **options: Any) -> Any:
    """One of the functions on a model, as NumPy arrays."""
    given = lambda carry, start: function(
        model.step, carry, start, *args, end=END, max_length=steps, pad=PAD, **options
    )
    return jax.tree.map(np.asarray, jax.jit(given)(model.carry, model.start))


def assert_sequences(got: Any, expected: list[list[Sequence]], steps: int) -> None:
    """`Decoded` or `Beams` hold what was expected of each row."""
    if isinstance(got, decode.Decoded):
        beams = jax.tree.map(lambda leaf: np.expand_dims(leaf, -2), got)
        got = decode.Beams(*beams, scores=beams.log_probs)
    size = got.scores.shape[0]
    for row, sequences in enumerate(expected):
        assert len(sequences) <= size
        empty = [Sequence([], False, -np.inf, -np.inf)] * (size - len(sequences))
        for place, each in enumerate(sequences + empty):
            n = len(each.tokens)
            assert got.lengths[place, row] == n, (row, place)
            assert got.tokens[:, place, row].tolist() == each.tokens + [PAD] * (steps - n), (row, place)
            assert got.ended[place, row] == each.ended, (row, place)
            for value, exact in ((got.log_probs, each.log_prob), (got.scores, each.score)):
                np.testing.assert_allclose(value[place, row], exact, rtol=ORACLE, atol=ORACLE)
    kinds = [(leaf.shape[0], str(leaf.dtype)) for leaf in got]
    assert kinds == [(steps, "int32"), (size, "int32"), (size, "bool"), (size, "float64"), (size, "float64")]


def assert_equal(got: Any, expected: Any) -> None:
    """Two results are equal to the last bit; -inf too."""
    assert type(got) is type(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("kind", MODELS)
def test_greedy_is_the_plain_loop(kind: Any) -> None:
    model = kind(3, rows=8)
    expected = [[search_greedily(model, row, 6)] for row in range(8)]
    # Of both kinds, and of several lengths.
    assert {each.ended for (each,) in expected} == {True, False}
    assert len({len(each.tokens) for (each,) in expected}) > 2
    assert_sequences(run(decode.greedy, model, steps=6), expected, 6)


SCORINGS = {
    "log_prob": Scoring(),
    "normalised": Scoring(length_normalisation=1.2),
    # Numbers may be NumPy's, whatever their dtype.
    "coverage": Scoring(np.float32(0.5), coverage_penalty=np.float32(0.25)),
    "ragged": Scoring(0.6, coverage_penalty=2.0, source_lengths=(3, 1, 0, 2)),
}


@pytest.mark.parametrize(
    ("kind", "scoring", "size", "steps"),
    [
        (Markov, "log_prob", 2, 6),
        (Markov, "ragged", 7, 3),
        (Recurrent, "normalised", 3, 8),
        (Recurrent, "coverage", 4, 6),
    ],
)
def test_beam_is_the_search_with_lists(kind: Any, scoring: str, size: int, steps: int) -> None:
    model = kind(1)
    rule = SCORINGS[scoring]
    expected = [search_by_beam(model, row, steps, size, rule)[0] for row in range(4)]
    assert {each.ended for row in expected for each in row} == {True, False}
    assert_sequences(run(decode.beam, model, steps=steps, beams=size, **rule.options(model)), expected, steps)


def test_beam_that_holds_all_sequences_ranks_them_all() -> None:
    # Two tokens and the end: 1 + 2 + 4 + 8 sequences that end and 16 that are cut; two places stay empty.
    model = Recurrent(3, vocabulary=3)
    expected = [search_all(model, row, 4, SCORINGS["ragged"]) for row in range(4)]
    assert {len(each) for each in expected} == {31}
    got = run(decode.beam, model, steps=4, beams=33, **SCORINGS["ragged"].options(model))
    assert_sequences(got, expected, 4)
    np.testing.assert_allclose(np.exp(got.log_probs).sum(axis=0), 1, rtol=ORACLE)


@pytest.mark.parametrize("kind", [Recurrent, Tied])
def test_one_beam_is_greedy_to_the_last_bit(kind: Any) -> None:
    model = kind(1, rows=16)
    greedy = run(decode.greedy, model, steps=5)
    assert set(greedy.ended) == {True, False}
    beams = run(decode.beam, model, steps=5, beams=1)
    # The scores are the log p, as nothing is normalised.
    assert_equal(beams, decode.Beams(*jax.tree.map(lambda leaf: leaf[..., None, :], greedy), greedy.log_probs[None]))


def test_unlikely_ends_do_not_stop_the_search() -> None:
    # Each of 9 steps may end with 2 %, which among 3 tokens is the second likeliest; the tenth ends.
    def step(carry: Any, tokens: Any) -> Any:
        p = jnp.where(carry[:, None] < 9, jnp.array([[0.02, 0.97, 0.01]]), jnp.array([[0.98, 0.01, 0.01]]))
        return carry + 1, jnp.log(p)

    search = jax.jit(lambda start: decode.beam(step, jnp.zeros(1, int), start, end=0, max_length=20, pad=PAD, beams=4))
    found = search(np.zeros(1, int))
    assert found.tokens[:9, 0, 0].tolist() == [1] * 9
    assert found.lengths[0, 0] == 9
    # The next best is the end at once.
    assert found.lengths[1, 0] == 0
    np.testing.assert_allclose(np.exp(found.scores[:2, 0]), [0.97**9 * 0.98, 0.02], rtol=1e-12)


def test_equal_beams_come_in_the_order_of_their_tokens() -> None:
    # No token is likelier than another: all sums are equal, and the first ones end at the second step.
    step = lambda carry, tokens: (carry, jnp.zeros((2, 4)))
    search = jax.jit(lambda start: decode.beam(step, (), start, end=1, max_length=3, beams=3, pad=9))
    got = jax.tree.map(np.asarray, search(np.zeros(2, int)))
    # Candidates 0, 1, 2, 3, ... : 1 is finished, then of 00 01 02 03 20 21 22 23 the second.
    assert got.tokens[:, :, 0].T.tolist() == [[9, 9, 9], [0, 9, 9], [0, 0, 9]]
    np.testing.assert_allclose(got.log_probs[:, 1], -np.log(4) * np.array([1, 2, 3]), rtol=ORACLE)


def test_impossible_tokens_are_in_no_beam() -> None:
    # Only token 3 and the end are possible, and behind any other token the model says NaN, which nobody may see.
    model = Markov(0)
    model.logits[..., [0, 1, 4]] = -np.inf
    model.logits[:, :, [0, 1, 4]] = np.nan
    model.start = np.full(4, 3)
    model.logits[:, 0] = model.logits[:, 3]
    # In a row the end is impossible at first.
    model.logits[1, 0, 3, END] = -np.inf
    expected = [search_by_beam(model, row, 3, 6, Scoring())[0] for row in range(4)]
    assert [len(each) for each in expected] == [4, 3, 4, 4]
    assert_sequences(run(decode.beam, model, steps=3, beams=6), expected, 3)


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


def rows_of(result: Any, rows: slice) -> Any:
    """Some rows of a result."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[..., rows], result)


FUNCTIONS = {
    "greedy": (decode.greedy, (), {}),
    "sample": (decode.sample, (jax.random.key(3),), {"top_p": 0.9}),
    "beam": (decode.beam, (), {"beams": 3, "length_normalisation": 1.0}),
}


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


def kept(logits: np.ndarray, temperature: float, top_k: int | None, top_p: float | None) -> np.ndarray:
    """The distribution that `sample` is to draw from, token by token."""
    p = np.exp(log_softmax(logits / temperature))
    order = sorted(range(len(p)), key=lambda token: -p[token])[:top_k]
    total, share, result = sum(p[token] for token in order), 0.0, np.zeros(len(p))
    for token in order:
        if top_p is None or share < top_p:
            result[token] = p[token]
        share += p[token] / total
    return result / result.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, 1.0), (0.5, 2, None), (2.0, None, 0.7), (1.2, 3, 0.8)],
)
def test_sample_draws_from_the_distribution(temperature: float, top_k: Any, top_p: Any) -> None:
    rows = 8000
    # In this table the order of temperature, top_k and top_p makes a difference.
    table = np.random.default_rng(4).standard_normal((4, 4))
    # Two steps of four tokens: every sequence with its probability, and with that which the model gives it.
    exact, own = {}, {}
    for first, second in itertools.product(range(4), repeat=2):
        tokens = (first, second) if first != END else (END,)
        pairs = list(itertools.pairwise((0, *tokens)))
        exact[tokens] = np.prod([kept(table[a], temperature, top_k, top_p)[b] for a, b in pairs])
        own[tokens] = sum(log_softmax(table[a])[b] for a, b in pairs)
    step = lambda carry, tokens: (carry, jnp.asarray(table)[tokens])
    draw = lambda heat: decode.sample(
        step,
        (),
        jnp.zeros(rows, int),
        jax.random.key(0),
        end=END,
        max_length=2,
        temperature=heat,
        top_k=top_k,
        top_p=top_p,
    )
    # The temperature is traced.
    got = jax.tree.map(np.asarray, jax.jit(draw)(temperature))
    drawn = [
        (*tokens[:n], END)[:2] if ended else tuple(tokens)
        for tokens, n, ended in zip(got.tokens.T.tolist(), got.lengths, got.ended, strict=True)
    ]
    assert set(drawn) <= {tokens for tokens, p in exact.items() if p > 0}
    for tokens, p in exact.items():
        # Of a binomial count: five standard deviations.
        assert drawn.count(tokens) == pytest.approx(rows * p, abs=5 * (rows * p * (1 - p)) ** 0.5 + 1e-9), tokens
    np.testing.assert_allclose(got.log_probs, [own[tokens] for tokens in drawn], rtol=ORACLE)


def test_top_p_keeps_the_first_of_equals() -> None:
    # Two of four equals make the half, exactly.
    step = lambda carry, tokens: (carry, jnp.zeros((64, 4)))
    draw = lambda key: decode.sample(step, (), jnp.zeros(64, int), key, end=3, max_length=3, top_p=0.5)
    assert set(np.unique(jax.jit(draw)(jax.random.key(0)).tokens)) == {0, 1}


def test_sample_of_the_first_alone_is_greedy() -> None:
    model = Tied(2, rows=16)
    assert_equal(run(decode.sample, model, jax.random.key(0), steps=5, top_k=1), run(decode.greedy, model, steps=5))


def test_temperature_may_differ_by_row_and_0_is_greedy() -> None:
    model = Markov(0, rows=6)
    model.logits[:3] = Tied(0, rows=3).logits
    options: Any = {"end": END, "max_length": 6, "pad": PAD}
    draw = jax.jit(
        lambda heat: decode.sample(model.step, model.carry, model.start, jax.random.key(5), temperature=heat, **options)
    )
    # All of these by 3e-308 would be infinite; smaller numbers are not normal, which CPUs take for 0.
    model.logits[3] += 9
    heat = np.array([0.0, 1.0, 0.0, 3e-308, 2.0, 1.0])
    got, greedy = draw(heat), run(decode.greedy, model, steps=6)
    for row, temperature in enumerate(heat):
        same = draw(np.full(6, temperature)) if temperature > 0.5 else greedy
        assert_equal(rows_of(got, slice(row, row + 1)), rows_of(same, slice(row, row + 1)))


def test_sample_is_its_key_row_and_step() -> None:
    step = lambda carry, tokens: (carry, jnp.zeros((*tokens.shape, 1000)))
    compiled = jax.jit(lambda start, key: decode.sample(step, (), start, key, end=0, max_length=6))
    draw = lambda rows, seed: jax.tree.map(np.asarray, compiled(np.zeros(rows, int), jax.random.key(seed)))
    got = draw(8, 1)
    assert_equal(draw(8, 1), got)
    assert_equal(draw(3, 1), rows_of(got, slice(3)))
    # 48 draws of 1000, of which a pair or two are equal: neither rows nor steps nor keys repeat each other.
    assert len(np.unique(got.tokens)) > 40
    assert (draw(8, 2).tokens != got.tokens).mean() > 0.9


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


def sizes(jaxpr: Any) -> Any:
    """The size of all that a program computes, in its loops too."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "jaxpr")):
            if hasattr(inner, "jaxpr"):
                yield from sizes(inner.jaxpr)


def test_beam_does_not_copy_what_the_step_closes_over() -> None:
    memory, queries = jnp.ones((3, 64, 32)), jnp.ones((7, 32))

    def attend(memory: Any, tokens: Any) -> Any:
        weights = jax.nn.softmax(jnp.einsum("bsh,bh->bs", memory, queries[tokens]), axis=-1)
        return weights, jnp.einsum("bs,bsh,vh->bv", weights, memory, queries)

    def step(carry: Any, tokens: Any) -> Any:
        return attend(memory, tokens)

    def largest(step: Any, carry: Any, attention: Any) -> int:
        options: Any = {"end": END, "max_length": 5, "beams": 4, "coverage_penalty": 0.1, "attention": attention}
        call = lambda carry: decode.beam(step, carry, jnp.zeros(3, int), **options)
        return max(sizes(jax.make_jaxpr(call)(carry).jaxpr))

    assert largest(step, jnp.zeros((3, 64)), lambda carry: carry) <= memory.size
    # The law is of use: a memory that the carry holds is copied.
    carried = lambda carry, tokens: (carry, attend(carry, tokens)[1])
    assert largest(carried, memory, lambda carry: carry[..., 0]) == 4 * memory.size


def test_attention_is_not_computed_without_a_penalty() -> None:
    model = Markov(0)
    options: Any = {"end": END, "max_length": 3, "beams": 2, "attention": lambda carry: 1 / 0}
    jax.eval_shape(lambda: decode.beam(model.step, model.carry, model.start, **options))
    with pytest.raises(ZeroDivisionError):
        decode.beam(model.step, model.carry, model.start, coverage_penalty=0.1, **options)


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


def other_carry(change: Any) -> Any:
    """A step function that changes what it returns of the carry."""
    return lambda carry, tokens: (change(carry), jnp.zeros((4, 5)))


def other_logits(logits: Any) -> Any:
    """A step function with other logits."""
    return lambda carry, tokens: (carry, logits)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"max_length": 0}, ValueError, "max_length: expected a positive integer, got 0"),
        ({"end": 5}, ValueError, "end: expected a token below V=5, the number of logits, got 5"),
        ({"end": -1}, ValueError, "end: expected a token below V=5, the number of logits, got -1"),
        ({"end": 1.0}, ValueError, "end: expected an integer, got 1.0"),
        ({"pad": None}, ValueError, "pad: expected an integer, got None"),
        ({"pad": True}, ValueError, "pad: expected an integer, got True"),
        ({"step": 3}, TypeError, r"step: expected a function \(carry, tokens\) -> \(carry, logits\), got 3"),
        ({"start": jnp.zeros(4)}, ValueError, r"start: expected integers \[B\], got float64\[4\]"),
        ({"start": 0}, ValueError, r"start: expected integers \[B\], got int64\[\]"),
        (
            {"carry": {"h": jnp.zeros((2, 4))}},
            ValueError,
            r"carry: expected leaves \[4, ...\] for the 4 rows of start, got {'h': 'float64\[2, 4\]'}",
        ),
        ({"carry": 1.0}, ValueError, r"carry: expected leaves \[4, ...\] for the 4 rows of start, got float64\[\]"),
        (
            {"step": lambda carry, tokens: jnp.zeros((4, 5))},
            ValueError,
            r"step: expected it to return \(carry, logits\), got float64\[4, 5\]",
        ),
        (
            {"step": other_carry(lambda carry: (carry, carry))},
            ValueError,
            r"step: expected the carry to stay {'previous': 'int32\[4\]', .*}, got \({'previous': 'int32\[4\]', ",
        ),
        (
            {"step": other_carry(lambda carry: {**carry, "weights": carry["weights"].astype("float32")})},
            ValueError,
            r"step: expected the carry to stay {.*'weights': 'float64\[4, 3\]'}, got {.*'weights': 'float32\[4, 3\]'}",
        ),
        (
            {"step": other_carry(lambda carry: {**carry, "previous": carry["previous"][:, None]})},
            ValueError,
            r"step: expected the carry to stay {'previous': 'int32\[4\]', .*}, got {'previous': 'int32\[4, 1\]', .*}",
        ),
        (
            {"step": other_logits(jnp.zeros((3, 5)))},
            ValueError,
            r"step: expected floating logits \[4, V\], got float64\[3, 5\]",
        ),
        (
            {"step": other_logits(jnp.zeros((4, 5), int))},
            ValueError,
            r"step: expected floating logits \[4, V\], got int64\[4, 5\]",
        ),
        ({"step": other_logits(())}, ValueError, r"step: expected floating logits \[4, V\], got tuple"),
    ],
)
def test_mistakes_in_decoding_are_named(name: str, given: Any, error: type[Exception], message: str) -> None:
    function, args, options = FUNCTIONS[name]
    model = Markov(0)
    call = {"step": model.step, "carry": model.carry, "start": model.start, "end": END, "max_length": 3, **given}
    with pytest.raises(error, match=message):
        function(call.pop("step"), call.pop("carry"), call.pop("start"), *args, **call, **options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top_k": 0}, "top_k: expected a positive integer, got 0"),
        ({"top_p": 0.0}, "top_p: expected a number above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p: expected a number above 0 and at most 1, got 1.5"),
        ({"top_p": "most"}, "top_p: expected a number above 0 and at most 1, got 'most'"),
        ({"temperature": -0.5}, "temperature: expected at least 0, got -0.5"),
        ({"temperature": np.nan}, "temperature: expected at least 0, got nan"),
        ({"temperature": np.ones(3)}, r"temperature: expected a number or one for each row, got \[3\]"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda call: call, jax.jit], ids=["eager", "jit"])
def test_mistakes_in_sampling_are_named(given: Any, message: str, wrap: Any) -> None:
    model = Markov(0)
    call = lambda key: decode.sample(model.step, model.carry, model.start, key, end=END, max_length=3, **given)
    with pytest.raises(ValueError, match=message):
        wrap(call)(jax.random.key(0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beams": 0}, "beams: expected a positive integer, got 0"),
        ({"beams": 2.0}, "beams: expected a positive integer, got 2.0"),
        (
            {"length_normalisation": -1},
            "length_normalisation: expected a number of at least 0, got -1",
        ),
        ({"coverage_penalty": np.inf}, "coverage_penalty: expected a number of at least 0, got inf"),
        ({"coverage_penalty": True}, "coverage_penalty: expected a number of at least 0, got True"),
        (
            {"attention": None},
            "attention: expected a function of the carry, since there is a coverage_penalty, got None",
        ),
        (
            {"attention": lambda carry: carry["previous"]},
            r"attention: expected floating weights \[4, S\], got int32\[4\]",
        ),
        ({"source_lengths": np.ones(3, int)}, r"source_lengths: expected integers \[4\], got int64\[3\]"),
        ({"source_lengths": np.ones(4)}, r"source_lengths: expected integers \[4\], got float64\[4\]"),
    ],
)
def test_mistakes_in_beam_search_are_named(given: Any, message: str) -> None:
    model = Markov(0)
    options: Any = {"beams": 2, "coverage_penalty": 0.1, "attention": model.attention, **given}
    with pytest.raises(ValueError, match=message):
        decode.beam(model.step, model.carry, model.start, end=END, max_length=3, **options)
