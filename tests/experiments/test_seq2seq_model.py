"""The translator: padding, teacher forcing and sampling, search and attention, each against a slower way."""

import collections
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.seq2seq import data, evaluate, translate
from experiments.seq2seq.config import Config
from experiments.seq2seq.model import Seq2Seq
from experiments.seq2seq.pictures import Aligned, plot_attention, terminal
from experiments.seq2seq.tokens import END_ID, START_ID, UNKNOWN_ID, Words
from experiments.seq2seq.translate import Output, Search

# Float32, sums in another order.
CLOSE = 1e-5
RNG = np.random.default_rng(0)
SOURCE, LENGTHS = RNG.integers(4, 12, (6, 4)), np.array([6, 3, 1, 5])
TARGET = np.concatenate([np.full((1, 4), START_ID), RNG.integers(4, 9, (4, 4))]).astype(np.int32)


@functools.cache
def make(**options: Any) -> tuple[Seq2Seq, Any]:
    config = Config(**{"hidden_size": 8, "embedding_size": 5, "dropout": 0.0, **options})
    model = Seq2Seq.of(config, source_size=12, target_size=9)
    params = jax.jit(model.init)(jax.random.key(0))
    # Larger weights than at first, so that every part of the model matters.
    return model, jax.tree.map(lambda leaf: 3 * leaf, params)


# Compiled as a whole: operation by operation takes longer.
apply = jax.jit(Seq2Seq.apply, static_argnums=0)
sampled = jax.jit(Seq2Seq.sampled, static_argnums=0)


def alone(model: Seq2Seq, params: Any, row: int, target: Any) -> np.ndarray:
    """The logits of one row, without any padding."""
    source = SOURCE[: LENGTHS[row], row : row + 1]
    return np.asarray(apply(model, params, source, LENGTHS[row : row + 1], target)[:, 0])


OTHER = {"layers": 2, "bidirectional": False, "input_feeding": False}


@pytest.mark.parametrize(
    ("attention", "options"),
    [("dot", {}), ("additive", {}), ("context", {}), ("general", OTHER), ("none", OTHER)],
    ids=str,
)
def test_padding_changes_nothing(attention: Any, options: Any) -> None:
    model, params = make(attention=attention, **options)
    logits = apply(model, params, SOURCE, LENGTHS, TARGET)
    padding = np.arange(9)[:, None] >= LENGTHS
    longer = np.where(padding, 11, np.concatenate([SOURCE, SOURCE[:3]]))
    np.testing.assert_allclose(apply(model, params, longer, LENGTHS, TARGET), logits, atol=CLOSE)
    for row in (1, 2):
        np.testing.assert_allclose(logits[:, row], alone(model, params, row, TARGET[:, row : row + 1]), atol=CLOSE)


@pytest.mark.parametrize("attention", ["dot", "additive", "context"])
def test_steps_of_decoding_are_those_of_teacher_forcing(attention: Any) -> None:
    model, params = make(attention=attention)

    @jax.jit
    def decoded(params: Any) -> Any:
        decoder, carry, context = model.encode(params, SOURCE, LENGTHS)
        return jax.lax.scan(model.stepper(params, decoder, context), carry, jnp.asarray(TARGET))[1]

    np.testing.assert_allclose(decoded(params), apply(model, params, SOURCE, LENGTHS, TARGET), atol=CLOSE)


def test_source_reaches_the_decoder_by_its_first_state() -> None:
    model, params = make(attention="none", **OTHER)
    logits = apply(model, params, SOURCE, LENGTHS, TARGET)
    other = apply(model, params, (SOURCE - 3) % 8 + 4, LENGTHS, TARGET)
    assert abs(logits[0] - other[0]).max() > 1e-3


