"""Models, and searches in plain Python with lists and float64 NumPy, one row at a time, written from the rules."""

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import recurrent_jax as rj
from recurrent_jax import decode
from tests import oracles

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


FUNCTIONS = {
    "greedy": (decode.greedy, (), {}),
    "sample": (decode.sample, (jax.random.key(3),), {"top_p": 0.9}),
    "beam": (decode.beam, (), {"beams": 3, "length_normalisation": 1.0}),
}


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


def rows_of(result: Any, rows: slice) -> Any:
    """Some rows of a result."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[..., rows], result)
