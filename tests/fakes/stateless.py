"""A tiny spiking transformer of no family that keeps nothing between calls, so that threads may share it."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from snntorch_smixer import LIF


class Attention(nn.Module):
    """Q, K and V of one projection, residual inside; tokens (T, B, N, C)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv = heads, nn.Linear(dim, 3 * dim)
        self.lif, self.out = LIF(0.5), LIF(0.5, threshold=0.2)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.lif(self.qkv(x)).unflatten(3, (3, self.heads, -1))
        q, k, v = spikes.permute(3, 0, 1, 4, 2, 5)
        return x + self.out((q @ k.mT @ v).transpose(2, 3).flatten(3))


class Stateless(nn.Module):
    """Pictures (B, 3, 12, 8) in four steps and six tokens to (B, 5).

    Args:
        depth: blocks.
        again: run each block again in the backward pass.
    """

    def __init__(self, depth: int = 2, *, again: bool = False) -> None:
        super().__init__()
        self.again = again
        self.stem, self.lif, self.head = nn.Conv2d(3, 8, 4, 4), LIF(0.5, threshold=0.1), nn.Linear(8, 5)
        self.blocks = nn.Sequential(*(Attention(8, 2) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        x = self.lif(x.expand(4, *x.shape))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.again else block(x)
        return self.head(x.mean((0, 2)))


def pictures(batch: int = 2) -> Tensor:
    """Input of `Stateless`."""
    return torch.rand(batch, 3, 12, 8)
