"""DSTSP: temporal pruning, then spatial pruning, then merging, as one module without parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.errors import LayoutError, SettingError, check_choice, is_count
from snntorch_smixer.pruning.siv import RANKINGS
from snntorch_smixer.pruning.softmatch import MERGES, merge_dropped
from snntorch_smixer.pruning.spatial import dssp, tokens_kept
from snntorch_smixer.pruning.temporal import dstp
from snntorch_smixer.selection import W_PRIMES, Selection, take_steps

ACTIVE = ("both", "train", "eval", "never")


@dataclass(frozen=True)
class DSTSPConfig:
    """Settings of DSTSP; the defaults are the paper's for classification.

    Attributes:
        ps: share of tokens to drop, in [0, 1).
        t: steps to keep, 1..T; None keeps all.
        merge: what becomes of dropped tokens: "softmatch", "drop", "sum" or "fuse".
        ranking: what is pruned first: "low", "high" or "random" SIV (LP, HP, RP in the paper).
        w_prime: how ``W_M`` meets the kept tokens. "gather": token i keeps row and column i, so ps may change at any
            time. "crop": tokens in SIV order against ``W_M[:N', :N']``. "shared": in training one random sorted set of
            N' rows and columns for the batch; at inference each token has its own row and column again.
        spike_cap: spikes that each neuron behind the pruning may fire over the kept steps; None for no limit.
        active: prune in "train", "eval", "both" or "never".
    """

    ps: float = 0.3
    t: int | None = 1
    merge: str = "softmatch"
    ranking: str = "low"
    w_prime: str = "gather"
    spike_cap: int | None = None
    active: str = "both"

    def __post_init__(self) -> None:
        tokens_kept(1, self.ps)
        for name in ("t", "spike_cap"):
            value = getattr(self, name)
            if value is not None and not is_count(value):
                raise SettingError(
                    f"DSTSP: {name}={value!r} must be a whole number of at least 1, or None for no limit."
                )
        check_choice("DSTSP", "merge", self.merge, MERGES)
        check_choice("DSTSP", "ranking", self.ranking, RANKINGS)
        check_choice("DSTSP", "w_prime", self.w_prime, W_PRIMES)
        check_choice("DSTSP", "active", self.active, ACTIVE)
        if self.w_prime == "crop" and self.active in ("train", "eval"):
            raise SettingError(
                f"DSTSP: w_prime='crop' gives W_M another meaning (row i is the i-th busiest token), so it cannot be "
                f"active={self.active!r} only. Pass active='both', or w_prime='gather'."
            )


class _Setting:
    """A field of ``self.settings`` that can be read and set on the module, validated."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        return self if module is None else getattr(module.settings, self.name)

    def __set__(self, module: Any, value: Any) -> None:
        module.settings = replace(module.settings, **{self.name: value})


class DSTSP(nn.Module):
    """Dynamic Spatial-Temporal Spiking Pruning: ``(tokens, spikes)`` in, fewer tokens and their `Selection` out.

    No parameters, no buffers: a state dict does not change. Every setting can be changed at any time, for example
    ``net.dstsp.ps = 0.2``. Source: paper, DSTSP = DSTP then DSSP, placed after the stem.

    Args:
        settings: see `DSTSPConfig`.
    """

    ps, t, merge, ranking, w_prime, spike_cap, active = (_Setting() for _ in range(7))

    def __init__(self, settings: DSTSPConfig | None = None) -> None:
        super().__init__()
        self.settings = DSTSPConfig() if settings is None else settings

    def is_active(self) -> bool:
        """True when the settings let it prune in this mode, training or evaluation."""
        return self.settings.active in ("both", "train" if self.training else "eval")

    def prunes(self, x: Tensor) -> bool:
        """True when a call on tokens ``x`` would change anything; else it gives back ``(x, None)``."""
        s, (steps, _, tokens, _) = self.settings, x.shape
        everything = s.t in (None, steps) and tokens_kept(tokens, s.ps) == tokens and s.spike_cap is None
        return self.is_active() and not everything

    def forward(self, x: Tensor, spikes: Tensor) -> tuple[Tensor, Selection | None]:
        """Prune.

        Args:
            x: tokens ``(T, B, N, C)``, the stream to prune.
            spikes: ``(T, B, N, C')``, where SIV is taken: ``x`` itself when it is spikes.

        Returns:
            Pruned tokens ``(T', B, N', C)`` and what was kept; ``(x, None)`` when there is nothing to do.

        Raises:
            LayoutError: ``x`` or ``spikes`` is no token tensor, or they disagree.
            SettingError: t is larger than the number of steps.
        """
        shapes.check_tokens("DSTSP", x)
        if x.shape[:3] != spikes.shape[:3]:
            raise LayoutError(f"DSTSP: tokens {tuple(x.shape)} and spikes {tuple(spikes.shape)} differ in T, B or N.")
        if not self.prunes(x):
            return x, None
        chosen, steps, spikes = self.settings, x.shape[0], spikes.detach()
        t = steps if chosen.t is None else chosen.t
        kept_steps = dstp(spikes, t, chosen.ranking)
        if t < steps:
            x, spikes = take_steps(x, kept_steps), take_steps(spikes, kept_steps)
        kept = self._select(spikes, kept_steps, steps)
        return (merge_dropped(x, kept, chosen.merge) if kept.drops_tokens else x), kept

    def _select(self, spikes: Tensor, kept_steps: Tensor, full_steps: int) -> Selection:
        chosen, tokens = self.settings, spikes.shape[2]
        order = dssp(spikes, chosen.ps, chosen.ranking)
        drops = order.shape[1] < tokens
        fused = drops and chosen.merge == "fuse"
        rows = None
        if drops and chosen.w_prime == "shared" and self.training:
            draw = torch.randperm(tokens, device=spikes.device)
            rows = draw[: order.shape[1] + int(fused)].sort().values
        return Selection(
            steps=kept_steps,
            tokens=order if drops and chosen.w_prime == "crop" else order.sort(dim=1).values,
            full_steps=full_steps,
            full_tokens=tokens,
            w_prime=chosen.w_prime,
            rows=rows,
            fused=fused,
            spike_cap=chosen.spike_cap,
        )

    def extra_repr(self) -> str:
        """All settings, for ``print(model)``."""
        s = self.settings
        return (
            f"ps={s.ps:g}, t={s.t}, merge={s.merge}, ranking={s.ranking}, w_prime={s.w_prime}, "
            f"spike_cap={s.spike_cap}, active={s.active}"
        )
