"""Spike-Driven Transformer, version 2: convolutional stages, then attention whose q, k and v are convolutions too."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.fakes.neurons import MultiStepLIF
from tests.fakes.parts import per_step


class BNAndPadLayer(nn.Module):
    """BatchNorm, then a border of what BatchNorm makes of 0."""

    def __init__(self, pad: int, channels: int) -> None:
        super().__init__()
        self.bn, self.pad = nn.BatchNorm2d(channels), pad

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bn
        border = bn.bias - bn.running_mean * bn.weight / torch.sqrt(bn.running_var + bn.eps)
        inside = F.pad(bn(x), [self.pad] * 4)
        outside = 1 - F.pad(torch.ones_like(x[:1, :1]), [self.pad] * 4)
        return inside + border.view(1, -1, 1, 1) * outside


class RepConv(nn.Module):
    """Quirk: a 3x3 depthwise convolution inside what looks like a projection, so it needs true neighbours."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(dim, dim, 1, bias=False),
            BNAndPadLayer(1, dim),
            nn.Sequential(
                nn.Conv2d(dim, dim, 3, groups=dim, bias=False), nn.Conv2d(dim, dim, 1, bias=False), nn.BatchNorm2d(dim)
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class SepConv(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lif1, self.pwconv1, self.bn1 = (
            MultiStepLIF(),
            nn.Conv2d(dim, 2 * dim, 1, bias=False),
            nn.BatchNorm2d(2 * dim),
        )
        self.lif2 = MultiStepLIF()
        self.dwconv = nn.Conv2d(2 * dim, 2 * dim, 3, padding=1, groups=2 * dim, bias=False)
        self.pwconv2, self.bn2 = nn.Conv2d(2 * dim, dim, 1, bias=False), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = per_step(self.lif1(x), self.pwconv1, self.bn1)
        return per_step(self.lif2(x), self.dwconv, self.pwconv2, self.bn2)


class MS_ConvBlock(nn.Module):  # noqa: N801 - the name upstream
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.Conv = SepConv(dim)
        self.lif1, self.conv1 = MultiStepLIF(), nn.Conv2d(dim, 2 * dim, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(2 * dim)
        self.lif2, self.conv2 = MultiStepLIF(), nn.Conv2d(2 * dim, dim, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv(x) + x
        hidden = per_step(self.lif1(x), self.conv1, self.bn1)
        return x + per_step(self.lif2(hidden), self.conv2, self.bn2)


class MS_DownSampling(nn.Module):  # noqa: N801 - the name upstream
    def __init__(self, inside: int, outside: int, kernel: int = 3, stride: int = 2, first_layer: bool = False) -> None:
        super().__init__()
        self.encode_conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2)
        self.encode_bn = nn.BatchNorm2d(outside)
        if not first_layer:
            self.encode_lif = MultiStepLIF()

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "encode_lif"):
            x = self.encode_lif(x)
        return per_step(x, self.encode_conv, self.encode_bn)


class MS_Attention_RepConv_qkv_id(nn.Module):  # noqa: N801 - the name upstream
    """q (k^T v) on maps. Quirks: the input neuron is inside, and there is none after the projection."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.dim, self.num_heads, self.scale = dim, num_heads, 0.125
        self.head_lif = MultiStepLIF()
        for name in ("q", "k", "v", "proj"):
            setattr(self, f"{name}_conv", nn.Sequential(RepConv(dim), nn.BatchNorm2d(dim)))
        self.q_lif, self.k_lif, self.v_lif = MultiStepLIF(), MultiStepLIF(), MultiStepLIF()
        self.attn_lif = MultiStepLIF(v_threshold=0.5)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.head_lif(x)
        q, k, v = (
            lif(per_step(spikes, conv)).flatten(3).unflatten(2, (self.num_heads, -1)).transpose(-1, -2)
            for conv, lif in ((self.q_conv, self.q_lif), (self.k_conv, self.k_lif), (self.v_conv, self.v_lif))
        )
        out = (q @ (k.transpose(-2, -1) @ v)) * self.scale
        out = self.attn_lif(out.transpose(3, 4).flatten(2, 3))
        return per_step(out.reshape(x.shape), self.proj_conv)


class MS_MLP(nn.Module):  # noqa: N801 - the name upstream
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1_lif, self.fc1_conv, self.fc1_bn = MultiStepLIF(), nn.Conv1d(dim, hidden, 1), nn.BatchNorm1d(hidden)
        self.fc2_lif, self.fc2_conv, self.fc2_bn = MultiStepLIF(), nn.Conv1d(hidden, dim, 1), nn.BatchNorm1d(dim)
        self.c_hidden, self.c_output = hidden, dim

    def forward(self, x: Tensor) -> Tensor:
        hidden = per_step(self.fc1_lif(x.flatten(3)), self.fc1_conv, self.fc1_bn)
        return per_step(self.fc2_lif(hidden), self.fc2_conv, self.fc2_bn).reshape(x.shape)


class MS_Block(nn.Module):  # noqa: N801 - the name upstream
    """Membrane residuals. Quirk: drop_path is never used."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attn = MS_Attention_RepConv_qkv_id(dim, num_heads)
        self.drop_path = nn.Identity()
        self.mlp = MS_MLP(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class Spiking_vit_MetaFormer(nn.Module):  # noqa: N801 - the name upstream
    """16 tokens of a 64x64 image. Quirks: T is 1 until the caller sets it, heads of two widths, kd gives two logits."""

    def __init__(self, dims: tuple[int, ...] = (12, 16, 24, 30), num_heads: int = 3, kd: bool = False) -> None:
        super().__init__()
        a, b, c, d = dims
        self.T, self.num_classes, self.kd = 1, 5, kd
        self.downsample1_1 = MS_DownSampling(3, a // 2, 7, first_layer=True)
        self.ConvBlock1_1 = nn.ModuleList([MS_ConvBlock(a // 2)])
        self.downsample1_2 = MS_DownSampling(a // 2, a)
        self.ConvBlock1_2 = nn.ModuleList([MS_ConvBlock(a)])
        self.downsample2 = MS_DownSampling(a, b)
        self.ConvBlock2_1 = nn.ModuleList([MS_ConvBlock(b)])
        self.ConvBlock2_2 = nn.ModuleList([MS_ConvBlock(b)])
        self.downsample3 = MS_DownSampling(b, c)
        self.block3 = nn.ModuleList(MS_Block(c, num_heads) for _ in range(2))
        self.downsample4 = MS_DownSampling(c, d, 3, 1)  # quirk: 3x3 between the two attention stages
        self.block4 = nn.ModuleList([MS_Block(d, num_heads)])
        self.lif = MultiStepLIF()
        self.head = nn.Linear(d, self.num_classes)
        if kd:
            self.head_kd = nn.Linear(d, self.num_classes)

    def features(self, x: Tensor) -> Tensor:
        for stage in (
            *(self.downsample1_1, *self.ConvBlock1_1, self.downsample1_2, *self.ConvBlock1_2),
            *(self.downsample2, *self.ConvBlock2_1, *self.ConvBlock2_2),
            *(self.downsample3, *self.block3, self.downsample4, *self.block4),
        ):
            x = stage(x)
        return x

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.features(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1))
        x = self.lif(x.flatten(3).mean(3))  # quirk: the last neuron comes after the token mean
        out = self.head(x).mean(0)
        if not self.kd:
            return out
        other = self.head_kd(x).mean(0)
        return (out, other) if self.training else (out + other) / 2
