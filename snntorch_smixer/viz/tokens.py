"""What pruning saw and kept, as a picture: dropped tokens, SIV heat map, kept steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import SettingError
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.modes import in_mode
from snntorch_smixer.neurons import reset
from snntorch_smixer.pruning.pruner import DSTSP
from snntorch_smixer.pruning.siv import siv
from snntorch_smixer.pruning.temporal import step_siv
from snntorch_smixer.selection import Selection, take_steps
from snntorch_smixer.viz.style import ACCENT, QUIET, new_figure, patch

_GREY = (0.82, 0.82, 0.84)
MOST_LABELLED = 6
"""Steps whose bars carry their count; more do not fit."""


@dataclass(frozen=True, eq=False)
class PruningTrace:
    """What one pruning decision was based on, and what it was.

    Attributes:
        step_siv: ``(T, B)`` spikes per step, where steps were chosen.
        token_siv: ``(B, N)`` spikes per token over the kept steps.
        steps: ``(B, T')`` kept steps.
        kept: ``(B, N)`` bool, True where the token was kept.
        grid: (rows, columns) of the tokens.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained, viz
        >>> net, x = from_pretrained("smixer-2-64-fmnist-dstsp"), torch.rand(2, 1, 28, 28)
        >>> viz.trace_pruning(net, x).grid
        (7, 7)
    """

    step_siv: Tensor
    token_siv: Tensor
    steps: Tensor
    kept: Tensor
    grid: tuple[int, int]


def trace_pruning(model: nn.Module, x: Tensor, *, grid: tuple[int, int] | None = None) -> PruningTrace:
    """Run ``model`` once on its input, in evaluation mode, and record what its pruning decided.

    Args:
        model: a network of this package, or any model after `dstsp.wrap`.
        x: its input.
        grid: (rows, columns) of the tokens of a third-party model; without it the tokens are taken for a square.

    Raises:
        SettingError: the model does not prune this input, or its tokens are no square and ``grid`` is not given.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained, viz
        >>> net, x = from_pretrained("smixer-2-64-fmnist-dstsp"), torch.rand(2, 1, 28, 28)
        >>> viz.trace_pruning(net, x).kept.sum(1)
        tensor([34, 34])
    """
    with in_mode(model, training=False), torch.no_grad():
        seen = _native(model, x) if isinstance(model, SMixerNet) else _wrapped(model, x)
    kept = None if seen is None else seen[2]
    if seen is None or kept is None:
        raise SettingError(
            "trace_pruning: this network prunes nothing here. Wrap it with dstsp.wrap, or set dstsp.active to 'both'."
        )
    by_step, on_kept, _ = seen
    mask = kept.keep_mask().cpu()
    sides = model.config.grid if isinstance(model, SMixerNet) else grid or _square(mask.shape[1])
    if sides[0] * sides[1] != mask.shape[1]:
        raise SettingError(
            f"trace_pruning: got {mask.shape[1]} tokens, expected a grid of {sides[0]} x {sides[1]}. Pass grid=(rows, "
            "columns)."
        )
    return PruningTrace(by_step.cpu(), siv(on_kept, "t c").cpu(), kept.steps.cpu(), mask, sides)


Seen = tuple[Tensor, Tensor, Selection | None]


def _native(net: SMixerNet, x: Tensor) -> Seen:
    choice = net.step_choice()
    tokens = net.tokens(x, choice=choice)
    spikes, early = net.first_spikes(tokens), None if choice is None else choice.kept
    kept = early if net.dstsp is None else net.dstsp(tokens, spikes, early)[1]
    by_step = step_siv(spikes) if choice is None else cast(Tensor, choice.siv)
    return by_step, spikes if early is not None or kept is None else take_steps(spikes, kept.steps), kept


def _wrapped(model: nn.Module, x: Tensor) -> Seen | None:
    """What the pruning of a wrapped model read and decided in one forward: the first decision on all tokens."""
    pruning, calls = getattr(model, "dstsp", None), []
    if not isinstance(pruning, DSTSP):
        return None
    handle = pruning.register_forward_hook(lambda _module, args, out: calls.append((args[1], out[1])))
    try:
        reset(model)
        model(x)
    finally:
        handle.remove()
    if not calls:
        return None
    spikes = calls[0][0]
    kept = next((kept for read, kept in calls if kept is not None and kept.drops_tokens), calls[0][1])
    on_all = next((read for read, _ in reversed(calls) if kept is None or read.shape[2] == kept.full_tokens), spikes)
    on_kept = on_all if kept is None or on_all.shape[0] == kept.steps.shape[1] else take_steps(on_all, kept.steps)
    return step_siv(spikes), on_kept, kept


def _square(tokens: int) -> tuple[int, int]:
    return isqrt(tokens), isqrt(tokens)


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

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained, viz
        >>> net, x = from_pretrained("smixer-2-64-fmnist-dstsp"), torch.rand(2, 1, 28, 28)
        >>> figure = viz.draw_pruning(x * 255, viz.trace_pruning(net, x), ["first", "second"])
    """
    count = images.shape[0]
    if len(titles) != count or trace.kept.shape[0] != count:
        raise SettingError(
            f"draw_pruning: got {count} images, {len(titles)} titles and a trace of {trace.kept.shape[0]}. "
            "Pass as many of each."
        )
    figure = new_figure(1.7 * count + 1.6, 7.0)
    axes = figure.subplots(4, count, squeeze=False, gridspec_kw={"height_ratios": [1, 1, 1, 0.62]})
    most = max(1.0, float(trace.token_siv.max()))
    heat = None
    for i in range(count):
        picture = _picture(images[i])
        axes[0, i].imshow(picture, cmap="gray", vmin=0, vmax=1)
        axes[0, i].set_title(titles[i], fontsize=11)
        heat = axes[1, i].imshow(trace.token_siv[i].view(trace.grid).numpy(), cmap="cividis", vmin=0, vmax=most)
        axes[2, i].imshow(_grey_out(picture, trace.kept[i].view(trace.grid).numpy()))
        _draw_steps(axes[3, i], trace.step_siv[:, i].numpy(), trace.steps[i].tolist())
    for axis, row in zip(axes[:, 0], ("image", "spikes\nper token", "kept tokens", "spikes\nper step"), strict=True):
        axis.set_ylabel(row, fontsize=11)
    for axis in axes[:3].flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    # A scale of all three rows, not of its own alone: the images and their heat maps stay in line.
    figure.colorbar(heat, ax=axes[:3, :], shrink=0.32, pad=0.02).set_label("spikes per token", fontsize=10)
    entries = [patch(_GREY, "dropped token"), patch(ACCENT, "kept step"), patch(QUIET, "dropped step")]
    figure.legend(handles=entries, loc="outside lower center", ncols=3 if count > 2 else 1, frameon=False, fontsize=11)
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
    colours = [ACCENT if step in kept else QUIET for step in range(len(spikes))]
    axis.bar(range(len(spikes)), spikes, color=colours, width=0.7)
    axis.set_xticks(range(len(spikes)), [str(step + 1) for step in range(len(spikes))], fontsize=9)
    axis.set_yticks([])
    axis.margins(y=0.15)
    axis.spines[["top", "right", "left"]].set_visible(False)
    if len(spikes) <= MOST_LABELLED:
        for step, value in enumerate(spikes):
            axis.text(step, value, f"{value:.0f}", ha="center", va="bottom", fontsize=8, color="#444")
