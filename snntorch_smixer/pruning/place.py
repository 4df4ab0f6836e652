"""Where DSTP drops steps: behind the stem, or at a neuron inside it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from snntorch_smixer.kernels.spikes import Spikes
from snntorch_smixer.pruning.temporal import choose_steps, step_siv
from snntorch_smixer.selection import Selection

PLACES = ("stem", "lif4", "lif3", "lif2", "lif1")
"""Behind the stem, as in the paper, or at the k-th neuron inside it, ``"lifk"``: the later, the closer to the paper."""


def unit_of(place: str) -> int:
    """The unit of the stem whose neuron chooses: 1 for "lif1" to 4 for "lif4", 0 for "stem"."""
    return 0 if place == "stem" else int(place.removeprefix("lif"))


@dataclass(eq=False)
class StepChoice:
    """One choice of steps by the spikes of one neuron: made for one call, it says afterwards what it chose.

    Attributes:
        unit: the unit of the stem whose neuron's spikes it is called with; see `unit_of`.
        tokens: N behind the stem, none of which is dropped here.
        t: steps to keep, 1..T.
        ranking: see `snntorch_smixer.pruning.siv.rank`.
        w_prime: of the `Selection`.
        spike_cap: of the `Selection`; neurons from this one on fire at most so many spikes over the kept steps.
        siv: what it ranked by, ``(T, B)``; None before the call.
        kept: what it chose; None before the call.
    """

    unit: int
    tokens: int
    t: int
    ranking: str
    w_prime: str
    spike_cap: int | None
    siv: Tensor | None = field(default=None, init=False)
    kept: Selection | None = field(default=None, init=False)

    def __call__(self, spikes: Tensor | Spikes) -> Tensor:
        """Kept steps ``(B, T')`` in time order, by SIV of tokens ``(T, B, N, C)`` or maps ``(T, B, C, H, W)``.

        Raises:
            SettingError: t is larger than T.
        """
        with torch.no_grad():
            return self.choose(step_siv(spikes))

    def choose(self, scores: Tensor) -> Tensor:
        """Kept steps ``(B, T')`` by SIV of each step, ``(T, B)``."""
        self.siv = scores
        steps = choose_steps(scores, self.t, self.ranking)
        every = torch.arange(self.tokens, device=steps.device).expand(steps.shape[0], self.tokens)
        self.kept = Selection(
            steps, every, scores.shape[0], self.tokens, w_prime=self.w_prime, spike_cap=self.spike_cap
        )
        return steps
