"""Pictures of a run: throughput along the sweeps and case by case, and how near the device's limit it comes."""

import pathlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter, NullLocator

from benchmarks.cases import SWEEP_B, SWEEP_H, SWEEP_T
from benchmarks.cells import HEADLINE
from benchmarks.contestants import PEERS as REGISTERED
from benchmarks.problem import FORWARD, GRADIENT, STEP, TRAIN
from benchmarks.rows import BASELINE, Row, case, contestant, is_of, measured, middle, newest, ours, throughput
from benchmarks.tables import modes

SWEEPS = {"H": SWEEP_H, "B": SWEEP_B, "T": SWEEP_T}
MEANING = {"H": "H, units (and input features)", "B": "B, rows of a batch", "T": "T, time steps"}
# Ours in warm colours, the baseline in black, peers in cool and muted ones, told apart by their markers too.
OURS = ("#d62728", "#ff7f0e", "#d81b9a", "#e6b800", "#7f0000")
PEERS = ("#1f77b4", "#2ca02c", "#17becf", "#9467bd", "#8c564b", "#393b79", "#7f7f7f", "#637939")
MARKERS = "oDs^vP<>X"


class Style(NamedTuple):
    """How one contestant looks in every picture."""

    palette: Sequence[str]
    place: int
    bold: bool

    @property
    def color(self) -> str:
        """The colour; it comes again where a palette ends."""
        return self.palette[self.place % len(self.palette)]

    @property
    def marker(self) -> str:
        """The marker, which tells apart what has a colour in common."""
        return MARKERS[self.place % len(MARKERS)]


