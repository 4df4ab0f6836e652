"""Selection: which steps and tokens survived pruning. It travels with the pruned tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

W_PRIMES = ("gather", "crop", "shared")


@dataclass(frozen=True, eq=False)
class Selection:
    """What was kept of ``T`` steps and ``N`` tokens. Immutable; indices are int64 on the tokens' device.

    Attributes:
        steps: ``(B, T')`` kept steps in time order.
        tokens: ``(B, N')`` kept tokens, in the order in which they lie on the token axis: position order, or, for
            ``w_prime="crop"``, busiest first.
        full_steps: ``T`` before pruning.
        full_tokens: ``N`` before pruning.
        w_prime: how ``W_M`` is restricted to the kept tokens, one of `W_PRIMES`.
        rows: ``(N',)`` rows and columns of ``W_M`` drawn for the whole batch (``w_prime="shared"`` in training).
        fused: True when one extra token, the last, stands for all dropped ones (``merge="fuse"``).
        spike_cap: spikes that a neuron may fire over the kept steps, or None for no limit.
        alone: ``(B, N')`` bool, True for kept tokens that nothing is merged into, as class tokens; None for none.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import dstsp
        >>> spikes = torch.tensor([[[1.0, 0, 1]], [[1, 1, 1]]]).transpose(1, 2).unsqueeze(1)  # (T, B, N, C)
        >>> pruned, kept = dstsp.DSTSP(dstsp.DSTSPConfig(ps=0.34, t=1))(spikes, spikes)
        >>> kept.steps, kept.keep_mask()
        (tensor([[1]]), tensor([[ True,  True, False]]))
    """

    steps: Tensor
    tokens: Tensor
    full_steps: int
    full_tokens: int
    w_prime: str = "gather"
    rows: Tensor | None = None
    fused: bool = False
    spike_cap: int | None = None
    alone: Tensor | None = None

    @property
    def num_steps(self) -> int:
        """T', the number of kept steps."""
        return self.steps.shape[1]

    @property
    def num_tokens(self) -> int:
        """Tokens on the token axis after pruning: N', plus one where the dropped ones were fused."""
        return self.tokens.shape[1] + int(self.fused)

    @property
    def drops_tokens(self) -> bool:
        """True when at least one token was dropped."""
        return self.tokens.shape[1] < self.full_tokens

    def all_tokens(self, tokens: int) -> Selection:
        """The same steps with all of ``tokens`` tokens: for a stream of another resolution."""
        every = torch.arange(tokens, device=self.tokens.device).expand(self.tokens.shape[0], tokens)
        return replace(self, tokens=every, full_tokens=tokens, rows=None, fused=False, alone=None)

    def keep_mask(self) -> Tensor:
        """``(B, N)`` bool, True where the token was kept."""
        mask = torch.zeros(self.tokens.shape[0], self.full_tokens, dtype=torch.bool, device=self.tokens.device)
        return mask.scatter(1, self.tokens, torch.ones_like(self.tokens, dtype=torch.bool))  # torch.jit wants a tensor

    def dropped(self) -> Tensor:
        """``(B, N - N')`` dropped tokens in position order."""
        order = self.keep_mask().to(torch.int8).sort(dim=1, stable=True).indices
        return order[:, : self.full_tokens - self.tokens.shape[1]]


def take_steps(x: Tensor, steps: Tensor) -> Tensor:
    """Keep per-sample steps: ``(T, B, ...)`` and ``(B, T')`` to ``(T', B, ...)``."""
    return x[steps.transpose(0, 1), torch.arange(x.shape[1], device=x.device)]


def take_tokens(x: Tensor, tokens: Tensor) -> Tensor:
    """Keep per-sample tokens: ``(T, B, N, C)`` and ``(B, N')`` to ``(T, B, N', C)``."""
    # Indexing keeps only the indices for backward; gather would keep all of x.
    return x[:, torch.arange(x.shape[1], device=x.device)[:, None], tokens]
