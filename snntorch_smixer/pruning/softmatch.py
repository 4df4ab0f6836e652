"""What happens to dropped tokens: Softmatch (the paper's default), or dropping, summing, fusing them."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from snntorch_smixer.errors import check_choice
from snntorch_smixer.selection import Selection, take_tokens

MERGES = ("softmatch", "drop", "sum", "fuse")
_RESOLUTION = 2.0**12


def best_match(x: Tensor, kept: Selection) -> Tensor:
    """The kept token that each dropped token resembles most.

    Args:
        x: ``(T', B, N, C)``, all tokens of the kept steps.
        kept: which tokens were kept.

    Returns:
        ``(B, N - N')`` indices into the kept tokens. Cosine similarity over steps and channels, in float32, compared at
        a resolution of 2^-12 so that the rounding of a matrix product does not choose; the first kept token wins a tie.
        Source: the paper names Softmatch without a formula; this is ToMe's bipartite soft matching with SIV choosing
        the two sets. Tokens that are ``alone`` are resembled by none.
    """
    autocast = torch.amp.is_autocast_available(x.device.type)  # false on the meta device
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False) if autocast else nullcontext():
        features = x.detach().float().permute(1, 2, 0, 3).flatten(2)
        features = F.normalize(features, dim=2)
        columns = features.shape[2]
        mine = features.gather(1, kept.tokens[:, :, None].expand(-1, -1, columns))
        lost = features.gather(1, kept.dropped()[:, :, None].expand(-1, -1, columns))
        similarity = (lost @ mine.transpose(1, 2) * _RESOLUTION).round()
        if kept.alone is not None:
            similarity = similarity.masked_fill(kept.alone[:, None], -torch.inf)
        return similarity.argmax(2)


def joined(x: Tensor, kept: Selection) -> Tensor:
    """Which kept token each dropped one joins, as a matrix of ones and zeros ``(B, N', N - N')``; see `best_match`."""
    slots = torch.arange(kept.tokens.shape[1], device=x.device)
    return (best_match(x, kept)[:, None] == slots[:, None]).to(x.dtype)


def merge_dropped(x: Tensor, kept: Selection, merge: str = "softmatch", *, joins: Tensor | None = None) -> Tensor:
    """Pruned tokens: the kept ones, after the dropped ones were merged into them or not.

    Args:
        x: ``(T', B, N, C)``, all tokens of the kept steps.
        kept: which tokens were kept.
        merge: "softmatch": each dropped token joins its most similar kept token, size-weighted mean. "sum": joins it by
            addition. "drop": is lost. "fuse": all dropped ones become one extra token, their mean.
        joins: of `joined` where it was found before, as in a model that takes one step at a time.

    Returns:
        ``(T', B, N', C)``, with N' + 1 tokens for "fuse".

    Examples:
        >>> import torch
        >>> from snntorch_smixer import dstsp
        >>> from snntorch_smixer.dstsp import Selection
        >>> x = torch.tensor([1.0, 2, 3]).view(1, 1, 3, 1)  # (T, B, N, C)
        >>> _, kept = dstsp.DSTSP(dstsp.DSTSPConfig(ps=0.34, t=None))(x, x)
        >>> dstsp.merge_dropped(x, kept, "drop").flatten()
        tensor([2., 3.])
    """
    check_choice("merge_dropped", "merge", merge, MERGES)
    mine = take_tokens(x, kept.tokens)
    if merge == "drop" or not kept.drops_tokens:
        return mine
    lost = take_tokens(x, kept.dropped())
    if merge == "fuse":
        return torch.cat([mine, lost.mean(2, keepdim=True)], 2)
    joins = joined(x, kept) if joins is None else joins
    total = mine + joins @ lost
    if merge == "sum":
        return total
    return total / (1 + joins.sum(2))[None, :, :, None].to(x.dtype)