def draw(rows: Iterable[Row], folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws every picture that the rows allow, and returns the files, which replace older ones of the same names."""
    found = [row for row in newest(rows) if measured(row)]
    styles = styles_of(found)
    figures: dict[str, Any] = {}
    for dtype in dict.fromkeys(row["dtype"] for row in found):
        suffix = "" if dtype == "float32" else f"_{dtype}"
        same = [row for row in found if row["dtype"] == dtype]
        for mode in modes(same):
            chosen = [row for row in same if row["mode"] == mode]
            for letter in SWEEPS:
                figures[f"{mode}_against_{letter}{suffix}"] = sweep(chosen, letter, styles)
            figures[f"bars_{mode}{suffix}"] = bars(chosen, styles)
        mode = next(mode for mode in (GRADIENT, TRAIN, FORWARD, STEP) if mode in modes(same))
        figures[f"limit{suffix}"] = limit([row for row in same if row["mode"] == mode], styles)
    folder.mkdir(parents=True, exist_ok=True)
    return [_save(figure, folder / f"{name}.png") for name, figure in figures.items() if figure is not None]


def _save(figure: Any, path: pathlib.Path) -> pathlib.Path:
    part = path.with_name(path.name + ".part")
    figure.savefig(part, dpi=110, format="png")
    plt.close(figure)
    part.replace(path)
    return path


def styles_of(rows: Sequence[Row]) -> dict[str, Style]:
    """A style for every contestant, in the order of legends: ours, those with most rows first; the baseline; peers."""
    count = Counter(contestant(row) for row in rows if ours(row))
    peers = {row["peer"] for row in rows if row["peer"]}
    # Numbered as in the list of all peers, so that a colour means the same in every file.
    known = [*REGISTERED, *sorted(peers - set(REGISTERED))]
    styles = {name: Style(OURS, place, True) for place, name in enumerate(sorted(count, key=lambda n: (-count[n], n)))}
    styles |= {BASELINE: Style(("black",), -1, False)}
    return styles | {name: Style(PEERS, place, False) for place, name in enumerate(known) if name in peers}


def sweep(rows: Sequence[Row], letter: str, styles: Mapping[str, Style]) -> Any:
    """Throughput of one mode and dtype against one letter of the shape; None with fewer than two points of it."""
    points = [row for row in rows if is_of(row, SWEEPS[letter].values()) or middle(row)]
    cells = _cells(points)
    sizes = sorted({row[letter] for row in points if row["cell"] in cells})
    if len(sizes) < 2:
        return None
    figure, panels = _panels(1, len(cells), 4.0, [4.2])
    for axes, cell in zip(panels[0], cells, strict=True):
        for name, style in styles.items():
            line = {row[letter]: row for row in points if (row["cell"], contestant(row)) == (cell, name)}
            _line(axes, name, style, [(size, line[size]) for size in sorted(line)])
        axes.set(title=cell, xscale="log", yscale="log", xlabel=MEANING[letter])
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        _plain(axes.yaxis, EngFormatter(sep=""))
        axes.grid(color="0.9")
    panels[0][0].set_ylabel("time steps x rows per second")
    shared = " ".join(f"{other}={getattr(case(points[0]), other)}" for other in "TBDH" if _fixed(points, other))
    first = rows[0]
    figure.suptitle(f"{first['mode']}, {first['dtype']}, {shared}; {first['device']}", fontsize=10)
    _legend(figure, panels, styles)
    return figure


def bars(rows: Sequence[Row], styles: Mapping[str, Style]) -> Any:
    """Throughput of one mode and dtype, a row of panels for each case; None where nothing is to be compared.

    Sweeps are drawn as lines, so of their cases only the middle is taken, and all of them if there is nothing else.
    """
    cells = _cells(rows)
    swept = [shape for sizes in SWEEPS.values() for shape in sizes.values()]
    shown = [row for row in rows if row["cell"] in cells]
    chosen = [row for row in shown if not is_of(row, swept) or middle(row)] or shown
    places: dict[Any, list[Row]] = {}
    for row in chosen:
        places.setdefault((row["case"], case(row)), []).append(row)
    names = {place: [n for n in styles if n in {contestant(row) for row in here}] for place, here in places.items()}
    if max(map(len, names.values())) < 2:
        return None
    heights = [0.8 + 0.24 * len(names[place]) for place in places]
    figure, panels = _panels(len(places), len(cells), 4.0, heights)
    figure.get_layout_engine().set(h_pad=0.12, w_pad=0.1)
    for line, (place, here) in zip(panels, places.items(), strict=True):
        for axes, cell in zip(line, cells, strict=True):
            _bars(axes, [row for row in here if row["cell"] == cell], names[place], styles)
            axes.set_title(f"{cell}, {place[0]}", fontsize=9)
        line[0].set_ylabel(str(place[1]).replace(" D", "\nD"), fontsize=8)
        for label, name in zip(line[0].get_yticklabels(), names[place], strict=True):
            label.set_fontweight("bold" if styles[name].bold else "normal")
    for axes in panels[-1]:
        axes.set_xlabel("time steps x rows per second")
    first = rows[0]
    figure.suptitle(f"{first['mode']}, {first['dtype']}; {first['device']}", fontsize=10)
    return figure


def _bars(axes: Any, rows: Sequence[Row], names: Sequence[str], styles: Mapping[str, Style]) -> None:
    found = {contestant(row): row for row in rows}
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    for place, name in enumerate(names):
        if name not in found:
            axes.annotate("-", (0, place), (4, 0), textcoords="offset points", va="center", color="0.5")
            continue
        value, low, high = _with_quartiles(found[name])
        axes.barh(place, value, height=0.72, color=styles[name].color, alpha=1.0 if styles[name].bold else 0.6)
        axes.errorbar(value, place, xerr=[[value - low], [high - value]], color="black", capsize=2, linewidth=1)
        text = EngFormatter(places=1 if value < 1e9 else 0, sep="")(value)
        axes.annotate(text, (high, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    # Room for the numbers.
    axes.set_xlim(0, 1.22 * max((_with_quartiles(row)[2] for row in rows), default=1.0))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.locator_params(axis="x", nbins=5)
    axes.spines[["top", "right"]].set_visible(False)


def limit(rows: Sequence[Row], styles: Mapping[str, Style]) -> Any:
    """How much of what the device can do is reached, case by case in the order of their work; None if not known."""
    cells = _cells(rows)
    known = [row for row in rows if row["cell"] in cells and row["share_of_limit"]]
    cases = sorted(dict.fromkeys((row["case"], case(row)) for row in known), key=lambda found: _work(found[1]))
    if not cases:
        return None
    names = [name for name in styles if name in {contestant(row) for row in known}]
    figure, panels = _panels(len(cells), 1, max(7.0, 2.0 + 0.55 * len(cases)), [2.5] * len(cells), sharey=True)
    for (axes,), cell in zip(panels, cells, strict=True):
        for number in range(1, len(cases), 2):
            axes.axvspan(number - 0.5, number + 0.5, color="0.96", zorder=0)
        for place, name in enumerate(names):
            mine = [row for row in known if (row["cell"], contestant(row)) == (cell, name)]
            # Side by side, so that equals don't hide each other.
            x = [cases.index((row["case"], case(row))) + (place + 0.5) / len(names) * 0.8 - 0.4 for row in mine]
            look = {**_look(name, styles[name]), "linestyle": ""}
            axes.plot(x, [100 * row["share_of_limit"] for row in mine], **look)
        axes.axhline(100, color="0.4", linewidth=1, linestyle="--")
        axes.set(yscale="log", title=cell, ylabel="% of the limit", xlim=(-0.5, len(cases) - 0.5))
        axes.set_xticks(range(len(cases)), [""] * len(cases))
        _plain(axes.yaxis, FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(axis="y", color="0.9")
    traffic = {(row["case"], case(row)) for row in known if _limited_by_memory(row)}
    labels = [f"{found[0]} (memory)" if found in traffic else found[0] for found in cases]
    panels[-1][0].set_xticks(range(len(cases)), labels, rotation=45, ha="right", rotation_mode="anchor")
    first = rows[0]
    figure.suptitle(
        f"{first['mode']}, {first['dtype']}, {first['device']}\n"
        "share of what the device's matmuls allow, or its memory where a case says so", fontsize=10,
    )  # fmt: skip
    _legend(figure, panels, styles)
    return figure


def _limited_by_memory(row: Row) -> bool:
    """Whether the traffic of memory sets the limit, left of a roofline's ridge; else the peak of matmuls does."""
    return bool(row["bytes"] / row["bytes_per_s"] > row["flops"] / row["matmul_flops_per_s"])


def _work(shape: Any) -> int:
    return int(shape.T * shape.B * shape.H * (shape.D + shape.H))


def _line(axes: Any, name: str, style: Style, line: Sequence[tuple[int, Row]]) -> None:
    if not line:
        return
    sizes = [size for size, _ in line]
    values, lows, highs = zip(*(_with_quartiles(row) for _, row in line), strict=True)
    axes.fill_between(sizes, lows, highs, color=style.color, alpha=0.18, linewidth=0)
    axes.plot(sizes, values, **_look(name, style), linewidth=2.6 if style.bold else 1.3)


def _look(name: str, style: Style) -> dict[str, Any]:
    return {
        "label": name, "color": style.color, "marker": style.marker, "markersize": 7 if style.bold else 5,
        "zorder": 3 if style.bold else 2, "linestyle": "--" if name == BASELINE else "-",
    }  # fmt: skip


def _with_quartiles(row: Row) -> tuple[float, float, float]:
    """The throughput, and its lower and upper quartile: a long time is a low throughput."""
    value = throughput(row)
    return value, value * row["median_s"] / row["q75_s"], value * row["median_s"] / row["q25_s"]


def _cells(rows: Iterable[Row]) -> list[str]:
    """The headline's cells, as far as they are there; if none is, all that are."""
    found = list(dict.fromkeys(row["cell"] for row in rows))
    return [cell for cell in HEADLINE if cell in found] or found


def _fixed(rows: Sequence[Row], letter: str) -> bool:
    return len({row[letter] for row in rows}) == 1


def _panels(lines: int, columns: int, width: float, heights: Sequence[float], sharey: Any = "row") -> tuple[Any, Any]:
    """A figure and its axes, of so many inches each."""
    size = (width * columns + 2.0, sum(heights) + 0.8)
    return plt.subplots(
        lines, columns, figsize=size, squeeze=False, sharey=sharey, height_ratios=heights, layout="constrained"
    )


def _plain(axis: Any, formatter: Any) -> None:
    """Numbers in place of powers of ten."""
    axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def _legend(figure: Any, panels: Any, styles: Mapping[str, Style]) -> None:
    """One legend beside the panels, in the order of the styles."""
    handles = {}
    for axes in panels.flat:
        handles.update(dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True)))
    ordered = [name for name in styles if name in handles]
    figure.legend([handles[name] for name in ordered], ordered, loc="outside right center", frameon=False)
