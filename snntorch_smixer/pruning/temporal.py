"""Dynamic spiking temporal pruning (DSTP): keep the steps with the highest SIV. Its second half is the spike cap."""

from __future__ import annotations

from torch import Tensor

from snntorch_smixer.errors import SettingError
from snntorch_smixer.kernels.spikes import Spikes
from snntorch_smixer.neurons import cap_spikes as cap_spikes
from snntorch_smixer.pruning.siv import rank, siv


def step_siv(spikes: Tensor | Spikes) -> Tensor:
    """Temporal SIV ``(T, B)`` of tokens ``(T, B, N, C)``, or of maps ``(T, B, C, H, W)`` inside the stem.

    Source: paper, DSTP; I_T = sum over n and c, of maps over c, h and w.
    """
    return siv(spikes, "c h w" if len(spikes.shape) == 5 else "n c")


def choose_steps(scores: Tensor, t: int, ranking: str = "low") -> Tensor:
    """Choose T' = t of the T steps by their SIV ``(T, B)``.

    Args:
        scores: see `step_siv`.
        t: steps to keep, 1..T.
        ranking: see `rank`.

    Returns:
        ``(B, t)`` kept steps, in time order, chosen for each sample alone.

    Raises:
        SettingError: t outside 1..T.
    """
    if not 1 <= t <= scores.shape[0]:
        raise SettingError(
            f"DSTP: t={t} is outside 1..{scores.shape[0]}, the steps that arrive. Keep fewer, or pass None for all."
        )
    return rank(scores.transpose(0, 1), ranking)[:, :t].sort(dim=1).values


def dstp(spikes: Tensor | Spikes, t: int, ranking: str = "low") -> Tensor:
    """`choose_steps` by the SIV of these spikes.

    The spikes of a neuron over the kept steps are limited by `cap_spikes`. Source: paper, DSTP.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import dstsp
        >>> spikes = torch.tensor([0.0, 3, 1]).view(3, 1, 1, 1)  # (T, B, N, C)
        >>> dstsp.dstp(spikes, t=1)
        tensor([[1]])
    """
    return choose_steps(step_siv(spikes), t, ranking)
