"""Published QKFormer checkpoints (zhouchenlin2096/QKFormer, cifar10/model.py and imagenet/qkformer.py)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from snntorch_smixer.models.qkformer import QKFormer, QKFormerConfig
from snntorch_smixer.zoo.sources.read import checked, count_blocks, fitting, known_heads, shape

DROPPED: tuple[str, ...] = ()
"""The published code declares no parameter that it does not use."""

HEADS: Mapping[tuple[str, int], int] = {
    ("cifar", 384): 8,
    ("imagenet", 384): 6,
    ("imagenet", 512): 8,
    ("imagenet", 768): 12,
}
"""Heads of the published code, by variant and dim."""


def convert(state: Mapping[str, Tensor]) -> tuple[QKFormerConfig, dict[str, Tensor]]:
    """Configuration and state dict of our `QKFormer`, which then computes what the published code does.

    The configuration has ``proj_over_batch=True``: the published weights were trained with a neuron that integrates
    over the batch, see `QKFormerConfig`. The weights tell everything but the heads, the steps and the size of images.
    Steps are 4, images 32 x 32 (cifar) or 224 x 224 (imagenet), as published; heads are those of the published code
    where the weights have its widths.

    Args:
        state: state dict of a published model. Other widths need one more entry, ``"num_heads"``, a tensor with h.

    Raises:
        CardError: a tensor is missing, unknown or of another shape, or the number of heads is not known.
    """
    where = "convert qkformer"
    variant, prefix = ("cifar", "mlp") if "stage1.0.mlp.mlp1_conv.weight" in state else ("imagenet", "fc")
    classes, dim = shape(where, state, "head.weight", 2)
    hidden, width = shape(where, state, f"stage1.0.mlp.{prefix}1_conv.weight", 2)[:2]
    in_channels = shape(where, state, "patch_embed1.proj_conv.weight", 4)[1]
    heads = known_heads(where, state, variant, dim, HEADS)

    def config() -> QKFormerConfig:
        return QKFormerConfig(
            (32, 32) if variant == "cifar" else (224, 224),
            in_channels,
            classes,
            variant=variant,
            dim=dim,
            depth=sum(count_blocks(state, f"stage{i}.") for i in (1, 2, 3)),
            heads=heads,
            mlp_ratio=hidden / width,
            proj_over_batch=True,
        )

    settings = checked(where, config)
    return settings, fitting(where, state, QKFormer(settings), DROPPED)
