"""The model, its measures and its samples, each against a slower way to the same number."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import recurrent_jax as rj
from experiments.char_lm import evaluate, hello
from experiments.char_lm.config import Config
from experiments.char_lm.data import Vocabulary
from experiments.char_lm.model import CharLM
from experiments.char_lm.sample import sample
from experiments.common.cells import CELLS

# Float32, sums in another order.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture(scope="module")
def trained():
    """A small model whose parameters are large enough to make sharp distributions."""
    model = CharLM(vocabulary_size=7, cell=rj.GRU(12), layers=2, embedding_size=5)
    return model, jax.tree.map(lambda a: 3 * a, model.init(jax.random.key(1)))


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_runs_by_name(name):
    model = CharLM.of(Config(cell=name, hidden_size=6, layers=2), 5)
    params = model.init(jax.random.key(0))
    carry, logits = model.apply(params, jnp.zeros((4, 3), jnp.int32), model.initial_carry(params, 3))
    assert logits.shape == (4, 3, 5)
    assert len(carry) == 2


def test_step_by_step_equals_all_at_once(trained):
    model, params = trained
    indices = jax.random.randint(jax.random.key(2), (9, 3), 0, 7)
    carry = model.initial_carry(params, 3)
    last, logits = model.apply(params, indices, carry)
    for t in range(9):
        carry, one = model.step(params, carry, indices[t])
        np.testing.assert_allclose(one, logits[t], **CLOSE)
    np.testing.assert_allclose(carry[1].h, last[1].h, **CLOSE)


def test_dropout_acts_in_training_only():
    model = CharLM(vocabulary_size=7, cell=rj.GRU(64), dropout=0.5)
    params = model.init(jax.random.key(0))
    indices, carry = jnp.zeros((3, 2), jnp.int32), model.initial_carry(params, 2)
    run = lambda key: model.apply(params, indices, carry, key)[1]
    assert (run(None) == run(None)).all()
    assert (run(jax.random.key(1)) == run(jax.random.key(1))).all()
    assert not jnp.allclose(run(jax.random.key(1)), run(jax.random.key(2)))


def slow_loss(model, params, indices, reset_every):
    """One character at a time."""
    step, total, carry = jax.jit(model.step), 0.0, None
    for t in range(len(indices) - 1):
        if t % reset_every == 0:
            carry = model.initial_carry(params, 1)
        carry, logits = step(params, carry, jnp.asarray(indices[t : t + 1]))
        total += float(optax.softmax_cross_entropy_with_integer_labels(logits[0], jnp.asarray(indices[t + 1])))
    return total / (len(indices) - 1)


@pytest.mark.parametrize("length", [2, 257, 258, 1100])
def test_both_protocols_predict_every_character_once(trained, length):
    model, params = trained
    indices = np.random.default_rng(0).integers(0, 7, length).astype(np.int32)
    watched = []
    got = evaluate.loss_reset(model, params, indices, watched.append)
    assert got == pytest.approx(slow_loss(model, params, indices, evaluate.BLOCK), rel=1e-4)
    assert sum(watched) == length - 1
    got = evaluate.loss_carried(model, params, indices)
    assert got == pytest.approx(slow_loss(model, params, indices, length), rel=1e-4)


def test_sample_without_temperature_takes_the_likeliest(trained):
    model, params = trained
    vocabulary = Vocabulary.of("abcdef")
    (text,) = sample(model, params, vocabulary, prompt="fab", length=8, temperature=0.0)
    for end in range(8):
        indices = vocabulary.encode("fab" + text[:end])
        _, logits = model.apply(params, jnp.asarray(indices)[:, None], model.initial_carry(params, 1))
        assert text[end] == vocabulary.characters[1 + int(logits[-1, 0, 1:].argmax())]


def test_sample_follows_the_models_distribution(trained):
    model, params = trained
    vocabulary = Vocabulary.of("abcdef")
    _, logits = model.apply(params, jnp.asarray(vocabulary.encode("fab"))[:, None], model.initial_carry(params, 1))
    texts = sample(model, params, vocabulary, prompt="fab", length=1, streams=4000, temperature=2.0, seed=1)
    expected = np.asarray(jax.nn.softmax(logits[-1, 0, 1:] / 2.0))
    got = np.array([texts.count(c) for c in "abcdef"]) / 4000
    # Four standard deviations of a frequency among 4000 draws.
    assert (np.abs(got - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000) + 1e-9).all()


def test_sample_top_k_and_seed(trained):
    model, params = trained
    vocabulary = Vocabulary.of("abcdef")
    draw = lambda **options: sample(model, params, vocabulary, prompt="a", length=30, streams=3, **options)
    assert draw(temperature=5.0, top_k=1) == draw(temperature=0.0)
    assert draw(temperature=5.0, seed=1) == draw(temperature=5.0, seed=1)
    assert draw(temperature=5.0, seed=1) != draw(temperature=5.0, seed=2)
    first = {text[0] for text in sample(model, params, vocabulary, prompt="a", length=1, streams=300, temperature=9.0)}
    assert len(first) > 2
    of_two = sample(model, params, vocabulary, prompt="a", length=1, streams=300, temperature=9.0, top_k=2)
    assert len({text[0] for text in of_two}) == 2


def test_sample_begins_without_a_prompt_or_a_known_character(trained):
    model, params = trained
    assert len(sample(model, params, Vocabulary.of("abcdef"), prompt="", length=5)[0]) == 5
    assert len(sample(model, params, Vocabulary.of("abcdef"), prompt="XYZ", length=5)[0]) == 5


def test_hello_learns_that_l_is_followed_by_l_and_then_by_o():
    losses, probabilities = hello.train()
    assert float(losses[0]) > 1.0
    assert float(losses[-1]) < 0.05
    assert [hello.LETTERS[int(i)] for i in probabilities.argmax(axis=1)] == list("ello")