def test_true_tokens_are_read_as_often_as_asked() -> None:
    model, params = make()
    key = jax.random.key(0)
    forced = sampled(model, params, SOURCE, LENGTHS, TARGET, jnp.float32(1), key)
    np.testing.assert_allclose(forced, apply(model, params, SOURCE, LENGTHS, TARGET), atol=CLOSE)
    free = sampled(model, params, SOURCE, LENGTHS, TARGET, jnp.float32(0), key)
    guesses = np.argmax(free, axis=-1)
    own = np.concatenate([TARGET[:1], guesses[:-1]])
    np.testing.assert_allclose(free, apply(model, params, SOURCE, LENGTHS, own), atol=CLOSE)
    assert abs(free - forced).max() > 1e-3


def test_dropout_is_of_training_only() -> None:
    model, params = make(dropout=0.5)
    draws = [apply(model, params, SOURCE, LENGTHS, TARGET, jax.random.key(seed)) for seed in (0, 0, 1)]
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()
    plain = [apply(model, params, SOURCE, LENGTHS, TARGET) for _ in range(2)]
    assert (plain[0] == plain[1]).all()


def test_half_precision_gives_logits_in_single() -> None:
    full, params = make()
    model = make(dtype="bfloat16")[0]
    small = jax.tree.map(lambda leaf: leaf / 3, params)
    logits = apply(model, small, SOURCE, LENGTHS, TARGET)
    assert logits.dtype == jnp.float32
    expected = apply(full, small, SOURCE, LENGTHS, TARGET)
    # Eight bits of mantissa.
    np.testing.assert_allclose(logits, expected, atol=0.05)


def test_weights_are_of_the_true_source() -> None:
    model, params = make()
    weights = np.asarray(model.weights(params, SOURCE, LENGTHS, TARGET))
    assert weights.shape == (5, 4, 6)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=CLOSE)
    for row, length in enumerate(LENGTHS):
        assert not weights[:, row, length:].any()
        one = translate.attention(model, params, SOURCE[:length, row], TARGET[1:, row])
        np.testing.assert_allclose(one, weights[:, row, :length], atol=CLOSE)


class Numbers:
    """A tokenizer of numbers that are written out."""

    bleu = "none"
    cut = staticmethod(str.split)

    def __len__(self) -> int:
        return 12

    def encode(self, text: str) -> np.ndarray:
        return np.array(text.split(), np.int32)

    def names(self, numbers: Any) -> list[str]:
        return [str(int(number)) for number in numbers]

    def join(self, tokens: Any) -> str:
        return " ".join(tokens)

    def save(self, folder: Any, side: str) -> None:
        raise NotImplementedError


def pairs(count: int = 5) -> data.Encoded:
    rng = np.random.default_rng(1)
    texts = [" ".join(map(str, rng.integers(4, 12, rng.integers(1, 7)))) for _ in range(count)]
    targets = [" ".join(map(str, rng.integers(4, 9, rng.integers(1, 5)))) for _ in range(count)]
    return data.Encoded([*zip(texts, targets, strict=True)], Numbers(), Numbers(), 6, 1)


def log_prob(model: Seq2Seq, params: Any, source: np.ndarray, tokens: np.ndarray, ended: bool) -> float:
    """Of an output by teacher forcing, all by itself."""
    target = np.array([START_ID, *tokens])[:, None]
    # All sources and outputs in one width, so that one program is compiled.
    wide = np.zeros((8, 1), np.int32)
    wide[: len(source), 0] = source
    longer = np.zeros((9, 1), np.int32)
    longer[: len(target)] = target
    logits = apply(model, params, wide, np.array([len(source)]), longer)[:, 0]
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    wanted = [*tokens, END_ID] if ended else list(tokens)
    return float(sum(log_probs[t, token] for t, token in enumerate(wanted)))


@pytest.mark.parametrize("attention", ["dot", "context"])
def test_outputs_have_the_probability_that_teacher_forcing_gives_them(attention: Any) -> None:
    model, params = make(attention=attention)
    some = pairs()
    greedy = translate.translate(model, params, some, Search(), max_length=7)
    beam = translate.translate(model, params, some, Search(beams=4), max_length=7)
    for number in range(len(some)):
        source = some.batch(np.array([number]), 1).source[: some.lengths[number, 0], 0]
        for output in (*greedy[number], *beam[number]):
            expected = log_prob(model, params, source, output.tokens, len(output.tokens) < 7)
            assert output.log_prob == pytest.approx(expected, abs=1e-4)
        # Outputs that were cut at the limit stand behind those that came to an end.
        order = [(len(output.tokens) == 7, -output.score) for output in beam[number]]
        assert order == sorted(order)
        assert len({tuple(output.tokens) for output in beam[number]}) == len(beam[number])


