"""Mistakes in what a search is given: each is named."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent_jax import decode
from tests.decode.searches import END, FUNCTIONS, Markov


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
