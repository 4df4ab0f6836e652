"""Spike-Driven Transformer V3: convolutional stages, then attention on integer spikes, without a time axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from snntorch_smixer.errors import SettingError, check_count, is_count
from snntorch_smixer.kernels.integer_fire import integer_spikes
from snntorch_smixer.layers.encode import encode
from snntorch_smixer.memory import KeepsLess
from snntorch_smixer.models.network import Network
from snntorch_smixer.models.spec import NetworkConfig, architecture, named

STRIDE = 16
"""Pixels per token along each side: four convolutions of stride 2."""


@dataclass(frozen=True)
class SDTV3Config(NetworkConfig):
    """Everything that defines an `SDTV3`.

    Attributes:
        img_size: (H, W) of the input in pixels; the network takes other sizes too.
        in_channels: 1, 2 (events) or 3.
        num_classes: K; 0 for pooled features in place of logits.
        T: 1, there is no time axis; ``levels`` stands for steps.
        dims: channels at 1/4, 1/8 and 1/16 of the size, and of the last stage, also at 1/16.
        depths: blocks with attention in the last two stages.
        heads: h; divides the last two of ``dims``.
        mlp_ratio: hidden channels of the MLPs and of the convolutional blocks over their width.
        value_ratio: channels of V over those of a token.
        levels: D, spikes that a neuron may fire at once.
    """

    architecture: ClassVar[str] = "sdt-v3"
    adjustable: ClassVar[tuple[str, ...]] = ("T", "levels")

    img_size: tuple[int, int] = (224, 224)
    num_classes: int = 1000
    T: int = 1
    dims: tuple[int, ...] = (32, 64, 128, 192)
    depths: tuple[int, ...] = (6, 2)
    heads: int = 8
    mlp_ratio: int = 4
    value_ratio: int = 4
    levels: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("in_channels", "heads", "mlp_ratio", "value_ratio", "levels"):
            check_count("SDTV3Config", name, getattr(self, name))
        check_count("SDTV3Config", "num_classes", self.num_classes, least=0)
        for name, length in (("img_size", 2), ("dims", 4), ("depths", 2)):
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)) or len(value) != length or not all(map(is_count, value)):
                raise SettingError(f"SDTV3Config: {name}={value!r} must be {length} whole numbers of at least 1.")
        if self.T != 1:
            raise SettingError(
                f"SDTV3Config: T={self.T!r}, but the network has no time axis. Leave T=1 and set levels, the spikes "
                "that a neuron may fire at once."
            )
        if self.dims[0] % 2 or any(width % self.heads for width in self.dims[2:]):
            wanted = f"begin with an even number and end with two multiples of heads={self.heads}"
            raise SettingError(f"SDTV3Config: dims={self.dims} must {wanted}.")

    @property
    def depth(self) -> int:
        """Blocks with attention."""
        return sum(self.depths)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the token grid at ``img_size``."""
        return -(-self.img_size[0] // STRIDE), -(-self.img_size[1] // STRIDE)


class IntegerSpike(KeepsLess):
    """``round(clamp(x, 0, D)) / norm``: up to D spikes at once, no membrane. Source: SDT-V3, MultiSpike.

    The gradient of the rounding is 1 inside [0, D] and 0 outside.

    Args:
        levels: D, kept as ``max_value``, by which `wrap` recognises the family.
        norm: what the spikes are divided by, kept as ``Norm``; None means ``levels``.
    """

    def __init__(self, levels: int, *, norm: int | None = None) -> None:
        super().__init__()
        self.max_value, self.Norm = levels, levels if norm is None else norm

    def forward(self, x: Tensor) -> Tensor:
        """Spikes in the shape and dtype of ``x``."""
        return integer_spikes(x.unsqueeze(0), 0.0, self.max_value, memory=self.memory).squeeze(0) / self.Norm

    def extra_repr(self) -> str:
        """Levels and divisor, for ``print(model)``."""
        return f"max_value={self.max_value}, Norm={self.Norm}"


def _conv_bn(inside: int, outside: int, *, kernel: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))


