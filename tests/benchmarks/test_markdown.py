"""Numbers, grids and marked tables as text."""

import pytest

from benchmarks.markdown import digits, fill, grid


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.012345, "0.0123"), (1.0, "1.00"), (9.876, "9.88"), (56.78, "56.8"), (1234.5, "1,234"), (0, "0"), (None, "-")],
)
def test_digits(value, text):
    assert digits(value) == text


def test_grid_sets_words_left_and_numbers_right():
    assert grid(("a", "b"), [("xyz", "1"), ("u", "1,234")], 1) == (
        "| a   |     b |\n|-----|------:|\n| xyz |     1 |\n| u   | 1,234 |"
    )


MARKED = "before\n<!-- table memory -->\nold\n<!-- end of table -->\nafter\n"


def test_fill_replaces_what_stands_between_the_marks_and_is_idempotent():
    once = fill(MARKED, {"memory": "| new |"})
    assert once == "before\n<!-- table memory -->\n\n| new |\n\n<!-- end of table -->\nafter\n"
    assert fill(once, {"memory": "| new |"}) == once
    assert fill("no marks\n", {}) == "no marks\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MARKED, "line 2: expected a table of speed, got memory"),
        ("<!-- table speed -->\nold\n", "after table speed, got the end of the text"),
        ("<!-- end of table -->\n", "line 1: found <!-- end of table --> without"),
        ("<!-- table speed -->\n<!-- table speed -->\n", "line 2: expected <!-- end of table --> after table speed"),
    ],
)
def test_fill_says_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        fill(text, {"speed": "x"})
