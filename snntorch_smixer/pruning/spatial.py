"""Dynamic spiking spatial pruning (DSSP): keep the tokens with the highest SIV."""

from __future__ import annotations

import torch
from torch import Tensor

from snntorch_smixer.pruning.rates import check_rate
from snntorch_smixer.pruning.siv import rank, siv


def tokens_kept(num_tokens: int, ps: float, always: int = 0) -> int:
    """``N' = max(1, round(N * (1 - ps)))``: 64 -> 45 and 196 -> 137 at ps = 0.3. Halves round to even.

    With ``always`` tokens that are never dropped, as a class token, ps is the share of the others.

    Raises:
        SettingError: ps outside [0, 1).

    Examples:
        >>> from snntorch_smixer import dstsp
        >>> dstsp.tokens_kept(49, 0.3)
        34
    """
    check_rate(ps)
    if torch._C._get_tracing_state() is not None:
        num_tokens = int(num_tokens)  # a size is a tensor then
    # range() yields a plain number under torch.compile, which makes a float symbolic, and N' with it, once ps changed.
    return always + max(1, len(range(round((num_tokens - always) * (1 - ps)))))


def dssp(spikes: Tensor, ps: float, ranking: str = "low") -> Tensor:
    """Choose N' = N (1 - ps) tokens by spatial SIV, summed over the steps: all steps share one token set.

    Args:
        spikes: ``(T', B, N, C)``, of the kept steps.
        ps: share of tokens to drop, in [0, 1).
        ranking: see `rank`.

    Returns:
        ``(B, N')`` kept tokens, first kept first (busiest first for ``ranking="low"``). Source: paper, DSSP; I_S.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import dstsp
        >>> spikes = torch.tensor([0.0, 3, 1, 2]).view(1, 1, 4, 1)  # (T, B, N, C)
        >>> dstsp.dssp(spikes, ps=0.5)
        tensor([[1, 3]])
    """
    keep = tokens_kept(spikes.shape[2], ps)
    return rank(siv(spikes, "t c"), ranking)[:, :keep]
