"""Pictures of a run."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclasses.dataclass(frozen=True)
class Curve:
    """The values of one key in the rows of one split, drawn against the step."""

    label: str
    split: str
    key: str
    style: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def points(self, rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
        """Steps and values."""
        return [(row["step"], row[self.key]) for row in rows if row["split"] == self.split and self.key in row]


TRAIN: dict[str, Any] = {"color": "tab:gray", "linewidth": 1, "alpha": 0.8}
VALID: dict[str, Any] = {"color": "tab:blue", "marker": "o", "markersize": 4}
TEST: dict[str, Any] = {"color": "tab:red", "marker": "*", "markersize": 13, "linestyle": ""}


@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves over one axis, and values of simpler models as level lines."""

    label: str
    curves: Sequence[Curve]
    baselines: Mapping[str, float] = dataclasses.field(default_factory=dict)


def plot_curves(path: pathlib.Path, rows: list[dict[str, Any]], panels: Sequence[Panel]) -> None:
    """Draws panels of curves, and below them the gradient's norm and the learning rate, against the step.

    Args:
      path: the PNG file.
      rows: rows of `metrics.jsonl`.
      panels: what to draw.
    """
    figure, (*upper, norms) = plt.subplots(
        len(panels) + 1, 1, figsize=(9, 3 + 4 * len(panels)), sharex=True,
        height_ratios=(*[3] * len(panels), 1.5), layout="constrained",
    )  # fmt: skip
    for axes, panel in zip(upper, panels, strict=True):
        _draw(axes, panel, rows)
    for axes, key, label, colour in (
        (norms, "grad_norm", "gradient norm\nbefore clipping", "tab:orange"),
        (norms.twinx(), "learning_rate", "learning rate", "tab:green"),
    ):
        points = Curve(label, "train", key).points(rows)
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1, marker="." if len(points) == 1 else None)
        axes.set_ylabel(label, color=colour)
        if key == "grad_norm":
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
    norms.set_xlabel("step")
    save(figure, path)


def _draw(axes: Any, panel: Panel, rows: list[dict[str, Any]]) -> None:
    """One panel."""
    low, high = list(panel.baselines.values()), list(panel.baselines.values())
    for curve in panel.curves:
        points = curve.points(rows)
        if points:
            # A line through one point would not be seen.
            lone = {"marker": "o", "markersize": 3} if len(points) == 1 else {}
            axes.plot(*zip(*points, strict=True), label=curve.label, **{**lone, **curve.style})
            values = [value for _, value in points]
            low.append(min(values))
            # The first losses of a training are far above all that matters.
            high.append(float(np.quantile(values, 0.95)) if curve.split == "train" else max(values))
    for name, value in panel.baselines.items():
        axes.axhline(value, color="black", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{name} {value:.2f}", (1.0, value), (-4, 2), xycoords=("axes fraction", "data"),
            textcoords="offset points", fontsize=8, ha="right",
        )  # fmt: skip
    if len(high) > len(panel.baselines):
        room = 0.06 * (max(high) - min(low)) or 0.05
        axes.set_ylim(min(low) - room, max(high) + room)
        axes.legend(loc="best", fontsize=9)
    axes.set_ylabel(panel.label)


def save(figure: Any, path: pathlib.Path) -> None:
    """Writes a picture whole or not at all."""
    part = path.with_name(path.name + ".part")
    figure.savefig(part, dpi=110, format="png")
    plt.close(figure)
    part.replace(path)
