"""Draw the figures of docs/explanation/method.md: the two encoding blocks, and what DSTSP does step by step.

    python examples/method_figures.py [--out docs/images/method]

Writes block.svg, block.png, pruning_steps.svg and pruning_steps.png. The blocks are a drawing. The pruning steps are
the shipped net on one shipped image: its spikes, and what it kept.
"""

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.patches import FancyBboxPatch, Rectangle

from snntorch_smixer import from_pretrained
from snntorch_smixer.viz.style import ACCENT, COLOURS, QUIET, new_figure, write_both
from snntorch_smixer.viz.tokens import trace_pruning

DATA = Path(__file__).parent / "data" / "fashion_mnist_test_1000.npz"
NAME = "smixer-2-64-fmnist-dstsp"
IMAGE = 0
"""Of the shipped test images: an ankle boot."""
FILL = {"neuron": "#FFE3B3", "linear": "#D6E6F2", "spikes": "#F8D3BF", "plain": "#F0F1F3"}
EDGE = {"neuron": COLOURS[1], "linear": COLOURS[0], "spikes": ACCENT, "plain": QUIET}


def box(axes: Any, at: tuple[float, float], text: str, kind: str, width: float = 1.5) -> None:
    """A box around its centre ``at``, 0.56 high."""
    corner = (at[0] - width / 2, at[1] - 0.28)
    style = "round,pad=0,rounding_size=0.08"
    face = {"facecolor": FILL[kind], "edgecolor": EDGE[kind], "linewidth": 1.3}
    axes.add_patch(FancyBboxPatch(corner, width, 0.56, boxstyle=style, **face))
    axes.text(*at, text, ha="center", va="center", fontsize=9)


def arrow(axes: Any, points: Sequence[tuple[float, float]]) -> None:
    """A line through the points with a head at the last."""
    axes.plot(
        *zip(*points[:-1], points[-1], strict=True), color="black", linewidth=1, solid_joinstyle="miter", zorder=0
    )
    head = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0, "linewidth": 1}
    axes.annotate("", points[-1], points[-2], arrowprops=head)


def residual(axes: Any, start: float, end: float, row: float, height: float) -> None:
    """The way of the stream around the mixer, and the sum at its end."""
    arrow(axes, [(start, row), (start, row + height), (end, row + height), (end, row + 0.2)])
    axes.text(end, row, "+", ha="center", va="center", fontsize=13)
    axes.plot(end, row, "o", markersize=16, markerfacecolor="white", markeredgecolor="black", zorder=1)
    arrow(axes, [(end + 0.2, row), (end + 0.75, row)])


def chain(axes: Any, row: float, parts: Sequence[tuple[float, str, str]], width: float = 0.9) -> None:
    """Boxes in a row, (place, text, kind), with arrows between them."""
    for (left, _, _), (right, _, _) in pairwise(parts):
        arrow(axes, [(left + width / 2, row), (right - width / 2, row)])
    for place, text, kind in parts:
        box(axes, (place, row), text, kind, width)


def draw_attention(axes: Any, row: float) -> None:
    """The mixer of a block with spiking self-attention."""
    arrow(axes, [(-0.2, row), (0.55, row)])
    box(axes, (1.0, row), "SN", "neuron", 0.9)
    for lane, name in ((0.85, "Q"), (0.0, "K"), (-0.85, "V")):
        arrow(axes, [(1.45, row), (1.75, row), (1.75, row + lane), (2.05, row + lane)])
        chain(axes, row + lane, [(2.5, "L", "linear"), (3.8, f"SN: {name}", "neuron")])
    arrow(axes, [(4.25, row + 0.85), (5.4, row + 0.85), (5.4, row + 0.28)])
    arrow(axes, [(4.25, row), (4.8, row)])
    arrow(axes, [(4.25, row - 0.85), (6.9, row - 0.85), (6.9, row - 0.28)])
    arrow(axes, [(6.0, row), (6.35, row)])
    box(axes, (5.4, row), "Q K$^T$", "spikes", 1.2)
    box(axes, (6.9, row), "(Q K$^T$) V s", "spikes", 1.1)
    arrow(axes, [(7.45, row), (7.85, row)])
    chain(axes, row, [(8.3, "SN", "neuron"), (9.6, "L", "linear")])
    arrow(axes, [(10.05, row), (10.6, row)])
    residual(axes, 0.15, 10.8, row, 1.45)


