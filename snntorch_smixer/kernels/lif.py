"""Multi-step leaky integrate-and-fire: the whole step loop in one call, from rest, leaving nothing behind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from snntorch_smixer.errors import SettingError


def lif(x: Tensor, beta: Tensor, threshold: Tensor, spike_grad: Callable[[Tensor], Tensor]) -> Tensor:
    """Spikes of a hard-reset LIF over all steps.

    ``u[t] = beta * u[t-1] * (1 - s[t-1]) + x[t]`` and ``s[t] = u[t] > threshold``, with ``u`` at rest before step 0.
    The reset is detached. Source: snnTorch ``Leaky(reset_mechanism="zero")``; the paper's SN with beta = 0.5.

    Args:
        x: input current, ``(T, ...)``.
        beta: membrane decay per step, clipped to [0, 1].
        threshold: firing threshold.
        spike_grad: maps ``u - threshold`` to spikes and carries the surrogate gradient.

    Returns:
        Spikes ``(T, ...)`` in the dtype of ``x``. The membrane is kept in at least float32, as snnTorch does.
    """
    decay = beta.clamp(0, 1)
    wide = torch.promote_types(x.dtype, torch.float32)
    currents = x.unbind(0)
    mem = currents[0].to(wide)
    spikes: list[Tensor] = []
    for step, current in enumerate(currents):
        if step:
            mem = decay * mem.masked_fill(spikes[-1].detach() > 0, 0) + current.to(wide)
        spikes.append(spike_grad(mem - threshold).to(x.dtype))
    return torch.stack(spikes)


def integer_lif(x: Tensor, beta: float, levels: int) -> Tensor:
    """Integer spikes 0..levels of an I-LIF over all steps, from rest.

    ``u[t] = beta * (u[t-1] - s[t-1]) + x[t]`` and ``s[t] = round(clamp(u[t], 0, levels))``. The subtraction is
    detached; the gradient of the rounding is 1 inside [0, levels] and 0 outside. Source: integer training of SpikeYOLO
    and SDT-V3.

    Args:
        x: input current, ``(T, ...)``.
        beta: membrane decay per step.
        levels: highest spike count that one step may carry.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    mem, spikes = None, []
    for current in x.unbind(0):
        current = current.to(wide)
        mem = current if mem is None else beta * (mem - spikes[-1].detach().to(wide)) + current
        bounded = mem.clamp(0, levels)
        spike = bounded + (bounded.round() - bounded).detach()
        spikes.append(spike.to(x.dtype))
    return torch.stack(spikes)


def cap_spikes(spikes: Tensor, cap: int) -> Tensor:
    """Let each neuron fire at most ``cap`` spikes over all steps: the earliest ones pass, later ones are silenced.

    Args:
        spikes: ``(T, ...)`` binary or integer spikes.
        cap: spikes per neuron over the T steps, at least 1.

    Returns:
        Spikes ``(T, ...)``. Gradients reach only what passes. Source: paper, DSTP, the limit on the spikes of a neuron;
        its form is not published, this budget over the kept steps is our reading.
    """
    if cap < 1:
        raise SettingError(f"cap_spikes: cap={cap} must be at least 1. Pass how many spikes a neuron may fire.")
    counts = spikes.detach()
    budget = (cap - (counts.cumsum(0) - counts)).clamp(min=0).to(spikes.dtype)
    return torch.where((counts <= budget) & (budget > 0), spikes, budget)
