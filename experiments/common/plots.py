"""Pictures of a run."""

import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def plot_curves(path: pathlib.Path, rows: list[dict[str, Any]], baselines: Mapping[str, float], unit: str) -> None:
    """Draws losses, gradient norm and learning rate against the step.

    Args:
      path: the PNG file.
      rows: rows of `metrics.jsonl`.
      baselines: losses of simpler models, drawn as level lines.
      unit: unit of the loss.
    """
    figure, (losses, norms) = plt.subplots(
        2, 1, figsize=(9, 8), sharex=True, height_ratios=(3, 1), layout="constrained"
    )

    def curve(axes: Any, split: str, key: str, **style: Any) -> None:
        chosen = [(row["step"], row[key]) for row in rows if row["split"] == split and key in row]
        if chosen:
            axes.plot(*zip(*chosen, strict=True), **style)

    curve(losses, "train", "loss", label="train", color="tab:gray", linewidth=1, alpha=0.8)
    curve(losses, "valid", "loss", label="valid, carry reset every 256", color="tab:blue", marker="o", markersize=4)
    curve(losses, "valid", "loss_carried", label="valid, carry carried", color="tab:cyan", marker="o", markersize=4)
    curve(
        losses, "test", "loss", label="test, carry reset every 256", color="tab:red", marker="*", markersize=13, ls=""
    )
    for name, value in baselines.items():
        losses.axhline(value, color="black", linewidth=0.8, linestyle=":")
        losses.annotate(
            f"{name} on the test split {value:.2f}", (1.0, value), (-4, 2), xycoords=("axes fraction", "data"),
            textcoords="offset points", fontsize=8, ha="right",
        )  # fmt: skip
    drawn = [row["loss"] for row in rows if "loss" in row]
    if drawn:
        top = max([*baselines.values(), sorted(drawn)[len(drawn) // 2]]) * 1.08
        losses.set_ylim(min([*drawn, *baselines.values()]) * 0.95, top)
    losses.set_ylabel(f"loss [{unit}]")
    losses.legend(loc="upper center", ncols=2, fontsize=9)
    curve(norms, "train", "grad_norm", color="tab:orange", linewidth=1)
    norms.set_yscale("log")
    norms.set_ylabel("gradient norm\nbefore clipping", color="tab:orange")
    norms.set_xlabel("step")
    rate = norms.twinx()
    curve(rate, "train", "learning_rate", color="tab:green", linewidth=1)
    rate.set_ylabel("learning rate", color="tab:green")
    rate.set_ylim(bottom=0)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, dpi=110, format="png")
    plt.close(figure)
    part.replace(path)
