"""QKFormer: stages of falling resolution, Q-K token attention in the first ones and spiking self-attention at last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from snntorch_smixer.errors import SettingError
from snntorch_smixer.layers.encode import encode
from snntorch_smixer.layers.spikformer import Block, ConvMLP, ConvSSA, InputDecayLIF, per_step, show
from snntorch_smixer.models.spec import architecture, named
from snntorch_smixer.models.spikformer import TransformerConfig, TransformerNet, init_linear

STAGES: Mapping[str, tuple[int, int]] = {"cifar": (1, 1), "imagenet": (1, 2)}
"""Blocks of the first two stages of each published form."""


@dataclass(frozen=True)
class QKFormerConfig(TransformerConfig):
    """Everything that defines a `QKFormer`.

    Attributes:
        img_size: (H, W) of the input in pixels; multiples of 4 (cifar) or 16 (imagenet).
        in_channels: 1, 2 (events) or 3.
        num_classes: K; 0 for pooled features in place of logits.
        T: time steps.
        variant: "cifar" or "imagenet", the two published forms; they pool at other places and name layers differently.
        dim: C, channels of a token of the last stage; a multiple of 8, and a quarter of it one of ``heads``.
        depth: number of blocks: 1 + 1 (cifar) or 1 + 2 (imagenet) in the first two stages, all others in the third.
        heads: h of every attention.
        mlp_ratio: hidden channels of the MLP over those of its input.
        proj_over_batch: what the last neuron of spiking self-attention takes for time. False: the T steps of each
            sample, the correct reading. True: the published code folds the batch into the steps in front of this
            neuron, so that it integrates over T*B steps of one sample: what comes out for a sample depends on the
            samples before it in its batch. The published weights were trained that way, so converting them sets True.
            The authors know of it (issue 14 of zhouchenlin2096/QKFormer; 78.7 in place of 84.2 % for 10-768 if set to
            False without training again).
    """

    architecture: ClassVar[str] = "qkformer"
    adjustable: ClassVar[tuple[str, ...]] = ("T", "proj_over_batch")

    heads: int = 8
    proj_over_batch: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim // 4 % self.heads:
            raise SettingError(
                f"QKFormerConfig: the first stage has dim / 4 = {self.dim // 4} channels, no multiple of heads="
                f"{self.heads}. Choose other heads."
            )
        if self.depth <= sum(STAGES[self.variant]):
            raise SettingError(
                f"QKFormerConfig: depth={self.depth} leaves no block for the third stage; variant={self.variant!r} has "
                f"{sum(STAGES[self.variant])} blocks before it. Pass a greater depth."
            )
        if not isinstance(self.proj_over_batch, bool):
            raise SettingError(f"QKFormerConfig: proj_over_batch={self.proj_over_batch!r} must be True or False.")

    @property
    def depths(self) -> tuple[int, int, int]:
        """Blocks of each stage."""
        first, second = STAGES[self.variant]
        return first, second, self.depth - first - second


class TokenQKAttention(nn.Module):
    """Q-K token attention on maps ``(T, B, C, H, W)``: which tokens of K pass is told by the sum of Q over a head.

    No product of tokens with tokens: linear in N.

    Args:
        dim: C.
        heads: h.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.dim, self.num_heads = dim, heads
        for name in ("q", "k", "proj"):
            self.add_module(f"{name}_conv", nn.Conv1d(dim, dim, 1, bias=name == "proj"))
            self.add_module(f"{name}_bn", nn.BatchNorm1d(dim))
            self.add_module(f"{name}_lif", InputDecayLIF())
        self.attn_lif = InputDecayLIF(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Spikes ``(T, B, C, H, W)``; the residual is the block's."""
        flat = x.flatten(3)
        q, k = (self._spikes(flat, name).unflatten(2, (self.num_heads, -1)) for name in ("q", "k"))
        kept = self.attn_lif(q.sum(3, keepdim=True))  # (T, B, h, 1, N)
        return self._spikes((kept * k).flatten(2, 3), "proj").view_as(x)

    def _spikes(self, x: Tensor, name: str) -> Tensor:
        return getattr(self, f"{name}_lif")(per_step(x, getattr(self, f"{name}_conv"), getattr(self, f"{name}_bn")))


class PatchEmbed(nn.Module):
    """Convolutions between two stages, beside a 1x1 convolution: each row is (name, in, out, pooled first).

    A row is 3x3 convolution, BatchNorm, perhaps 3x3 max pooling of stride 2, neuron. The short path starts behind the
    first ``skipped`` rows. The output is the sum of two spike maps: 0, 1 or 2.

    Args:
        rows: name, channels in, channels out and whether it pools, of each convolution.
        skipped: rows in front of the short path.
        stride: of the short path.
    """

    def __init__(self, rows: tuple[tuple[str, int, int, bool], ...], *, skipped: int, stride: int) -> None:
        super().__init__()
        for name, inside, outside, pools in rows:
            self.add_module(f"{name}_conv", nn.Conv2d(inside, outside, 3, padding=1, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(outside))
            self.add_module(f"{name}_maxpool", nn.MaxPool2d(3, 2, 1) if pools else nn.Identity())
            self.add_module(f"{name}_lif", InputDecayLIF())
        self.names, self.skipped = [name for name, *_ in rows], skipped
        self.proj_res_conv = nn.Conv2d(rows[skipped][1], rows[-1][2], 1, stride, bias=False)
        self.proj_res_bn, self.proj_res_lif = nn.BatchNorm2d(rows[-1][2]), InputDecayLIF()

    def forward(self, x: Tensor, *, steps: int) -> Tensor:
        """``(T, B, C, H, W)``, or ``(1, B, C, H, W)`` for a static image, to ``(T, B, C', H/s, W/s)``."""
        for name in self.names[: self.skipped]:
            x = self._row(x, name, steps)
        short = self.proj_res_lif(per_step(x, self.proj_res_conv, self.proj_res_bn))
        for name in self.names[self.skipped :]:
            x = self._row(x, name, steps)
        return x + short

    def _row(self, x: Tensor, name: str, steps: int) -> Tensor:
        y = per_step(x, *(getattr(self, f"{name}_{part}") for part in ("conv", "bn", "maxpool")))
        return getattr(self, f"{name}_lif")(show(y, steps))


@architecture(QKFormerConfig)
class QKFormer(TransformerNet):
    """QKFormer on images, or on event frames ``(T, B, C, H, W)``: three stages, C/4, C/2 and C channels.

    Stage 1 sees the whole image (cifar) or a quarter of its sides (imagenet); each later stage halves the sides.
    Parameters have the names and shapes of the published code. Source: Zhou et al., "QKFormer", NeurIPS 2024.

    Attributes:
        config: the `QKFormerConfig` it was built from.
    """

    config: QKFormerConfig
    input_weights = ("patch_embed1.proj_conv.weight",)

    def __init__(self, config: QKFormerConfig | None = None) -> None:
        super().__init__()
        c = self.config = QKFormerConfig() if config is None else config
        widths = (c.dim // 4, c.dim // 2, c.dim)
        self.patch_embed1 = _first_embed(c)
        self.patch_embed2, self.patch_embed3 = (_embed(widths[i], widths[i + 1], c.variant) for i in range(2))
        self.stage1, self.stage2, self.stage3 = (
            nn.ModuleList(_block(c, stage, width) for _ in range(depth))
            for stage, (width, depth) in enumerate(zip(widths, c.depths, strict=True), 1)
        )
        init_linear(self.modules())
        self.head = self.fresh_head()

    def stream(self, x: Tensor) -> Iterator[Tensor]:
        """What enters the first block, then what each block of the three stages gives, ``(T', B, C', H', W')``."""
        c = self.config
        x = self.patch_embed1(encode(x, steps=c.T, channels=c.in_channels, size=c.img_size), steps=c.T)
        yield x
        for embed, stage in ((None, self.stage1), (self.patch_embed2, self.stage2), (self.patch_embed3, self.stage3)):
            x = x if embed is None else embed(x, steps=x.shape[0])
            for block in stage:
                x = block(x)
                yield x


def _first_embed(c: QKFormerConfig) -> PatchEmbed:
    half, width = c.dim // 8, c.dim // 4
    if c.variant == "cifar":
        return PatchEmbed((("proj", c.in_channels, half, False), ("proj1", half, width, False)), skipped=1, stride=1)
    rows = (("proj", c.in_channels, half, True), ("proj1", half, width, True), ("proj2", width, width, False))
    return PatchEmbed(rows, skipped=1, stride=2)


def _embed(inside: int, outside: int, variant: str) -> PatchEmbed:
    early = variant == "imagenet"
    rows = (("proj3", inside, outside, early), ("proj4", outside, outside, not early))
    return PatchEmbed(rows, skipped=0, stride=2)


def _block(c: QKFormerConfig, stage: int, dim: int) -> Block:
    cifar = c.variant == "cifar"
    mlp = ConvMLP(dim, c.hidden(dim), prefix="mlp" if cifar else "fc")
    if stage < 3:
        return Block(TokenQKAttention(dim, c.heads), mlp, name="tssa")
    attention = ConvSSA(dim, c.heads, proj_over_batch=c.proj_over_batch)
    return Block(attention, mlp, name="ssa" if cifar else "attn")


def _imagenet(dim: int, heads: int) -> QKFormerConfig:
    return QKFormerConfig((224, 224), 3, 1000, variant="imagenet", dim=dim, depth=10, heads=heads)


CONFIGS: Mapping[str, QKFormerConfig] = named(
    {
        "qkformer-4-384": QKFormerConfig(),
        "qkformer-10-384": _imagenet(384, 6),
        "qkformer-10-512": _imagenet(512, 8),
        "qkformer-10-768": _imagenet(768, 12),
    }
)
"""Named configurations, ``qkformer-depth-dim``: CIFAR at 32 x 32 and ImageNet at 224 x 224, four steps."""
