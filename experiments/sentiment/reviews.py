"""Synthetic reviews, from a grammar in which the order of the words decides."""

import random

_ASPECTS = (
    "acting", "plot", "music", "dialogue", "pacing", "ending", "cast", "photography", "script", "humour", "editing",
    "direction", "story", "finale", "sound",
)  # fmt: skip
_GOOD = (
    "brilliant", "moving", "clever", "charming", "gripping", "fresh", "elegant", "funny", "convincing", "rich",
    "bold", "warm", "superb", "subtle", "inspired",
)  # fmt: skip
_BAD = (
    "dull", "clumsy", "shallow", "tedious", "weak", "lazy", "bland", "forced", "hollow", "messy", "tired", "awkward",
    "dreadful", "flat", "pointless",
)  # fmt: skip
_DEGREES = ("", "", "very ", "truly ", "quite ", "utterly ", "rather ", "simply ")
_NEGATIONS = ("not", "never", "hardly", "barely", "anything but", "far from", "by no means")
_NEUTRAL = (
    "i saw it on a rainy sunday", "we watched it with friends", "it runs for two hours", "the theatre was half empty",
    "it was filmed in spain", "my sister chose it", "it is the second of three parts", "i had read the book before",
)  # fmt: skip


def generate(count: int, seed: int) -> list[tuple[str, str]]:
    """So many different reviews, half of them positive, each with its label.

    Whether a review is positive is said by its main clause alone: by an adjective, or by the negation of one. The
    other clause of a contrast says the opposite, in the same words, so that counting words tells little.
    """
    draw = random.Random(seed)
    made: dict[str, str] = {}
    while len(made) < count:
        positive = len(made) % 2 == 0
        made.setdefault(_review(draw, positive), "positive" if positive else "negative")
    return list(made.items())


def _review(draw: random.Random, positive: bool) -> str:
    """One review."""
    main, other = _statement(draw, positive), _statement(draw, not positive)
    text = draw.choice(
        (
            f"{main} .",
            f"{main} .",
            f"{other} , but {main} .",
            f"although {other} , {main} .",
            f"{main} , even though {other} .",
            f"at first i thought that {other} . in the end {main} .",
            f"people told me that {other} . they were wrong , {main} .",
        )
    )
    aside = f"{draw.choice(_NEUTRAL)} . "
    return draw.choice((text, text, aside + text, text + " " + aside.strip()))


def _statement(draw: random.Random, positive: bool) -> str:
    """A clause that praises or blames: by an adjective, against a negation, or against two."""
    subject = f"the {draw.choice(_ASPECTS)} was"
    own, opposite = (_GOOD, _BAD) if positive else (_BAD, _GOOD)
    degree = draw.choice(_DEGREES)
    direct = f"{subject} {degree}{draw.choice(own)}"
    return draw.choice(
        (
            direct,
            direct,
            f"{subject} {draw.choice(_NEGATIONS)} {degree}{draw.choice(opposite)}",
            f"nobody could say that {subject} {degree}{draw.choice(opposite)}",
            f"nobody could say that {subject} {draw.choice(_NEGATIONS)} {draw.choice(own)}",
        )
    )