class SeparableConv(nn.Module):
    """Neuron, 1x1 to 2C; neuron, depthwise convolution; neuron, 1x1 to C; a BatchNorm after each."""

    def __init__(self, dim: int, *, kernel: int, levels: int) -> None:
        super().__init__()
        self.spike1, self.pwconv1 = IntegerSpike(levels), _conv_bn(dim, 2 * dim)
        self.spike2, self.dwconv = IntegerSpike(levels), _conv_bn(2 * dim, 2 * dim, kernel=kernel, groups=2 * dim)
        self.spike3, self.pwconv2 = IntegerSpike(levels), _conv_bn(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        x = self.pwconv1(self.spike1(x))
        return self.pwconv2(self.spike3(self.dwconv(self.spike2(x))))


class ConvBlock(nn.Module):
    """``x += SeparableConv(x)`` with a 7x7 kernel, then two 3x3 convolutions with a residual around them."""

    def __init__(self, dim: int, config: SDTV3Config) -> None:
        super().__init__()
        levels, hidden = config.levels, config.mlp_ratio * dim
        self.Conv = SeparableConv(dim, kernel=7, levels=levels)
        self.spike1, self.conv1 = IntegerSpike(levels), nn.Conv2d(dim, hidden, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.spike2, self.conv2 = IntegerSpike(levels), nn.Conv2d(hidden, dim, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        x = x + self.Conv(x)
        hidden = self.bn1(self.conv1(self.spike1(x)))
        return x + self.bn2(self.conv2(self.spike2(hidden)))


class DownSampling(nn.Module):
    """Neuron, convolution, BatchNorm; the first one of the network sees the image and has no neuron."""

    def __init__(self, inside: int, outside: int, *, kernel: int = 3, stride: int = 2, levels: int | None) -> None:
        super().__init__()
        self.encode_conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2)
        self.encode_bn = nn.BatchNorm2d(outside)
        self.encode_spike = nn.Identity() if levels is None else IntegerSpike(levels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C', H / stride, W / stride)``, rounded up."""
        return self.encode_bn(self.encode_conv(self.encode_spike(x)))


class WideAttention(nn.Module):
    """``SN((Q K^T) V * 2 / sqrt(C / h))`` with a V that is wider than Q and K, on maps ``(B, C, H, W)``."""

    def __init__(self, dim: int, config: SDTV3Config) -> None:
        super().__init__()
        self.dim, self.num_heads, levels = dim, config.heads, config.levels
        self.scale, wide = 2 * (dim // config.heads) ** -0.5, dim * config.value_ratio
        self.head_spike = IntegerSpike(levels)
        self.q_conv, self.q_spike = _conv_bn(dim, dim), IntegerSpike(levels)
        self.k_conv, self.k_spike = _conv_bn(dim, dim), IntegerSpike(levels)
        self.v_conv, self.v_spike = _conv_bn(dim, wide), IntegerSpike(levels)
        self.attn_spike, self.proj_conv = IntegerSpike(levels), _conv_bn(wide, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        spikes = self.head_spike(x)
        q = self._heads(self.q_spike(self.q_conv(spikes)))
        k = self._heads(self.k_spike(self.k_conv(spikes)))
        v = self._heads(self.v_spike(self.v_conv(spikes)))
        product = ((q @ k.transpose(-2, -1)) @ v) * self.scale
        return self.proj_conv(self.attn_spike(product.transpose(2, 3).flatten(1, 2)).unflatten(2, x.shape[2:]))

    def _heads(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, h, N, C/h)``."""
        return x.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)


class PointwiseMLP(nn.Module):
    """Neuron, 1x1 to the hidden width, BatchNorm; neuron, 1x1 back, BatchNorm. The convolutions have biases."""

    def __init__(self, dim: int, config: SDTV3Config) -> None:
        super().__init__()
        hidden = config.mlp_ratio * dim
        self.fc1_spike, self.fc1_conv = IntegerSpike(config.levels), nn.Conv1d(dim, hidden, 1)
        self.fc1_bn = nn.BatchNorm1d(hidden)
        self.fc2_spike, self.fc2_conv = IntegerSpike(config.levels), nn.Conv1d(hidden, dim, 1)
        self.fc2_bn = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        hidden = self.fc1_bn(self.fc1_conv(self.fc1_spike(x.flatten(2))))
        return self.fc2_bn(self.fc2_conv(self.fc2_spike(hidden))).unflatten(2, x.shape[2:])


class AttentionBlock(nn.Module):
    """``x += SeparableConv(x); x += WideAttention(x); x += PointwiseMLP(x)`` on real-valued maps."""

    def __init__(self, dim: int, config: SDTV3Config) -> None:
        super().__init__()
        self.conv = SeparableConv(dim, kernel=3, levels=config.levels)
        self.attn, self.mlp = WideAttention(dim, config), PointwiseMLP(dim, config)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        x = x + self.conv(x)
        x = x + self.attn(x)
        return x + self.mlp(x)


@architecture(SDTV3Config)
class SDTV3(Network):
    """Spike-Driven Transformer V3, the base model, with the state-dict keys of upstream's.

    Images ``(B, C, H, W)`` of any size; tokens are ``(1, B, N, C)``. Pruning: ``dstsp.wrap(net)``, where t caps the
    levels of the neurons. Source: BICLab/Spike-Driven-Transformer-V3, Model_Base/models.py,
    Spiking_vit_MetaFormer_Spike_SepConv; its DropPath is declared and never called, so there is none here.

    Attributes:
        config: the `SDTV3Config` it was built from.
    """

    config: SDTV3Config
    input_weights = ("downsample1_1.encode_conv.weight",)

    def __init__(self, config: SDTV3Config | None = None) -> None:
        super().__init__()
        self.config = config = SDTV3Config() if config is None else config
        (a, b, c, d), levels = config.dims, config.levels
        self.downsample1_1 = DownSampling(config.in_channels, a // 2, kernel=7, levels=None)
        self.ConvBlock1_1 = nn.ModuleList([ConvBlock(a // 2, config)])
        self.downsample1_2 = DownSampling(a // 2, a, levels=levels)
        self.ConvBlock1_2 = nn.ModuleList([ConvBlock(a, config)])
        self.downsample2 = DownSampling(a, b, levels=levels)
        self.ConvBlock2_1 = nn.ModuleList([ConvBlock(b, config)])
        self.ConvBlock2_2 = nn.ModuleList([ConvBlock(b, config)])
        self.downsample3 = DownSampling(b, c, levels=levels)
        self.block3 = nn.ModuleList(AttentionBlock(c, config) for _ in range(config.depths[0]))
        self.downsample4 = DownSampling(c, d, stride=1, levels=levels)
        self.block4 = nn.ModuleList(AttentionBlock(d, config) for _ in range(config.depths[1]))
        # The one neuron whose spikes are not divided.
        self.spike = IntegerSpike(levels, norm=1)
        self.head = self.fresh_head()

    @property
    def num_features(self) -> int:
        """C, channels of a token behind the last block."""
        return self.config.dims[-1]

    def stream(self, x: Tensor) -> Iterator[Tensor]:
        """What enters the first attention block, then what each gives, ``(1, B, C, H, W)``."""
        # A convolutional network takes any size; with a wrong rank there is none to read.
        size = (x.shape[-2], x.shape[-1]) if x.dim() in (4, 5) else self.config.img_size
        maps = encode(x, steps=1, channels=self.config.in_channels, size=size).squeeze(0)
        for stage in (
            *(self.downsample1_1, *self.ConvBlock1_1, self.downsample1_2, *self.ConvBlock1_2),
            *(self.downsample2, *self.ConvBlock2_1, *self.ConvBlock2_2, self.downsample3),
        ):
            maps = stage(maps)
        yield maps.unsqueeze(0)
        for before, blocks in ((None, self.block3), (self.downsample4, self.block4)):
            maps = maps if before is None else before(maps)
            for block in blocks:
                maps = block(maps)
                yield maps.unsqueeze(0)

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Tokens ``(1, B, N', C)`` to logits ``(B, K)``; with ``pre_logits`` to the spikes of the mean ``(B, C)``."""
        pooled = self.spike(x.mean(2)).mean(0)
        return pooled if pre_logits else self.head(pooled)

    def fresh_head(self) -> nn.Module:
        """A randomly initialised head for the classes of ``config``."""
        if not self.config.num_classes:
            return nn.Identity()
        head = nn.Linear(self.num_features, self.config.num_classes)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head


CONFIGS: Mapping[str, SDTV3Config] = named(
    {
        "sdt-v3-5m": SDTV3Config(),
        "sdt-v3-10m": SDTV3Config(dims=(48, 96, 192, 240)),
        "sdt-v3-19m": SDTV3Config(dims=(64, 128, 256, 360)),
    }
)
"""Named configurations, by millions of parameters: Efficient_Spiking_Transformer_s, _m and _l of upstream."""
