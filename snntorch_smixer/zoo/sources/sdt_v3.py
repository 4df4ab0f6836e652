"""Published SDT-V3 checkpoints (BICLab/Spike-Driven-Transformer-V3, Classification/Model_Base/models.py)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from snntorch_smixer.errors import CardError
from snntorch_smixer.models.sdt_v3 import SDTV3, SDTV3Config
from snntorch_smixer.zoo.sources.read import NUM_HEADS, checked, count_blocks, fitting, shape

DROPPED: tuple[str, ...] = ()
"""The published code declares no parameter that it does not use."""

HEADS = 8
"""Heads of every published size."""


def convert(state: Mapping[str, Tensor]) -> tuple[SDTV3Config, dict[str, Tensor]]:
    """Configuration and state dict of our `SDTV3`, whose names are those of the published model.

    The weights tell everything but the heads, the levels of the neurons and the size of images: 8, 4 and 224 x 224, as
    published.

    Args:
        state: state dict of a published model. Other heads need one more entry, ``"num_heads"``, a tensor with h.

    Raises:
        CardError: a tensor is missing, unknown or of another shape, or 8 heads do not divide the widths.
    """
    where = "convert sdt-v3"
    stages = ("downsample1_2", "downsample2", "downsample3", "downsample4")
    dims = tuple(shape(where, state, f"{stage}.encode_conv.weight", 4)[0] for stage in stages)
    in_channels = shape(where, state, "downsample1_1.encode_conv.weight", 4)[1]
    hidden, width = shape(where, state, "block3.0.mlp.fc1_conv.weight", 3)[:2]
    wide = shape(where, state, "block3.0.attn.v_conv.0.weight", 4)[0]
    heads = int(state[NUM_HEADS]) if NUM_HEADS in state else HEADS
    if heads < 1 or any(dim % heads for dim in dims[2:]):
        raise CardError(
            f"{where}: weights do not tell the number of heads, and {heads} do not divide the widths {dims[2:]}. Add "
            f"it to the state dict: state[{NUM_HEADS!r}] = torch.tensor(h)."
        )

    def config() -> SDTV3Config:
        return SDTV3Config(
            in_channels=in_channels,
            num_classes=shape(where, state, "head.weight", 2)[0],
            dims=dims,
            depths=(count_blocks(state, "block3."), count_blocks(state, "block4.")),
            heads=heads,
            mlp_ratio=hidden // max(1, width),
            value_ratio=wide // max(1, width),
        )

    settings = checked(where, config)
    with torch.device("meta"):
        net = SDTV3(settings)
    return settings, fitting(where, state, net, DROPPED)
