"""One look for every picture: colours that colour-blind readers can tell apart, words with units, no display needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snntorch_smixer.errors import SettingError
from snntorch_smixer.extras import need

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Okabe and Ito's palette (jfly.uni-koeln.de/color), in the order in which series take them."""
QUIET = "#B8BCC4"
"""For what is there but not meant: dropped steps, other layers."""
ACCENT = "#D55E00"
"""For the one thing that a picture is about."""


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib ``Figure`` of ``width`` x ``height`` inches, without a window or global state.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    return need("matplotlib.figure", extra="viz").Figure(figsize=(width, height), layout="constrained")


def write_both(figure: Any, path: Path, *, dpi: int = 110) -> None:
    """Write a figure as PNG and as SVG beside each other; the same picture is the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=dpi)
    with need("matplotlib", extra="viz").rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def patch(colour: str | tuple[float, float, float], label: str) -> Any:
    """An entry of a legend."""
    return need("matplotlib.patches", extra="viz").Patch(color=colour, label=label)


def open_frame(axes: Any) -> None:
    """Take away the frame on the sides that carry no scale."""
    axes.spines[["top", "right"]].set_visible(False)


def draw_bars(groups: Sequence[str], series: dict[str, Sequence[float]], *, unit: str, title: str = "") -> Any:
    """Grouped horizontal bars: one group per row, one colour per series, the value at each bar.

    Args:
        groups: names of the rows, in words.
        series: values of each row, by the name that the legend shows; NaN for none.
        unit: of the values; the label of the axis.
        title: above the picture.

    Returns:
        A matplotlib ``Figure``.

    Raises:
        SettingError: nothing to draw, or a series has not one value per row.
        MissingExtra: matplotlib is not installed.

    Examples:
        >>> from snntorch_smixer import viz
        >>> figure = viz.draw_bars(["plain", "fused"], {"no pruning": [83.3, 22.1], "ps=0.3": [58, 15]}, unit="MiB")
    """
    if not groups or not series or any(len(values) != len(groups) for values in series.values()):
        lengths = {name: len(values) for name, values in series.items()}
        raise SettingError(f"draw_bars: got {len(groups)} groups and series of {lengths}. Pass a value for each group.")
    figure = new_figure(7.5, 1.4 + 0.26 * len(groups) * (len(series) + 0.6))
    axes, thick = figure.add_subplot(), 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        places = [row + (number - (len(series) - 1) / 2) * thick for row in range(len(groups))]
        bars = axes.barh(places, values, height=thick * 0.92, label=name, color=COLOURS[number % len(COLOURS)])
        texts = ["" if value != value else f"{value:.3g}" for value in values]
        axes.bar_label(bars, texts, padding=3, fontsize=9)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.02)
    axes.set_xlabel(unit)
    axes.set_title(title, fontsize=11)
    open_frame(axes)
    if len(series) > 1:
        figure.legend(frameon=False, loc="outside lower center", ncols=min(len(series), 3))
    return figure
