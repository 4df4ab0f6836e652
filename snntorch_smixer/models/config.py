"""Configuration of our own network, and the named configurations of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, prod
from typing import ClassVar

from snntorch_smixer.errors import SettingError, check_choice, check_count, is_count
from snntorch_smixer.layers.stem import CIFAR_STRIDES, IMAGENET_STRIDES
from snntorch_smixer.models.spec import NetworkConfig, named
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.pruning.rates import check_rates


@dataclass(frozen=True)
class SMixerConfig(NetworkConfig):
    """Everything that defines an `SMixerNet`.

    Attributes:
        img_size: (H, W) of the input in pixels, or one number for both.
        in_channels: 1, 2 (events) or 3.
        num_classes: K; 0 for pooled features in place of logits.
        T: time steps.
        dim: D, channels of a token; a multiple of 8 and of ``heads``.
        depth: number of encoding blocks.
        heads: h, matrices ``W_M`` per block.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        strides: strides of the five stem convolutions; their product divides ``img_size``.
        mixer: "smixer", or "ssa" for the spiking self-attention baseline.
        beta: membrane decay per step.
        threshold: firing threshold.
        gamma: slope of the Dspike surrogate.
        prune: DSTSP settings, or None for no pruning.

    Examples:
        >>> from snntorch_smixer import SMixerConfig
        >>> SMixerConfig((28, 28), 1, 10, 4, dim=64, depth=2, heads=8).num_tokens
        49
    """

    architecture: ClassVar[str] = "smixer"
    adjustable: ClassVar[tuple[str, ...]] = ("T", "beta", "threshold", "gamma", "prune")

    dim: int = 384
    depth: int = 4
    heads: int = 16
    mlp_ratio: float = 4.0
    strides: tuple[int, ...] = CIFAR_STRIDES
    mixer: str = "smixer"
    beta: float = 0.5
    threshold: float = 1.0
    gamma: float = 2.5
    prune: DSTSPConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_numbers(self)
        if any(side % prod(self.strides) for side in self.img_size):
            raise SettingError(
                f"SMixerConfig: img_size={self.img_size} is no multiple of the stem's total stride "
                f"{prod(self.strides)}. Choose another size or other strides."
            )
        if self.dim % 8 or self.dim % self.heads:
            raise SettingError(f"SMixerConfig: dim={self.dim} must be a multiple of 8 and of heads={self.heads}.")
        if not 0.5 < self.dim * self.mlp_ratio < 1 << 31:
            raise SettingError(f"SMixerConfig: mlp_ratio={self.mlp_ratio!r} gives the MLP no sensible width. Pass 4.0.")
        check_choice("SMixerConfig", "mixer", self.mixer, ("smixer", "ssa"))
        if self.prune is None:
            return
        if not isinstance(self.prune, DSTSPConfig):
            raise SettingError(
                f"SMixerConfig: got prune of type {type(self.prune).__name__}. Pass a DSTSPConfig or None."
            )
        check_rates(self.prune.ps, depth=self.depth, may_fall=False)
        if self.prune.t is not None and self.prune.t > self.T:
            raise SettingError(f"SMixerConfig: prune.t={self.prune.t} is outside 1..T={self.T}. Keep fewer steps.")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the token grid."""
        stride = prod(self.strides)
        return self.img_size[0] // stride, self.img_size[1] // stride

    @property
    def num_tokens(self) -> int:
        """N."""
        return prod(self.grid)


def _check_numbers(config: SMixerConfig) -> None:
    for name in ("in_channels", "num_classes", "dim", "depth", "heads", "T"):
        check_count("SMixerConfig", name, getattr(config, name), least=0 if name == "num_classes" else 1)
    for name, length in (("img_size", 2), ("strides", 5)):
        value = getattr(config, name)
        if not isinstance(value, (tuple, list)) or len(value) != length or not all(map(is_count, value)):
            raise SettingError(f"SMixerConfig: {name}={value!r} must be {length} whole numbers of at least 1.")
    for name in ("mlp_ratio", "threshold", "gamma"):
        value = getattr(config, name)
        if isinstance(value, bool) or not (isinstance(value, (int, float)) and 0 < value < inf):
            raise SettingError(f"SMixerConfig: {name}={value!r} must be a positive number.")
    if isinstance(config.beta, bool) or not (isinstance(config.beta, (int, float)) and 0 <= config.beta <= 1):
        raise SettingError(f"SMixerConfig: beta={config.beta!r} is outside [0, 1]. Pass the membrane decay per step.")


def _imagenet(depth: int, dim: int) -> SMixerConfig:
    return SMixerConfig((224, 224), 3, 1000, 1, dim=dim, depth=depth, strides=IMAGENET_STRIDES)


CONFIGS: Mapping[str, SMixerConfig] = named(
    {
        "smixer-4-384": SMixerConfig(),
        "smixer-10-384": SMixerConfig(depth=10),
        "smixer-8-384": _imagenet(8, 384),
        "smixer-8-512": _imagenet(8, 512),
        "smixer-8-768": _imagenet(8, 768),
        "smixer-2-256": SMixerConfig((128, 128), 2, 11, 16, dim=256, depth=2, strides=IMAGENET_STRIDES),
    }
)
"""Named configurations, ``smixer-depth-dim``: 32 x 32, 224 x 224 and 128 x 128 event frames (16 heads each)."""
