"""Dynamic spiking temporal pruning (DSTP): keep the steps with the highest SIV. Its second half is the spike cap."""

from __future__ import annotations

from torch import Tensor

from snntorch_smixer.errors import SettingError
from snntorch_smixer.neurons import cap_spikes as cap_spikes
from snntorch_smixer.pruning.siv import rank, siv


def dstp(spikes: Tensor, t: int, ranking: str = "low") -> Tensor:
    """Choose T' = t of the T steps by temporal SIV.

    Args:
        spikes: ``(T, B, N, C)``.
        t: steps to keep, 1..T.
        ranking: see `rank`.

    Returns:
        ``(B, t)`` kept steps, in time order, chosen for each sample alone. Source: paper, DSTP; I_T = sum over n and c.
        The spikes of a neuron over the kept steps are limited by `cap_spikes`.

    Raises:
        SettingError: t outside 1..T.
    """
    if not 1 <= t <= spikes.shape[0]:
        raise SettingError(
            f"DSTP: t={t} is outside 1..{spikes.shape[0]}, the steps that arrive. Keep fewer, or pass None for all."
        )
    return rank(siv(spikes, "n c").transpose(0, 1), ranking)[:, :t].sort(dim=1).values
