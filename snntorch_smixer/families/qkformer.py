"""QKFormer and Max-Former: stages of falling resolution, spiking self-attention in the last one."""

from __future__ import annotations

from torch import nn

from snntorch_smixer.families.base import IN_FRONT, Sites, children_of, lacks, spatial_parts, whole_number


class QKFormerFamily:
    """``patch_embed1``, ``stage1``, ``patch_embed2``, ``stage2`` and perhaps more.

    The patch embeddings between stages need the whole grid of tokens, so tokens are dropped in front of the last stage,
    and steps already behind the first patch embedding. Covers zhouchenlin2096/QKFormer, bic-L/MaxFormer and both of
    SpikingJelly 2.0.
    """

    name = "qkformer"

    def missing(self, model: nn.Module) -> list[str]:
        """What ``model`` lacks."""
        return lacks(model, "patch_embed1", "stage1", "patch_embed2", "stage2", "head")

    def sites(self, model: nn.Module) -> Sites:
        """Steps in front of the first block, tokens in front of the last stage."""
        last = max(i for i in range(1, 10) if children_of(model, f"stage{i}"))
        blocks = children_of(model, f"stage{last}")
        parts = (part for path in blocks for part in model.get_submodule(path).modules())
        return Sites(
            blocks,
            time=next(iter(children_of(model, "stage1")), None),
            keeps_grid=any(True for _ in spatial_parts(parts)),
            steps=whole_number(model, "T"),
            left={f"stage{i}": IN_FRONT for i in range(1, last) if children_of(model, f"stage{i}")},
        )

    def stored_steps(self, model: nn.Module) -> list[str]:  # noqa: ARG002
        """None: T is read off the tensors."""
        return []
