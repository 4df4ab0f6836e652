"""Spike-Driven Transformer, version 1: linear attention with the residual inside."""

from __future__ import annotations

from torch import nn

from snntorch_smixer.families.base import lacks
from snntorch_smixer.families.spikformer import SpikformerFamily


class SDTV1Family(SpikformerFamily):
    """The parts of Spikformer and a ``head_lif``, the neuron behind the mean over tokens.

    Its attention is linear in N and stays unless asked. With ``dvs_mode`` it pools over neighbours, so the grid stays.
    Covers BICLab/Spike-Driven-Transformer and SpikingJelly 2.0's SpikeDrivenTransformer.
    """

    name = "sdt_v1"

    def missing(self, model: nn.Module) -> list[str]:
        """What ``model`` lacks."""
        return super().missing(model) or lacks(model, "head_lif")
