"""Pictures of what a classifier does: on a whole split, and word by word."""

import html
import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from experiments.common.plots import save
from experiments.sentiment.evaluate import calibration

_MOST_CLASSES = 12
_BAR = 31


def plot_split(
    path: pathlib.Path, log_probs: np.ndarray, labels: np.ndarray, lengths: np.ndarray, classes: Sequence[str]
) -> None:
    """Draws the confusion matrix, the calibration, and the accuracy against the length of the text."""
    figure, (confusion, reliability, by_length) = plt.subplots(1, 3, figsize=(16, 5), layout="constrained")
    guesses = log_probs.argmax(axis=1)
    _confusion(confusion, guesses, labels, classes)
    table, error = calibration(log_probs, labels)
    reliability.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    reliability.bar(table[:, 0], table[:, 1], width=0.05, color="tab:blue", alpha=0.7)
    reliability.set(
        xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(0, 1.03),
        title=f"Calibration (expected error {error:.3f})",
    )  # fmt: skip
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, 9)))
    place = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, max(0, len(edges) - 2))
    parts = [place == b for b in np.unique(place)]
    names = [f"{lengths[part].min()} to {lengths[part].max()}\n({part.sum()})" for part in parts]
    by_length.bar(names, [float(np.mean(guesses[part] == labels[part])) for part in parts], color="tab:green")
    by_length.set(xlabel="words read (number of texts)", ylabel="accuracy", ylim=(0, 1), title="By length")
    by_length.tick_params(axis="x", labelsize=8)
    save(figure, path)


def _confusion(axes: plt.Axes, guesses: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
    """Counts of each true class and guess, in the colour of their share of the true class."""
    size = len(classes)
    counts = np.bincount(labels * size + guesses, minlength=size**2).reshape(size, size)
    axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    if size <= _MOST_CLASSES:
        for true, guess in np.ndindex(size, size):
            dark = counts[true, guess] > 0.6 * counts[true].sum()
            axes.text(guess, true, f"{counts[true, guess]:,}", ha="center", va="center", color="w" if dark else "k")
        axes.set_xticks(range(size), classes, rotation=30 if size > 3 else 0)
        axes.set_yticks(range(size), classes)
    axes.set(xlabel="guess", ylabel="true class", title="Confusion")


def terminal(words: Sequence[str], probabilities: np.ndarray, classes: Sequence[str]) -> str:
    """How the probabilities move word by word, as lines of text.

    Args:
      words: the words that were read.
      probabilities: those of all classes after each word `[T, C]`.
      classes: their names.
    """
    chosen, other = _poles(probabilities)
    width = max([4, *map(len, words)])
    left = "" if other is None else classes[other]
    lines = [f"{'':{width}}  {left:<{_BAR // 2}}{classes[chosen]:>{_BAR - _BAR // 2}}"]
    for word, row in zip(words, probabilities, strict=True):
        place = min(int(row[chosen] * _BAR), _BAR - 1)
        middle = _BAR // 2 if other is not None else 0
        low, high = sorted((place, middle))
        bar = "".join("#" if low <= i <= high else "|" if i == middle else "." for i in range(_BAR))
        lines.append(f"{word:>{width}}  {bar}  {row[chosen]:.2f}")
    return "\n".join(lines)


def page(texts: Sequence[tuple[Sequence[str], np.ndarray]], classes: Sequence[str]) -> str:
    """An HTML page: each text with its words coloured by how much each moved the score.

    The score is the probability of the second of two classes, or of the one of many that is guessed at the end.
    """
    parts = []
    for words, probabilities in texts:
        chosen, _ = _poles(probabilities)
        scores = probabilities[:, chosen]
        moves = np.diff(scores, prepend=1 / len(classes))
        spans = [
            f'<span style="background:{_colour(move)}" title="{score:.3f}">{html.escape(word)}</span>'
            for word, move, score in zip(words, moves, scores, strict=True)
        ]
        line = " ".join(f"{10 + 580 * i / max(1, len(scores) - 1):.1f},{90 - 80 * s:.1f}" for i, s in enumerate(scores))
        parts.append(
            f"<h2>{html.escape(classes[probabilities[-1].argmax()])} {probabilities[-1].max():.1%}</h2>\n"
            f"<p>{' '.join(spans)}</p>\n<p>Probability of {html.escape(classes[chosen])} after each word:</p>\n"
            '<svg viewBox="0 0 600 100" width="600"><line x1="10" x2="590" y1="50" y2="50" stroke="#bbb"/>'
            f'<polyline points="{line}" fill="none" stroke="#1f77b4" stroke-width="2"/></svg>'
        )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Word by word</title><style>'
        "body{font:17px/1.9 sans-serif;max-width:46em;margin:2em auto}span{padding:2px 3px;border-radius:3px}"
        "</style></head><body>\n<h1>Word by word</h1>\n<p>Green words raised that probability, red ones "
        "lowered it.</p>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _poles(probabilities: np.ndarray) -> tuple[int, int | None]:
    """The class that is guessed at the end, and of two classes the other one; a guess lies to the right."""
    chosen = int(probabilities[-1].argmax())
    return (1, 0) if probabilities.shape[1] == 2 else (chosen, None)


def _colour(move: float) -> str:
    """Green for a rise, red for a fall, the stronger the larger."""
    strength = min(1.0, 2 * abs(float(move)))
    return f"rgba({'44,160,44' if move > 0 else '214,39,40'},{strength:.2f})"
