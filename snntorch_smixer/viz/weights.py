"""Learned token mixing and firing rates, layer by layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.cost.records import Records
from snntorch_smixer.errors import SettingError
from snntorch_smixer.layers.mixer import SpikingTokenMixer
from snntorch_smixer.patching.modules import LazyTokenMatrix, TokenMixing
from snntorch_smixer.viz.style import COLOURS, new_figure, open_frame

MOST_HEADS = 4


def token_matrices(model: nn.Module) -> dict[str, Tensor]:
    """``W_M`` of every mixer of a model, ``(h, N, N)`` by the name of its layer: our layers, and what `wrap` put in."""
    kinds = (SpikingTokenMixer, TokenMixing)
    found = {name: m for name, m in model.named_modules() if isinstance(m, kinds)}
    ready = {name: m for name, m in found.items() if not isinstance(m.w_m, LazyTokenMatrix)}
    return {name: m.matrix.detach().float().cpu() for name, m in ready.items()}


def draw_w_m(model: nn.Module, *, heads: int = MOST_HEADS) -> Any:
    """``W_M`` of each mixer, one row per layer and one column per head: rows are the tokens that listen.

    All heads share one scale, which is symmetric about 0.

    Args:
        model: with `SMixer` layers, or wrapped.
        heads: how many heads to draw per layer.

    Returns:
        A matplotlib ``Figure``.

    Raises:
        SettingError: the model has no ``W_M``, or it is made at the first forward only.
        MissingExtra: matplotlib is not installed.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained, viz
        >>> net, x = from_pretrained("smixer-2-64-fmnist-dstsp"), torch.rand(2, 1, 28, 28)
        >>> figure = viz.draw_w_m(net, heads=2)
    """
    matrices = token_matrices(model)
    if not matrices:
        raise SettingError(
            f"draw_w_m: {type(model).__name__} has no W_M to draw. Pass a model with SMixer layers, or one that "
            "dstsp.wrap swapped, after its first forward."
        )
    columns = min(heads, *(len(w) for w in matrices.values()))
    most = max(float(w.abs().quantile(0.999)) for w in matrices.values())
    figure = new_figure(1.9 * columns + 1.6, 1.9 * len(matrices) + 0.6)
    grid = figure.subplots(len(matrices), columns, squeeze=False)
    image = None
    for row, (name, w) in zip(grid, matrices.items(), strict=True):
        for head, axes in enumerate(row):
            image = axes.imshow(w[head].numpy(), cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(name.removesuffix(".mixer"), fontsize=9)
    for head, axes in enumerate(grid[0]):
        axes.set_title(f"head {head}", fontsize=9)
    figure.colorbar(image, ax=grid, label="weight", shrink=0.8)
    figure.supxlabel("token that is read", fontsize=9)
    figure.suptitle("W_M: the rows are tokens that listen", fontsize=10)
    return figure


def draw_firing_rates(records: Records) -> Any:
    """Mean firing rate of each neuron layer, in per cent of its neurons and steps.

    Args:
        records: from `cost.measure`, on real inputs.

    Returns:
        A matplotlib ``Figure``.

    Raises:
        SettingError: no neuron was seen.
        MissingExtra: matplotlib is not installed.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained, viz
        >>> net, x = from_pretrained("smixer-2-64-fmnist-dstsp"), torch.rand(2, 1, 28, 28)
        >>> figure = viz.draw_firing_rates(cost.measure(net, x))
    """
    neurons = [entry for entry in records.layers if entry.op == "neuron" and entry["updates"]]
    if not neurons:
        raise SettingError(f"draw_firing_rates: no neurons in {records.model}. Pass records of a spiking network.")
    rates = torch.tensor([100 * entry["spikes"] / entry["updates"] for entry in neurons])
    figure = new_figure(7.5, 0.9 + 0.27 * len(neurons))
    axes = figure.add_subplot()
    bars = axes.barh(range(len(neurons)), rates.tolist(), color=COLOURS[0], height=0.7)
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axes.set_yticks(range(len(neurons)), [entry.layer for entry in neurons], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.01)
    axes.set_xlim(left=0)
    axes.set_xlabel("spikes per neuron and time step, per cent")
    axes.set_title(f"Firing rates of {records.model}", fontsize=10)
    open_frame(axes)
    return figure
