"""Published Spikformer checkpoints (ZK-Zhou/spikformer, cifar10/model.py and imagenet/model.py)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from snntorch_smixer.models.spikformer import Spikformer, SpikformerConfig
from snntorch_smixer.zoo.sources.read import checked, count_blocks, fitting, known_heads, shape

DROPPED: tuple[str, ...] = ("block.*.norm1.*", "block.*.norm2.*")
"""Patterns of what the published blocks declare and never call: two LayerNorms each."""

HEADS: Mapping[tuple[str, int], int] = {("cifar", 384): 12, ("imagenet", 512): 8}
"""Heads of the published code, by variant and dim."""


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