def test_one_beam_is_greedy_and_more_beams_find_no_worse(monkeypatch: Any) -> None:
    model, params = make()
    some = pairs(20)
    greedy = translate.translate(model, params, some, Search(), max_length=7)
    found = translate.translate(model, params, some, Search(beams=6), max_length=7)
    better = [b[0].log_prob - a[0].log_prob for a, b in zip(greedy, found, strict=True)]
    # Float32, a few sums. An unfinished output may be likelier than a finished one: leave those out.
    ended = [len(a[0].tokens) < 7 for a in greedy]
    assert min(np.array(better)[ended], default=0) > -1e-4


def test_perplexity_is_that_of_the_true_tokens() -> None:
    model, params = make()
    some = pairs()
    total, count = 0.0, 0
    for number in range(len(some)):
        batch = some.batch(np.array([number]), 1)
        source = batch.source[: batch.source_lengths[0], 0]
        tokens = batch.target[1 : batch.target_lengths[0] - 1, 0]
        total -= log_prob(model, params, source, tokens, ended=True)
        count += len(tokens) + 1
    values = evaluate.perplexity(model, params, some)
    assert values["loss"] == pytest.approx(total / count, rel=1e-5)
    assert values["perplexity"] == pytest.approx(np.exp(total / count), rel=1e-4)


def test_outputs_are_compared_with_the_texts_of_the_targets() -> None:
    tokenizer = Words.of("words", collections.Counter(["the", "cat", "sits", "on", "the", "mat", "a", "dog"]), 100, 1)
    some = data.Encoded([("x", "The cat sits on the mat"), ("x", "A zebra")], tokenizer, tokenizer, 9, 1)
    output = lambda text: [Output(tokenizer.encode(text), 0.0, 0.0)]
    values, signature = evaluate.compare([output("the cat sits on the mat"), output("a zebra")], some, tokenizer)
    # An unknown word of the true target is never met by <unk>.
    assert values["sequence_accuracy"] == 0.5
    # Of 8 words 7, of 6 pairs 5, all triples and quadruples are right; nothing is too short.
    assert values["bleu"] == pytest.approx(100 * (7 / 8 * 5 / 6) ** 0.25)
    assert "tok:none" in signature
    first = data.Encoded([some.pairs[0]], tokenizer, tokenizer, 9, 1)
    perfect, _ = evaluate.compare([output("the cat sits on the mat")], first, tokenizer)
    assert perfect["sequence_accuracy"] == 1
    assert (perfect["bleu"], perfect["chrf"]) == (pytest.approx(100), pytest.approx(100))


def test_unknown_words_are_replaced_by_the_most_attended() -> None:
    tokenizer = Words.of("words", {"a": 1, "man": 1}, 100, 1)
    output = Output(np.array([*tokenizer.encode("a"), UNKNOWN_ID]), 0.0, 0.0)
    weights = np.array([[0.9, 0.1, 0.0], [0.1, 0.2, 0.7], [1.0, 0.0, 0.0]])
    assert translate.words(output, tokenizer) == ["a", "<unk>"]
    assert translate.words(output, tokenizer, ["ein", "der", "Zebra"], weights) == ["a", "Zebra"]


def test_pictures_have_both_texts_on_their_axes(tmp_path: Any) -> None:
    weights = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    example = Aligned(["ein", "\u732b", "$x$"], ["a", "<eos>"], weights)
    assert terminal(example).splitlines() == ["       e\u732b$", "    a  @  ", "<eos>   ++"]
    plot_attention(tmp_path / "a.png", [example] * 3)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
