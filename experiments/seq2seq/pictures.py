"""Pictures of attention."""

import pathlib
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from experiments.common.plots import save

_SHADES = " .:-=+*#%@"


class Aligned(NamedTuple):
    """A source, an output with its end, and the weights `[T, S]` between their tokens."""

    source: Sequence[str]
    output: Sequence[str]
    weights: np.ndarray


def plot_attention(path: pathlib.Path, examples: Sequence[Aligned]) -> None:
    """Draws attention matrices: sources along the upper axes, outputs down the left ones."""
    columns = min(2, len(examples))
    rows = -(-len(examples) // columns)
    longest = max((len(e.source) for e in examples), default=1), max((len(e.output) for e in examples), default=1)
    size = np.clip(0.28 * np.array(longest) + 1.2, 3, 14)
    figure, grid = plt.subplots(
        rows, columns, figsize=(columns * size[0], rows * size[1]), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(examples) :]:
        axes.axis("off")
    for axes, example in zip(grid.flat, examples, strict=False):
        axes.imshow(example.weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        single = all(len(token) == 1 for token in example.source)
        axes.set_xticks(range(len(example.source)), example.source, rotation=0 if single else 60)
        axes.set_yticks(range(len(example.output)), example.output)
        if not single:
            plt.setp(axes.get_xticklabels(), ha="left", rotation_mode="anchor")
        axes.xaxis.tick_top()
        axes.set_xlabel("source")
        axes.xaxis.set_label_position("top")
        axes.set_ylabel("output")
        axes.tick_params(length=0)
    figure.suptitle("attention: the darker, the larger the weight; each row sums to 1", fontsize=9)
    with warnings.catch_warnings():
        # A font without the signs of a script draws boxes, which is no reason to stop.
        warnings.filterwarnings("ignore", message="Glyph")
        save(figure, path)


def terminal(example: Aligned) -> str:
    """The attention matrix as lines of text: the darker a sign, the larger the weight."""
    width = max([1, *map(len, example.output)])
    lines = [f"{'':{width}}  {''.join(token[:1] for token in example.source)}"]
    for token, row in zip(example.output, example.weights, strict=True):
        shades = "".join(_SHADES[min(int(weight * len(_SHADES)), len(_SHADES) - 1)] for weight in row)
        lines.append(f"{token:>{width}}  {shades}")
    return "\n".join(lines)