def draw_smixer(axes: Any, row: float) -> None:
    """The mixer of a block with SMixer."""
    arrow(axes, [(-0.2, row), (0.55, row)])
    chain(axes, row, [(1.0, "SN", "neuron"), (2.5, "L", "linear"), (3.8, "SN: X", "neuron")])
    arrow(axes, [(4.25, row), (5.4, row)])
    box(axes, (6.15, row), "W$_M$ X", "linear", 1.5)
    arrow(axes, [(6.9, row), (7.85, row)])
    chain(axes, row, [(8.3, "SN", "neuron"), (9.6, "L", "linear")])
    arrow(axes, [(10.05, row), (10.6, row)])
    residual(axes, 0.15, 10.8, row, 0.75)
    axes.text(6.15, row - 0.5, "learned, N x N per head", ha="center", fontsize=8.5)


def draw_blocks() -> Any:
    """Both mixers, one above the other."""
    figure = new_figure(9.6, 4.9)
    axes = figure.add_subplot()
    for row, title, draw in ((3.0, "Spiking self-attention", draw_attention), (0.0, "SMixer", draw_smixer)):
        height = 1.75 if draw is draw_attention else 1.05
        axes.text(-0.3, row + height, title, fontsize=11, fontweight="bold")
        axes.text(-0.3, row, "stream", fontsize=9, ha="right", va="center")
        axes.text(11.6, row, "to the MLP", fontsize=9, va="center")
        draw(axes, row)
    names = {"neuron": "spiking neuron", "linear": "weight times spikes", "spikes": "spikes times spikes"}
    styles = {kind: {"facecolor": FILL[kind], "edgecolor": EDGE[kind]} for kind in names}
    handles = [Rectangle((0, 0), 1, 1, label=text, **styles[kind]) for kind, text in names.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    axes.set(xlim=(-1.2, 12.8), ylim=(-0.75, 5.05), aspect="equal")
    axes.set_axis_off()
    return figure


def draw_tokens(axes: Any, values: np.ndarray, *, most: float, title: str, kept: np.ndarray | None = None) -> Any:
    """Spikes per token on the grid; dropped tokens are grey."""
    shown = axes.imshow(values, cmap="cividis", vmin=0, vmax=most)
    axes.set_title(title, fontsize=10)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    for row, column in np.argwhere(~kept) if kept is not None else ():
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="#E4E5E8", edgecolor="white"))
    return shown


def draw_steps() -> Any:
    """Spikes per step and token, the kept step, the kept tokens of it, and what of ``W_M`` belongs to them."""
    net = from_pretrained(NAME)
    image = torch.from_numpy(np.load(DATA)["images"][IMAGE : IMAGE + 1]).unsqueeze(1)
    x = net.card.preprocess(image)
    trace = trace_pruning(net, x)
    with torch.no_grad():
        spikes = net.first_spikes(net.tokens(x))[:, 0].sum(-1).view(-1, *trace.grid).numpy()
    chosen, kept = trace.steps[0].tolist(), trace.kept[0].numpy()
    figure = new_figure(11.5, 3.2)
    left, middle, right = figure.subfigures(1, 3, width_ratios=[4.6, 2.8, 2.6], wspace=0.03)
    grids = left.subplots(1, len(spikes))
    for step, axes in enumerate(grids):
        draw_tokens(axes, spikes[step], most=spikes.max(), title=f"step {step + 1}\n{spikes[step].sum():,.0f} spikes")
        if step in chosen:
            axes.spines[:].set(visible=True, color=ACCENT, linewidth=3)
    left.suptitle("1  DSTP: keep the busiest step", fontsize=11, x=0.02, ha="left")
    axes = middle.subplots()
    count = f"{kept.sum()} of {kept.size} tokens\nof step {chosen[0] + 1}"
    shown = draw_tokens(axes, spikes[chosen[0]], most=spikes.max(), title=count, kept=kept.reshape(trace.grid))
    middle.colorbar(shown, ax=axes, shrink=0.8).set_label("spikes per token", fontsize=9)
    middle.suptitle("2  DSSP: keep the busiest tokens", fontsize=11, x=0.02, ha="left")
    draw_matrix(right.subplots(), kept)
    right.suptitle("3  W$_M$: their rows and columns", fontsize=11, x=0.02, ha="left")
    return figure


def draw_matrix(axes: Any, kept: np.ndarray) -> None:
    """The entries of ``W_M`` between kept tokens."""
    colours = np.full((kept.size, kept.size, 3), 0.89)
    colours[np.ix_(kept, kept)] = [int(COLOURS[0][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    axes.imshow(colours)
    axes.set(xticks=[0, kept.size - 1], yticks=[0, kept.size - 1], xlabel="token that is listened to", ylabel="token")
    axes.set_xticklabels(["1", str(kept.size)])
    axes.set_yticklabels(["1", str(kept.size)])
    axes.set_title(f"{kept.size} x {kept.size}, of it\n{kept.sum()} x {kept.sum()} used", fontsize=10)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/method"), help="folder of the pictures")
    out = parser.parse_args().out
    write_both(draw_blocks(), out / "block.png", dpi=130)
    write_both(draw_steps(), out / "pruning_steps.png", dpi=130)
