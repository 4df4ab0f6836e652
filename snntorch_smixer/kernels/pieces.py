"""BatchNorm and LIF a piece at a time, in memory that is there already: for a lower peak."""

from __future__ import annotations

import torch
from torch import Tensor

from snntorch_smixer.kernels.batch_norm import NormCall, norm_backward
from snntorch_smixer.kernels.fire import Firing, Grads, fire_backward, fire_forward
from snntorch_smixer.kernels.norm_fire import show

_FINER = 4
"""BatchNorm's pieces are smaller than the LIF's: they cost nothing, and each of them is there three times over."""


def spans(total: int, pieces: int) -> list[slice]:
    """At most ``pieces`` slices of nearly equal length that cover ``range(total)``; one empty slice where it is 0."""
    size = max(1, -(-total // pieces))
    return [slice(start, min(start + size, total)) for start in range(0, max(1, total), size)]


def fire_in_pieces(y: Tensor, neuron: Firing, steps: int, pieces: int) -> Tensor:
    """`fire.fire_forward` of ``y`` shown for ``steps`` steps, on a few samples at a time.

    Args:
        y: input current, ``(T, B, ...)``, or of one step; its memory takes the spikes where they fit.
        neuron: as there.
        steps: of the result.
        pieces: how many to make, at most one per sample; 1 leaves ``y`` alone.
    """
    shown = show("recompute_unit", y, steps)
    if pieces == 1:
        return fire_forward(shown, neuron)
    out = y if steps == y.shape[0] else y.new_empty(shown.shape)
    for span in _samples(y, neuron, pieces):
        out[:, span] = fire_forward(shown[:, span], neuron)
    return out


def fire_backward_in_pieces(y: Tensor, grad: Tensor, neuron: Firing, needs: tuple[bool, bool], pieces: int) -> Grads:
    """`fire.fire_backward` of ``y`` shown for the steps of ``grad``, on a few samples at a time.

    Args:
        y: input current, ``(T, B, ...)``, or of one step; its memory takes its gradient.
        grad: as there.
        neuron: as there.
        needs: as there.
        pieces: how many to make, at most one per sample.
    """
    shown = show("recompute_unit", y, grad.shape[0])
    if pieces == 1 and shown.shape == y.shape:
        return fire_backward(y, grad, neuron, needs, overwrite=True)
    by_beta: Tensor | None = None
    by_threshold: Tensor | None = None
    for span in _samples(y, neuron, pieces):
        by_y, of_beta, of_threshold = fire_backward(shown[:, span], grad[:, span], neuron, needs)
        by_beta, by_threshold = _sum(by_beta, of_beta), _sum(by_threshold, of_threshold)
        y[:, span] = by_y if shown.shape == y.shape else by_y.sum(0, keepdim=True)
        del by_y  # or it would lie beside the next one
    return y, by_beta, by_threshold


def norm_backward_in_pieces(
    grad: Tensor,
    z: Tensor,
    weight: Tensor | None,
    call: NormCall,
    kept: tuple[Tensor | None, Tensor | None, tuple[bool, bool, bool]],
    pieces: int,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`norm_fire.norm_backward` on a few channels at a time: the same sums in the same order for each of them.

    Args:
        grad: as there.
        z: as there; its memory takes its gradient.
        weight: as there.
        call: as there.
        kept: as there.
        pieces: how many to make, at most one per channel; 1 leaves ``z`` alone.
    """
    if pieces == 1:
        return norm_backward(grad, z, weight, call, kept)
    first, second, wanted = kept
    found: list[list[Tensor]] = [[], []]
    for span in spans(z.shape[1], _FINER * pieces):
        own, mean, scale = (None if t is None else t[span] for t in (weight, first, second))
        mine = grad[:, span].contiguous() if grad.is_contiguous() else grad[:, span]
        part = norm_backward(mine, z[:, span].contiguous(), own, call, (mean, scale, wanted))
        for sums, new in zip(found, part[1:], strict=True):
            sums += [] if new is None else [new]
        if part[0] is not None:
            z[:, span] = part[0]
        del part  # or it would lie beside the next one
    by_weight, by_bias = (torch.cat(sums) if sums else None for sums in found)
    return z if wanted[0] else None, by_weight, by_bias


def _sum(total: Tensor | None, new: Tensor | None) -> Tensor | None:
    return new if total is None or new is None else total + new


def _samples(y: Tensor, neuron: Firing, pieces: int) -> list[slice]:
    # Parameters of each sample's own are not cut up.
    own = any(p.dim() == y.dim() - 1 and p.shape[0] > 1 for p in (neuron.beta, neuron.threshold))
    return spans(y.shape[1], 1 if own else pieces)
