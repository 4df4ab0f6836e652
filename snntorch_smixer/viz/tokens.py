"""What pruning saw and kept, as a picture: dropped tokens, SIV heat map, kept steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from snntorch_smixer.errors import SettingError
from snntorch_smixer.extras import need
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.modes import in_mode
from snntorch_smixer.pruning.siv import siv
from snntorch_smixer.pruning.temporal import step_siv
from snntorch_smixer.selection import take_steps

_GREY = (0.82, 0.82, 0.84)
_ACCENT = "#d1495b"
_QUIET = "#b8bcc4"


@dataclass(frozen=True, eq=False)
class PruningTrace:
    """What one pruning decision was based on, and what it was.

    Attributes:
        step_siv: ``(T, B)`` spikes per step, where steps were chosen.
        token_siv: ``(B, N)`` spikes per token over the kept steps.
        steps: ``(B, T')`` kept steps.
        kept: ``(B, N)`` bool, True where the token was kept.
        grid: (rows, columns) of the tokens.
    """

    step_siv: Tensor
    token_siv: Tensor
    steps: Tensor
    kept: Tensor
    grid: tuple[int, int]


def trace_pruning(net: SMixerNet, x: Tensor) -> PruningTrace:
    """Run stem and pruning of ``net`` on its input, in evaluation mode, and record the decision.

    Raises:
        SettingError: the network does not prune this input.
    """
    with in_mode(net, training=False), torch.no_grad():
        choice = net.step_choice()
        tokens = net.tokens(x, choice=choice)
        spikes, early = net.first_spikes(tokens), None if choice is None else choice.kept
        kept = early if net.dstsp is None else net.dstsp(tokens, spikes, early)[1]
    if kept is None:
        raise SettingError(
            "trace_pruning: this network prunes nothing here. Wrap it with dstsp.wrap, or set dstsp.active to 'both'."
        )
    by_step = step_siv(spikes) if choice is None else cast(Tensor, choice.siv)
    on_kept = spikes if early is not None else take_steps(spikes, kept.steps)
    return PruningTrace(
        by_step.cpu(), siv(on_kept, "t c").cpu(), kept.steps.cpu(), kept.keep_mask().cpu(), net.config.grid
    )


def draw_pruning(images: Tensor, trace: PruningTrace, titles: Sequence[str]) -> Any:
    """One column per image: the image, SIV over tokens, the image with dropped tokens greyed out, SIV over steps.

    Args:
        images: ``(B, C, H, W)`` with values in 0..255; one channel is shown as grey, three as colour, two as their sum.
        trace: of the same images.
        titles: one per image.

    Returns:
        A matplotlib ``Figure``, drawn without a display.

    Raises:
        MissingExtra: matplotlib is not installed.
        SettingError: counts differ.
    """
    count = images.shape[0]
    if len(titles) != count or trace.kept.shape[0] != count:
        raise SettingError(
            f"draw_pruning: got {count} images, {len(titles)} titles and a trace of {trace.kept.shape[0]}. "
            "Pass as many of each."
        )
    figure = need("matplotlib.figure", extra="viz").Figure(figsize=(1.45 * count + 1.0, 6.2), layout="constrained")
    axes = figure.subplots(4, count, squeeze=False, gridspec_kw={"height_ratios": [1, 1, 1, 0.62]})
    rows = ("image", "SIV: spikes per token\n(bright: many)", "kept tokens", "SIV: spikes per step")
    for axis, row in zip(axes[:, 0], rows, strict=True):
        axis.set_ylabel(row, fontsize=9)
    for i in range(count):
        picture = _picture(images[i])
        axes[0, i].imshow(picture, cmap="gray", vmin=0, vmax=1)
        axes[0, i].set_title(titles[i], fontsize=9)
        axes[1, i].imshow(trace.token_siv[i].view(trace.grid).numpy(), cmap="magma")
        axes[2, i].imshow(_grey_out(picture, trace.kept[i].view(trace.grid).numpy()))
        _draw_steps(axes[3, i], trace.step_siv[:, i].numpy(), trace.steps[i].tolist())
    for axis in axes[:3].flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure


def _picture(image: Tensor) -> np.ndarray:
    values = image.float().cpu().numpy() / 255
    return values.transpose(1, 2, 0) if len(values) == 3 else np.clip(values.sum(0), 0, 1)


def _grey_out(picture: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The picture in colour, each dropped token a flat grey square with a light border."""
    colour = picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, 2)
    scale = max(1, 224 // colour.shape[0])
    colour = colour.repeat(scale, 0).repeat(scale, 1).copy()
    height, width = colour.shape[0] // kept.shape[0], colour.shape[1] // kept.shape[1]
    for row, column in np.argwhere(~kept):
        cell = colour[row * height : (row + 1) * height, column * width : (column + 1) * width]
        cell[:] = 1.0
        cell[2:-2, 2:-2] = _GREY
    return colour


def _draw_steps(axis: Any, spikes: np.ndarray, kept: list[int]) -> None:
    colours = [_ACCENT if step in kept else _QUIET for step in range(len(spikes))]
    axis.bar(range(len(spikes)), spikes, color=colours, width=0.7)
    axis.set_xticks(range(len(spikes)), [f"t={s}" if s in kept else f"{s}" for s in range(len(spikes))], fontsize=8)
    axis.set_yticks([])
    axis.spines[["top", "right", "left"]].set_visible(False)
    for step, value in enumerate(spikes):
        axis.text(step, value, f"{value:.0f}", ha="center", va="bottom", fontsize=6, color="#555")
