"""Spikformer V2, of which no code is public: the stem of the paper (strided convolutions, no pooling), blocks of V1."""

from torch import Tensor, nn

from tests.fakes.neurons import MultiStepLIF
from tests.fakes.parts import per_step
from tests.fakes.spikformer import Block, ConvMLP, ConvSSA


class SCSStage(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(outside)
        self.lif = MultiStepLIF()

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(per_step(x, self.conv, self.bn))


class SCS(nn.Module):
    """Spiking convolutional stem; its output is binary, (T, B, C, H/4, W/4)."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.stages = nn.Sequential(SCSStage(in_channels, dim // 2), SCSStage(dim // 2, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)


class MapSSA(ConvSSA):
    """A map in and out; q (k^T v)."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(3)
        q, k, v = (self.heads(flat, name) for name in ("q", "k", "v"))
        return self.project(q @ (k.transpose(-2, -1) @ v) * self.scale).reshape(x.shape)


class SpikformerV2(nn.Module):
    def __init__(self, T: int = 4, dim: int = 24, num_heads: int = 3, depth: int = 2, num_classes: int = 5) -> None:
        super().__init__()
        self.T, self.num_classes = T, num_classes
        self.patch_embed = SCS(3, dim)
        self.block = nn.ModuleList(
            Block(dim, MapSSA(dim, num_heads, 0.125), ConvMLP(dim, 4 * dim)) for _ in range(depth)
        )
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1))
        for block in self.block:
            x = block(x)
        return self.head(x.flatten(3).mean(3).mean(0))
