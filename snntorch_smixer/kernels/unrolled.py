"""The LIF over all steps written out as one expression of new tensors, which is what a compiler fuses best.

The twins of the loops in `kernels.fire`, which write into few tensors instead; same operations in the same order, so
the spikes are the same bits. For surrogates that state their derivative. Under ``torch.compile`` all steps of a neuron
stay in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Rule = tuple[Any, str]
"""The surrogate and the reset."""

Rows = list[Tensor]


def spikes(currents: Iterator[Tensor], beta: Tensor, threshold: Tensor, reset: str) -> Rows:
    """Spikes of each step, as truth values.

    Args:
        currents: input of each step, in the dtype of the membrane.
        beta: decay, spreads over one step.
        threshold: as ``beta``.
        reset: "zero", "subtract" or "none".
    """
    return [fired for _, fired, _ in _steps(currents, beta, threshold, reset)]


def gradients(
    currents: Iterator[Tensor], grad: Callable[[int], Tensor], beta: Tensor, threshold: Tensor, rule: Rule
) -> tuple[Rows, Rows, Rows]:
    """Gradients of the current of each step, and what those of beta and threshold are sums of.

    Args:
        currents: as in `spikes`.
        grad: gradient of the spikes of a step, in the dtype of the membrane.
        beta: as in `spikes`.
        threshold: as in `spikes`.
        rule: as in `spikes`, with the surrogate.
    """
    spike_grad, reset = rule
    decay = beta.clamp(0, 1)
    steps = list(_steps(currents, beta, threshold, reset))
    by_current: Rows = []
    by_beta: Rows = []
    by_threshold: Rows = []
    carry: Tensor | None = None
    for step in range(len(steps) - 1, -1, -1):
        mem, _, silent = steps[step]
        by_v = grad(step) * spike_grad.derivative(mem - threshold)
        by_mem = by_v if carry is None else carry + by_v
        by_current.insert(0, by_mem)
        before = steps[step - 1][1] if step else threshold < 0
        spent = by_mem * before.to(by_mem.dtype) if reset == "subtract" else 0
        by_threshold.append(-by_v - spent)
        if silent is not None:
            by_beta.append(by_mem * silent)
        carry = decay * by_mem
        carry = torch.where(before, 0, carry) if step and reset == "zero" else carry
    return by_current, by_beta, by_threshold


def _steps(
    currents: Iterator[Tensor], beta: Tensor, threshold: Tensor, reset: str
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Membrane, spikes, and what beta multiplied (None at first)."""
    decay = beta.clamp(0, 1)
    mem: Tensor | None = None
    fired = threshold < 0  # such a threshold lies below the resting membrane
    for current in currents:
        silent = mem
        if mem is None:
            mem = current
        else:
            silent = mem = torch.where(fired, 0, mem) if reset == "zero" else mem
            mem = decay * mem + current
        if reset == "subtract":
            mem = mem - fired.to(mem.dtype) * threshold
        fired = mem > threshold
        yield mem, fired, silent


def added(terms: Rows) -> Tensor:
    """Sum over the steps."""
    whole = terms[0]
    for term in terms[1:]:
        whole = whole + term
    return whole


def total(terms: Rows, like: Tensor) -> Tensor:
    """Sum over the steps, and over the axes along which ``like`` was spread."""
    return added(terms).sum_to_size(like.shape).to(like) if terms else torch.zeros_like(like)
