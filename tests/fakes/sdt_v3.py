"""Spike-Driven Transformer, version 3: integer neurons instead of time; the base and the large model."""

import torch
from torch import Tensor, nn

from tests.fakes.neurons import MultiSpike, Multispike
from tests.fakes.parts import DropPath, per_step


def _conv_bn(inside: int, outside: int, kernel: int = 1, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))


class SepConv_Spike(nn.Module):  # noqa: N801 - the name upstream
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.spike1, self.pwconv1 = MultiSpike(), _conv_bn(dim, 2 * dim)
        self.spike2, self.dwconv = MultiSpike(), _conv_bn(2 * dim, 2 * dim, 3, groups=2 * dim)
        self.spike3, self.pwconv2 = MultiSpike(), _conv_bn(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pwconv1(self.spike1(x))
        return self.pwconv2(self.spike3(self.dwconv(self.spike2(x))))


class MS_ConvBlock_spike_SepConv(nn.Module):  # noqa: N801 - the name upstream
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.Conv = SepConv_Spike(dim)
        self.spike1, self.conv1, self.bn1 = MultiSpike(), nn.Conv2d(dim, 2 * dim, 3, padding=1), nn.BatchNorm2d(2 * dim)
        self.spike2, self.conv2, self.bn2 = MultiSpike(), nn.Conv2d(2 * dim, dim, 3, padding=1), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv(x) + x
        hidden = self.bn1(self.conv1(self.spike1(x)))
        return x + self.bn2(self.conv2(self.spike2(hidden)))


class MS_DownSampling(nn.Module):  # noqa: N801 - the name upstream
    def __init__(self, inside: int, outside: int, kernel: int = 3, stride: int = 2, first_layer: bool = False) -> None:
        super().__init__()
        self.encode_conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2)
        self.encode_bn = nn.BatchNorm2d(outside)
        if not first_layer:
            self.encode_spike = MultiSpike()

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "encode_spike"):
            x = self.encode_spike(x)
        return self.encode_bn(self.encode_conv(x))


