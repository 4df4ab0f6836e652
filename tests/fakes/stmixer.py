"""STMixer: no attention but a matrix per head, on (T*B, C, N) with the steps outside and T stored everywhere."""

import torch
from torch import Tensor, nn

from tests.fakes.neurons import StoredTLIF


class ExpandTime(nn.Module):
    """(B, ...) -> (T*B, ...), all samples of step 0 first."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = T

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0).repeat(self.T, *[1] * x.dim()).flatten(0, 1)


class SPSV2(nn.Module):
    """Five convolutions without pooling for 7/8 of the channels, one without spikes for the rest; real values out."""

    def __init__(self, T: int, in_channels: int, dim: int) -> None:
        super().__init__()
        main = dim * 7 // 8
        layers: list[nn.Module] = []
        for inside, stride in zip((in_channels, main, main, main, main), (1, 1, 1, 2, 2), strict=True):
            layers += [nn.Conv2d(inside, main, 3, stride, 1, bias=False), nn.BatchNorm2d(main), StoredTLIF(T)]
        self.proj = nn.Sequential(*layers[:-1])
        self.short = nn.Conv2d(in_channels, dim - main, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.proj(x), self.short(x)), 1).flatten(-2)


class STM(nn.Module):
    """One matrix (N, N) per head, over the tokens of its channels: y = x W^T."""

    def __init__(self, num_token: int, feature_dim: int, num_head: int) -> None:
        super().__init__()
        self.num_head, self.feature_dim = num_head, feature_dim
        self.linear_mix = nn.ModuleList(nn.Linear(num_token, num_token, bias=False) for _ in range(num_head))
        for linear in self.linear_mix:
            nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.feature_dim // self.num_head, dim=1)
        return torch.cat([linear(part) for linear, part in zip(self.linear_mix, parts, strict=True)], 1)


def _lif_conv(T: int, inside: int, outside: int) -> list[nn.Module]:
    return [StoredTLIF(T), nn.Conv1d(inside, outside, 1, bias=False), nn.BatchNorm1d(outside)]


class TokenMixer(nn.Module):
    """Quirk: no BatchNorm between the matrix and the neuron that follows."""

    def __init__(self, T: int, num_token: int, dim: int, num_head: int) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(*_lif_conv(T, dim, dim), StoredTLIF(T))
        self.attn = STM(num_token, dim, num_head)
        self.fc2 = nn.Sequential(*_lif_conv(T, dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.attn(self.fc1(x)))


class ChannelMixer(nn.Module):
    def __init__(self, T: int, dim: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(*_lif_conv(T, dim, dim * ratio))
        self.fc2 = nn.Sequential(*_lif_conv(T, dim * ratio, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x))


class Encoder(nn.Module):
    """Membrane residuals."""

    def __init__(self, token_mix: nn.Module, channel_mix: nn.Module) -> None:
        super().__init__()
        self.token_mix, self.channel_mix = token_mix, channel_mix

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token_mix(x)
        return x + self.channel_mix(x)


class STMixerV3(nn.Module):
    """16 tokens of a 16x16 image. Quirk: the head splits by the stored T, whatever came."""

    def __init__(self, T: int = 4, dim: int = 24, num_head: int = 3, depth: int = 2, num_classes: int = 5) -> None:
        super().__init__()
        self.T, self.num_classes = T, num_classes
        self.expand = ExpandTime(T)
        self.patch_embd = SPSV2(T, 3, dim)
        self.block = nn.ModuleList(
            Encoder(TokenMixer(T, 16, dim, num_head), ChannelMixer(T, dim, 4)) for _ in range(depth)
        )
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embd(self.expand(x))
        for block in self.block:
            x = block(x)
        x = x.mean(-1)
        return self.head(x.reshape(self.T, -1, x.shape[-1])).mean(0)
