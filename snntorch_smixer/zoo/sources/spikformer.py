"""Published Spikformer checkpoints (ZK-Zhou/spikformer, cifar10/model.py and imagenet/model.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import Tensor, nn

from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.models.network import NetworkConfig
from snntorch_smixer.models.spikformer import Spikformer, SpikformerConfig

DROPPED: tuple[str, ...] = ("block.*.norm1.*", "block.*.norm2.*")
"""Patterns of what the published blocks declare and never call: two LayerNorms each."""

HEADS: Mapping[tuple[str, int], int] = {("cifar", 384): 12, ("imagenet", 512): 8}
"""Heads of the published code, by variant and dim."""

NUM_HEADS = "num_heads"

Config = TypeVar("Config", bound=NetworkConfig)


def convert(state: Mapping[str, Tensor]) -> tuple[SpikformerConfig, dict[str, Tensor]]:
    """Configuration and state dict of our `Spikformer`, which then computes what the published code does.

    The weights tell everything but the heads, the steps and the size of images. Steps are 4, images 32 x 32 (cifar) or
    224 x 224 (imagenet), as published; heads are those of the published code where the weights have its widths.

    Args:
        state: state dict of a published model. Other widths need one more entry, ``"num_heads"``, a tensor with h.

    Raises:
        CardError: a tensor is missing, unknown or of another shape, or the number of heads is not known.
    """
    where = "convert spikformer"
    variant, kind = ("cifar", "linear") if "block.0.attn.q_linear.weight" in state else ("imagenet", "conv")
    classes, dim = shape(where, state, "head.weight", 2)
    hidden = shape(where, state, f"block.0.mlp.fc1_{kind}.weight", 2)[0]
    in_channels = shape(where, state, "patch_embed.proj_conv.weight", 4)[1]
    heads = known_heads(where, state, variant, dim, HEADS)

    def config() -> SpikformerConfig:
        return SpikformerConfig(
            (32, 32) if variant == "cifar" else (224, 224),
            in_channels,
            classes,
            variant=variant,
            dim=dim,
            depth=count_blocks(state, "block."),
            heads=heads,
            mlp_ratio=hidden / dim,
        )

    settings = checked(where, config)
    return settings, fitting(where, state, Spikformer(settings), DROPPED)


def shape(where: str, state: Mapping[str, Tensor], key: str, axes: int) -> tuple[int, ...]:
    """Shape of a tensor that has at least ``axes`` axes.

    Raises:
        CardError: there is no such tensor.
    """
    found = tuple(state[key].shape) if key in state else None
    if found is None or len(found) < axes:
        raise CardError(
            f"{where}: expected a tensor {key} with {axes} axes or more, got {found}. Pass the state dict of the "
            "published model itself, without a prefix before its names."
        )
    return found


def count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    """Blocks of a list, from names such as "block.0.attn.q_bn.weight"."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def known_heads(
    where: str, state: Mapping[str, Tensor], variant: str, dim: int, published: Mapping[tuple[str, int], int]
) -> int:
    """The entry "num_heads" of ``state``, or the heads that are published for these widths.

    Raises:
        CardError: neither is there.
    """
    if NUM_HEADS in state:
        return int(state[NUM_HEADS])
    if (variant, dim) not in published:
        known = ", ".join(f"{v} dim={d}" for v, d in published)
        raise CardError(
            f"{where}: weights do not tell the number of heads, and none is published for {variant} dim={dim} (only "
            f"for {known}). Add it to the state dict: state[{NUM_HEADS!r}] = torch.tensor(h)."
        )
    return published[variant, dim]


def checked(where: str, make: Callable[[], Config]) -> Config:
    """What ``make`` gives; a setting that it refuses is a `CardError`, since it came from the weights."""
    try:
        return make()
    except SettingError as error:
        raise CardError(f"{where}: these weights are of no network of this kind: {error}") from error


def fitting(where: str, state: Mapping[str, Tensor], net: nn.Module, dropped: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of ``state`` that ``net`` has, checked by name and shape.

    Raises:
        CardError: a tensor is missing, of another shape, or neither known nor of the ``dropped`` ones.
    """
    wanted = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    kept = {k: v for k, v in state.items() if k != NUM_HEADS and not any(fnmatchcase(k, p) for p in dropped)}
    problems = {
        "missing": [key for key in wanted if key not in kept],
        "unknown": [key for key in kept if key not in wanted],
        "of another shape": [
            f"{key} {tuple(kept[key].shape)}, expected {size}"
            for key, size in wanted.items()
            if key in kept and tuple(kept[key].shape) != size
        ],
    }
    found = [f"{len(keys)} {what}: {', '.join(keys[:3])}" for what, keys in problems.items() if keys]
    if found:
        raise CardError(
            f"{where}: the tensors are not those of {type(net).__name__}; {'; '.join(found)}. Pass the state dict of "
            "the published model."
        )
    return kept
