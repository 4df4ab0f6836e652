"""Spike intensity value (SIV), and the ranking by it."""

from __future__ import annotations

import torch
from torch import Tensor

from snntorch_smixer import shapes
from snntorch_smixer.errors import check_choice
from snntorch_smixer.kernels.spikes import Spikes

RANKINGS = ("low", "high", "random")


def siv(spikes: Tensor | Spikes, over: str) -> Tensor:
    """Spike intensity value: spikes summed over the named axes of tokens ``(T, B, N, C)`` or maps ``(T, B, C, H, W)``.

    ``over="c"`` gives one value per token, ``(T, B, N)``; ``over="n c"`` one per step, ``(T, B)``, and so does
    ``over="c h w"`` of maps; ``over="t c"`` one per token over all steps, ``(B, N)``. Sums are float32 and so exact up
    to 2^24 spikes, also under autocast. Spikes that carry bits are counted on the bits. Source: paper, SIV; I_S, I_T.

    Raises:
        LayoutError: neither tokens nor maps, or an axis that they do not have.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import dstsp
        >>> spikes = torch.ones(2, 1, 3, 4)  # (T, B, N, C)
        >>> dstsp.siv(spikes, "t c")  # per token
        tensor([[8., 8., 8.]])
    """
    is_map = len(spikes.shape) == 5
    if not is_map and isinstance(spikes, Tensor):
        shapes.check_tokens("siv", spikes)
    axes = [shapes.axis(a, shapes.MAP_AXES if is_map else shapes.TOKEN_AXES) for a in over.split()]
    if isinstance(spikes, Spikes):
        return spikes.count(tuple(axes)).to(torch.float32)
    return spikes.sum(axes, dtype=torch.float32)


def rank(scores: Tensor, ranking: str = "low") -> Tensor:
    """Order in which regions are kept, first kept first: ``(B, M)`` scores to ``(B, M)`` indices.

    Args:
        scores: SIV per region, one row per sample. A row's order depends on that row alone.
        ranking: what is pruned first: "low" SIV (the paper's LP), "high" SIV (HP), or "random" regions (RP; one draw
            for the whole batch from torch's generator, so that a batch-mate never changes a result). Equal scores keep
            the lowest index first.
    """
    check_choice("rank", "ranking", ranking, RANKINGS)
    if ranking == "random":
        draw = torch.randperm(scores.shape[1], device=scores.device)
        return draw.expand(scores.shape)
    return scores.sort(dim=1, descending=ranking == "low", stable=True).indices
