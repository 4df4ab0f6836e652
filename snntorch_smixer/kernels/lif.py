"""Multi-step leaky integrate-and-fire: the whole step loop in one call, from rest, leaving nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from snntorch_smixer.errors import SettingError, check_choice

RESETS = ("zero", "subtract", "none")


def lif(
    x: Tensor, beta: Tensor, threshold: Tensor, spike_grad: Callable[[Tensor], Tensor], *, reset: str = "zero"
) -> Tensor:
    """Spikes of a leaky integrate-and-fire neuron over all steps.

    ``s[t] = u[t] > threshold``, where ``u[t]`` is, with ``u[-1] = 0``,

    - "zero": ``beta * u[t-1] * (1 - s[t-1]) + x[t]``,
    - "subtract": ``beta * u[t-1] + x[t] - s[t-1] * threshold``,
    - "none": ``beta * u[t-1] + x[t]``.

    ``s[t-1]`` is detached here; ``threshold`` is not. Below zero it is exceeded at rest, so "subtract" then acts on the
    first step too. Source: snnTorch ``Leaky``, whose reset comes one step after the spike; the paper's SN is "zero"
    with beta = 0.5.

    Args:
        x: input current, ``(T, ...)``.
        beta: membrane decay per step, clipped to [0, 1].
        threshold: firing threshold.
        spike_grad: maps ``u - threshold`` to spikes and carries the surrogate gradient.
        reset: "zero", "subtract" or "none".

    Returns:
        Spikes ``(T, ...)`` in the dtype of ``x``. The membrane is kept in at least float32, as snnTorch does.
    """
    check_choice("lif", "reset", reset, RESETS)
    return torch.stack([spike for _, spike in _steps(x, beta, threshold, spike_grad, reset)])


def lif_with_membranes(
    x: Tensor, beta: Tensor, threshold: Tensor, spike_grad: Callable[[Tensor], Tensor], *, reset: str = "zero"
) -> tuple[Tensor, Tensor]:
    """As `lif`, and the membranes ``u`` as well, ``(T, ...)`` in at least float32, before the reset that follows."""
    check_choice("lif_with_membranes", "reset", reset, RESETS)
    mems, spikes = zip(*_steps(x, beta, threshold, spike_grad, reset), strict=True)
    return torch.stack(spikes), torch.stack(mems)


def _steps(
    x: Tensor, beta: Tensor, threshold: Tensor, spike_grad: Callable[[Tensor], Tensor], reset: str
) -> Iterator[tuple[Tensor, Tensor]]:
    decay = beta.clamp(0, 1)
    wide = torch.promote_types(x.dtype, torch.float32)
    mem = spike = None
    for current in x.unbind(0):
        current = current.to(wide)
        if mem is None and (reset == "subtract" or decay.requires_grad):
            # What Leaky computes too: a learnable beta gets a gradient, of zero, even where there is one step only.
            mem = torch.zeros_like(current)
            spike = spike_grad(mem - threshold)
        if mem is None or spike is None:
            mem = current
        elif reset == "zero":
            mem = decay * mem.masked_fill(spike.detach() > 0, 0) + current
        else:
            mem = decay * mem + current
            mem = mem - spike.detach().to(wide) * threshold if reset == "subtract" else mem
        spike = spike_grad(mem - threshold).to(x.dtype)
        yield mem, spike


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

    Examples:
        >>> import torch
        >>> from snntorch_smixer import dstsp
        >>> dstsp.cap_spikes(torch.ones(3, 1), 2).flatten()
        tensor([1., 1., 0.])
    """
    if cap < 1:
        raise SettingError(f"cap_spikes: cap={cap} must be at least 1. Pass how many spikes a neuron may fire.")
    counts = spikes.detach()
    budget = (cap - (counts.cumsum(0) - counts)).clamp(min=0).to(spikes.dtype)
    return torch.where((counts <= budget) & (budget > 0), spikes, budget)
