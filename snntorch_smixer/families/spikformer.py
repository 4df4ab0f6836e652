"""Spikformer V1 and V2, and every net of one stem and one list of blocks with spiking self-attention."""

from __future__ import annotations

from torch import nn

from snntorch_smixer.families.base import Sites, child, children_of, lacks, spatial_parts, stored_in, whole_number


class SpikformerFamily:
    """``patch_embed``, then ``block`` or ``blocks`` whose items have ``attn`` and ``mlp``.

    Covers ZK-Zhou/spikformer in its three layouts, SpikingJelly 2.0's and BrainCog's Spikformer, Spikingformer, and the
    parts that are published of Spikformer V2.
    """

    name = "spikformer"

    def missing(self, model: nn.Module) -> list[str]:
        """What ``model`` lacks."""
        gone = lacks(model, "patch_embed", "block|blocks", "head")
        blocks = children_of(model, "block", "blocks")
        if not gone and not blocks:
            return ["a list of blocks"]
        return gone or lacks(model.get_submodule(blocks[0]), "attn", "mlp")

    def sites(self, model: nn.Module) -> Sites:
        """Steps and tokens are dropped in front of the first block."""
        blocks = children_of(model, "block", "blocks")
        parts = (part for path in blocks for part in model.get_submodule(path).modules())
        return Sites(
            blocks,
            keeps_grid=any(True for _ in spatial_parts(parts)),
            tokens=whole_number(child(model, "patch_embed"), "num_patches"),
            steps=whole_number(model, "T", "step"),
        )

    def stored_steps(self, model: nn.Module) -> list[str]:
        """None in most: T is read off the tensors. BrainCog's nodes split samples from steps by ``step``."""
        return stored_in(model, children_of(model, "block", "blocks"), "step")
