"""Dates as people write them in many languages, and the same dates as ISO 8601 does."""

import datetime
import random

import babel.dates

_LOCALES = (
    "en_US", "en_GB", "de", "fr", "es", "it", "nl", "pt", "sv", "da", "fi", "pl", "cs", "hu", "ro", "tr", "el", "ru",
    "uk", "ja", "zh", "ko", "id", "vi",
)  # fmt: skip
# Styles whose dates can be read in one way only: no day in figures beside a month in figures, but in order y, m, d.
_STYLES = (
    "full", "long", "medium", "EEEE d MMMM y", "d MMM y", "d MMMM y", "MMMM d, y", "EEE, d MMM y", "y-MM-dd", "y/M/d",
)  # fmt: skip
_FIRST, _LAST = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)


def generate(count: int, seed: int) -> list[tuple[str, str]]:
    """So many different dates, written in the manner of a locale and a style drawn for each, with their ISO form.

    Example:
      >>> generate(2, seed=0)[0][1]
      '2019-02-15'
    """
    draw = random.Random(seed)
    made: dict[str, str] = {}
    while len(made) < count:
        day = _FIRST + datetime.timedelta(days=draw.randrange((_LAST - _FIRST).days + 1))
        locale, style = draw.choice(_LOCALES), draw.choice(_STYLES)
        text = babel.dates.format_date(day, format=style, locale=locale)
        if _is_plain(text, day):
            made[text] = day.isoformat()
    return list(made.items())


def _is_plain(text: str, day: datetime.date) -> bool:
    """Whether a text can only mean this day: it has the whole year, and is not all figures but in the order y, m, d."""
    if str(day.year) not in text:
        return False
    figures = [int(part) for part in "".join(c if c.isdigit() else " " for c in text).split()]
    return len(figures) < 3 or figures == [day.year, day.month, day.day]