class MS_Attention_linear(nn.Module):  # noqa: N801 - the name upstream
    """(B, C, H, W) in and out. Quirks: quadratic despite the name, (q k^T) v, and v is four times as wide as x."""

    def __init__(self, dim: int, num_heads: int, lamda_ratio: int = 4) -> None:
        super().__init__()
        self.dim, self.num_heads, self.lamda_ratio = dim, num_heads, lamda_ratio
        self.scale = (dim // num_heads) ** -0.5
        self.head_spike = MultiSpike()
        self.q_conv, self.q_spike = _conv_bn(dim, dim), MultiSpike()
        self.k_conv, self.k_spike = _conv_bn(dim, dim), MultiSpike()
        self.v_conv, self.v_spike = _conv_bn(dim, dim * lamda_ratio), MultiSpike()
        self.attn_spike = MultiSpike()
        self.proj_conv = _conv_bn(dim * lamda_ratio, dim)

    def heads(self, x: Tensor) -> Tensor:
        return x.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(-1, -2)  # (B, h, N, d)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.head_spike(x)
        q = self.heads(self.q_spike(self.q_conv(spikes)))
        k = self.heads(self.k_spike(self.k_conv(spikes)))
        v = self.heads(self.v_spike(self.v_conv(spikes)))
        out = ((q @ k.transpose(-2, -1)) @ v) * (self.scale * 2)
        out = self.attn_spike(out.transpose(2, 3).flatten(1, 2))
        return self.proj_conv(out.unflatten(-1, x.shape[-2:]))


class MS_MLP(nn.Module):  # noqa: N801 - the name upstream
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1_spike, self.fc1_conv, self.fc1_bn = MultiSpike(), nn.Conv1d(dim, hidden, 1), nn.BatchNorm1d(hidden)
        self.fc2_spike, self.fc2_conv, self.fc2_bn = MultiSpike(), nn.Conv1d(hidden, dim, 1), nn.BatchNorm1d(dim)
        self.c_hidden, self.c_output = hidden, dim

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1_bn(self.fc1_conv(self.fc1_spike(x.flatten(2))))
        return self.fc2_bn(self.fc2_conv(self.fc2_spike(hidden))).reshape(x.shape)


class MS_Block_Spike_SepConv(nn.Module):  # noqa: N801 - the name upstream
    """Quirk: a 3x3 convolution, with a residual of its own, before the attention of every block."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.conv = SepConv_Spike(dim)
        self.attn = MS_Attention_linear(dim, num_heads)
        self.drop_path = nn.Identity()
        self.mlp = MS_MLP(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.conv(x)
        x = x + self.attn(x)
        return x + self.mlp(x)


class Stages(nn.Module):
    """What the base and the large model share: four times half the size, convolutions between."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        a, b, c = dims[:3]
        self.downsample1_1 = MS_DownSampling(3, a // 2, 7, first_layer=True)
        self.ConvBlock1_1 = nn.ModuleList([MS_ConvBlock_spike_SepConv(a // 2)])
        self.downsample1_2 = MS_DownSampling(a // 2, a)
        self.ConvBlock1_2 = nn.ModuleList([MS_ConvBlock_spike_SepConv(a)])
        self.downsample2 = MS_DownSampling(a, b)
        self.ConvBlock2_1 = nn.ModuleList([MS_ConvBlock_spike_SepConv(b)])
        self.ConvBlock2_2 = nn.ModuleList([MS_ConvBlock_spike_SepConv(b)])
        self.downsample3 = MS_DownSampling(b, c)

    def stem(self, x: Tensor) -> Tensor:
        for stage in (
            *(self.downsample1_1, *self.ConvBlock1_1, self.downsample1_2, *self.ConvBlock1_2),
            *(self.downsample2, *self.ConvBlock2_1, *self.ConvBlock2_2, self.downsample3),
        ):
            x = stage(x)
        return x


class Spiking_vit_MetaFormer_Spike_SepConv(Stages):  # noqa: N801 - the name upstream
    """The base model, 16 tokens of a 64x64 image. Quirk: no time axis anywhere."""

    def __init__(self, dims: tuple[int, ...] = (12, 16, 24, 30), num_heads: int = 3) -> None:
        super().__init__(dims)
        c, d = dims[2:]
        self.num_classes = 5
        self.block3 = nn.ModuleList(MS_Block_Spike_SepConv(c, num_heads) for _ in range(2))
        self.downsample4 = MS_DownSampling(c, d, 3, 1)
        self.block4 = nn.ModuleList([MS_Block_Spike_SepConv(d, num_heads)])
        self.spike = MultiSpike(Norm=1)  # quirk: the only one that is not normalised
        self.head = nn.Linear(d, self.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in (*self.block3, self.downsample4, *self.block4):
            x = stage(x)
        return self.head(self.spike(x.flatten(2).mean(2)))


class MS_Attention_Conv_qkv_id(nn.Module):  # noqa: N801 - the name upstream
    """(T, B, C, N) in and out; q (k^T v). Quirk: v is sr_ratio times as wide as x."""

    def __init__(self, dim: int, num_heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.dim, self.num_heads, self.sr_ratio, self.scale = dim, num_heads, sr_ratio, 0.125
        self.head_lif = Multispike()
        for name, width in (("q", dim), ("k", dim), ("v", dim * sr_ratio)):
            conv = nn.Sequential(nn.Conv1d(dim, width, 1, bias=False), nn.BatchNorm1d(width))
            setattr(self, f"{name}_conv", conv)
            setattr(self, f"{name}_lif", Multispike())
        self.attn_lif = Multispike()
        self.proj_conv = nn.Sequential(nn.Conv1d(dim * sr_ratio, dim, 1, bias=False), nn.BatchNorm1d(dim))

    def heads(self, x: Tensor, name: str) -> Tensor:
        spikes = getattr(self, f"{name}_lif")(per_step(x, getattr(self, f"{name}_conv")))
        return spikes.unflatten(2, (self.num_heads, -1)).transpose(-1, -2)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.head_lif(x)
        q, k, v = (self.heads(spikes, name) for name in ("q", "k", "v"))
        out = (q @ (k.transpose(-2, -1) @ v)) * self.scale
        return per_step(self.attn_lif(out.transpose(3, 4).flatten(2, 3)), self.proj_conv)


class TokenMLP(nn.Module):
    """(T, B, C, N) in and out."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1_lif, self.fc1_conv, self.fc1_bn = Multispike(), nn.Conv1d(dim, hidden, 1), nn.BatchNorm1d(hidden)
        self.fc2_lif, self.fc2_conv, self.fc2_bn = Multispike(), nn.Conv1d(hidden, dim, 1), nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = per_step(self.fc1_lif(x), self.fc1_conv, self.fc1_bn)
        return per_step(self.fc2_lif(hidden), self.fc2_conv, self.fc2_bn)


class MS_Block(nn.Module):  # noqa: N801 - the name upstream
    """Quirk: the only family whose DropPath and layer scales do something."""

    def __init__(self, dim: int, num_heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.attn = MS_Attention_Conv_qkv_id(dim, num_heads, sr_ratio)
        self.mlp = TokenMLP(dim, 4 * dim)
        self.layer_scale1 = nn.Parameter(0.5 * torch.ones(dim))
        self.layer_scale2 = nn.Parameter(0.5 * torch.ones(dim))
        self.drop_path = DropPath(0.1, axis=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(x) * self.layer_scale1[:, None])
        return x + self.drop_path(self.mlp(x) * self.layer_scale2[:, None])


class Spikformer(Stages):
    """The large model. Quirk: a map without time up to downsample3, then tokens with T = 1."""

    def __init__(self, dims: tuple[int, ...] = (12, 16, 24), num_heads: int = 3, sr_ratio: int = 2) -> None:
        super().__init__(dims)
        self.T, self.num_classes = 1, 5
        self.block3 = nn.ModuleList(MS_Block(dims[2], num_heads, sr_ratio) for _ in range(2))
        self.lif = Multispike()
        self.head = nn.Linear(dims[2], self.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).unsqueeze(0).repeat(self.T, 1, 1, 1)
        for block in self.block3:
            x = block(x)
        return self.head(self.lif(x).mean(3)).mean(0)
