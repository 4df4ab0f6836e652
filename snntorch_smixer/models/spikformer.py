"""Spikformer: spiking self-attention on the tokens of a convolutional stem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import ClassVar

from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.errors import SettingError, check_choice, check_count, is_count
from snntorch_smixer.layers.encode import encode
from snntorch_smixer.layers.spikformer import SPS, Block, ConvMLP, ConvSSA, LinearMLP, LinearSSA
from snntorch_smixer.models.network import Network
from snntorch_smixer.models.spec import NetworkConfig, architecture, named

VARIANTS: Mapping[str, int] = {"cifar": 4, "imagenet": 16}
"""The two forms that are published, and the pixels of a token's side in each."""


@dataclass(frozen=True)
class TransformerConfig(NetworkConfig):
    """What Spikformer and QKFormer share; checks itself.

    Attributes:
        variant: "cifar" or "imagenet", the two published forms. Tokens are 4 x 4 or 16 x 16 pixels, and layers differ.
        dim: C, channels of a token behind the last block; a multiple of 8 and of ``heads``.
        depth: number of blocks.
        heads: h of each attention.
        mlp_ratio: hidden channels of the MLP over those of its input.
    """

    variant: str = "cifar"
    dim: int = 384
    depth: int = 4
    heads: int = 12
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        where = type(self).__name__
        for name in ("in_channels", "num_classes", "T", "dim", "depth", "heads"):
            check_count(where, name, getattr(self, name), least=0 if name == "num_classes" else 1)
        check_choice(where, "variant", self.variant, tuple(VARIANTS))
        side = VARIANTS[self.variant]
        size = self.img_size
        if not isinstance(size, (tuple, list)) or len(size) != 2 or not all(is_count(n) and not n % side for n in size):
            raise SettingError(
                f"{where}: img_size={size!r} must be two positive multiples of {side}, the pixels of a token with "
                f"variant={self.variant!r}. Choose another size or variant."
            )
        if self.dim % 8 or self.dim % self.heads:
            raise SettingError(f"{where}: dim={self.dim} must be a multiple of 8 and of heads={self.heads}.")
        if isinstance(self.mlp_ratio, bool) or not (
            isinstance(self.mlp_ratio, (int, float)) and 0 < self.mlp_ratio < inf
        ):
            raise SettingError(f"{where}: mlp_ratio={self.mlp_ratio!r} must be a positive number.")
        if self.hidden(self.dim) < 1:
            raise SettingError(f"{where}: mlp_ratio={self.mlp_ratio!r} leaves the MLP no channel. Pass a larger one.")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the token grid in front of the head."""
        side = VARIANTS[self.variant]
        return self.img_size[0] // side, self.img_size[1] // side

    @property
    def num_tokens(self) -> int:
        """N in front of the head."""
        return self.grid[0] * self.grid[1]

    def hidden(self, dim: int) -> int:
        """Hidden channels of an MLP on ``dim`` channels."""
        return round(dim * self.mlp_ratio)


@dataclass(frozen=True)
class SpikformerConfig(TransformerConfig):
    """Everything that defines a `Spikformer`.

    Attributes:
        img_size: (H, W) of the input in pixels; multiples of 4 (cifar) or 16 (imagenet).
        in_channels: 1, 2 (events) or 3.
        num_classes: K; 0 for pooled features in place of logits.
        T: time steps.
        variant: "cifar" has linear maps with bias and two poolings in the stem, "imagenet" pointwise convolutions and
            four poolings.
        dim: C, channels of a token; a multiple of 8 and of ``heads``.
        depth: number of blocks.
        heads: h.
        mlp_ratio: hidden channels of the MLP over ``dim``.
    """

    architecture: ClassVar[str] = "spikformer"


class TransformerNet(Network):
    """What Spikformer and QKFormer share: the head, a linear map of the mean over tokens and steps."""

    config: TransformerConfig
    head: nn.Module
    input_weights = ("patch_embed.proj_conv.weight",)

    @property
    def num_features(self) -> int:
        """C, channels of a token behind the last block."""
        return self.config.dim

    @property
    def T(self) -> int:  # noqa: N802
        """Time steps, read by `dstsp.wrap`."""
        return self.config.T

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Tokens ``(T', B, N', C)`` to logits ``(B, K)``; with ``pre_logits`` to pooled features ``(B, C)``."""
        pooled = x.mean(2).mean(0)
        return pooled if pre_logits else self.head(pooled)

    def fresh_head(self) -> nn.Module:
        """A randomly initialised head for the classes of ``config``."""
        c = self.config
        head = nn.Linear(c.dim, c.num_classes) if c.num_classes else nn.Identity()
        init_linear(head.modules())
        return head


def init_linear(modules: Iterable[nn.Module]) -> None:
    """Weights of linear maps from a normal distribution of deviation 0.02, truncated at 2; biases 0."""
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


@architecture(SpikformerConfig)
class Spikformer(TransformerNet):
    """Spikformer V1 on images, or on event frames ``(T, B, C, H, W)``.

    Parameters have the names and shapes of the published code, less the LayerNorms ``norm1`` and ``norm2`` of its
    blocks, which that code declares and never calls. Source: Zhou et al., "Spikformer", ICLR 2023.

    Attributes:
        config: the `SpikformerConfig` it was built from.
    """

    config: SpikformerConfig

    def __init__(self, config: SpikformerConfig | None = None) -> None:
        super().__init__()
        c = self.config = SpikformerConfig() if config is None else config
        self.patch_embed = SPS(c.in_channels, c.dim, pools=2 if c.variant == "cifar" else 4)
        self.block = nn.ModuleList(_block(c) for _ in range(c.depth))
        init_linear(self.modules())
        self.head = self.fresh_head()

    def stream(self, x: Tensor) -> Iterator[Tensor]:
        """What enters the first block, then what each block gives: tokens (cifar) or maps (imagenet)."""
        c = self.config
        x = self.patch_embed(encode(x, steps=c.T, channels=c.in_channels, size=c.img_size), steps=c.T)
        x = shapes.grid_to_tokens(x) if c.variant == "cifar" else x
        yield x
        for block in self.block:
            x = block(x)
            yield x


def _block(c: SpikformerConfig) -> Block:
    if c.variant == "cifar":
        return Block(LinearSSA(c.dim, c.heads), LinearMLP(c.dim, c.hidden(c.dim)))
    return Block(ConvSSA(c.dim, c.heads), ConvMLP(c.dim, c.hidden(c.dim)))


def _imagenet(dim: int, heads: int) -> SpikformerConfig:
    return SpikformerConfig((224, 224), 3, 1000, variant="imagenet", dim=dim, depth=8, heads=heads)


CONFIGS: Mapping[str, SpikformerConfig] = named(
    {
        "spikformer-4-384": SpikformerConfig(),
        "spikformer-8-384": _imagenet(384, 6),
        "spikformer-8-512": _imagenet(512, 8),
        "spikformer-8-768": _imagenet(768, 12),
    }
)
"""Named configurations, ``spikformer-depth-dim``: CIFAR at 32 x 32 and ImageNet at 224 x 224, four steps.

The published code tells the heads of 4-384 and 8-512 only; 8-384 and 8-768 are given 64 channels per head, as 8-512.
"""
