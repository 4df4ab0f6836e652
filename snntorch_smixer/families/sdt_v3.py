"""Spike-Driven Transformer, versions 2 and 3: convolutional stages, then ``block3`` and perhaps ``block4``."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from snntorch_smixer.families.base import IN_FRONT, Sites, children_of, lacks, spatial_parts, whole_number


class SDTV2Family:
    """``downsample1_1`` to ``downsample3``, ``block3``, perhaps ``downsample4`` and ``block4``; neurons with time.

    The blocks and what lies between them convolve over neighbours, so dropped tokens keep their place. Covers
    BICLab/Spike-Driven-Transformer-V2.
    """

    name = "sdt_v2"

    def missing(self, model: nn.Module) -> list[str]:
        """What ``model`` lacks."""
        gone = lacks(model, "downsample1_1", "downsample3", "block3", "head")
        return gone if gone or not _integer_neurons(model) else ["neurons with time; these count levels"]

    def sites(self, model: nn.Module) -> Sites:
        """In front of the first block with attention."""
        blocks = children_of(model, "block3") + children_of(model, "block4")
        behind = [model.get_submodule(path) for path in blocks]
        behind += [m for m in (getattr(model, "downsample4", None),) if isinstance(m, nn.Module)]
        spatial = any(True for part in behind for _ in spatial_parts(part.modules()))
        left = dict.fromkeys((n for n, _ in model.named_children() if n.startswith("ConvBlock")), IN_FRONT)
        return Sites(blocks, keeps_grid=spatial, steps=whole_number(model, "T"), left=left)

    def stored_steps(self, model: nn.Module) -> list[str]:  # noqa: ARG002
        """None: T is read off the tensors."""
        return []


class SDTV3Family(SDTV2Family):
    """The same skeleton with integer neurons: T counts their levels, and pruning to t caps them.

    Covers Model_Base, without a time axis, and Model_Large, with one of length 1, of
    BICLab/Spike-Driven-Transformer-V3.
    """

    name = "sdt_v3"

    def missing(self, model: nn.Module) -> list[str]:
        """What ``model`` lacks."""
        gone = lacks(model, "downsample1_1", "downsample3", "block3", "head")
        return gone if gone or _integer_neurons(model) else ["integer neurons"]

    def sites(self, model: nn.Module) -> Sites:
        """As in version 2, with levels for steps."""
        return replace(super().sites(model), steps=None, virtual_steps=True)


def _integer_neurons(model: nn.Module) -> bool:
    # Upstream: Model_Base/models.py MultiSpike (max_value, Norm), Model_Large/spikformer.py Multispike (lens).
    return any(
        (hasattr(m, "max_value") and hasattr(m, "Norm")) or (hasattr(m, "lens") and not list(m.children()))
        for m in model.modules()
    )
