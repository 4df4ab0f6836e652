"""SMixerNet: stem, pruning, encoding blocks, head."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from snntorch_smixer.layers.attention import SpikingSelfAttention
from snntorch_smixer.layers.block import EncodingBlock
from snntorch_smixer.layers.encode import encode
from snntorch_smixer.layers.head import ClassifierHead
from snntorch_smixer.layers.mixer import SpikingTokenMixer
from snntorch_smixer.layers.mlp import SpikingMLP
from snntorch_smixer.layers.stem import SpikingPatchSplitting
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.neurons import LIF, Dspike
from snntorch_smixer.pruning.pruner import DSTSP
from snntorch_smixer.selection import Selection


class SMixerNet(nn.Module):
    """The paper's network on images or event frames.

    Images ``(B, C, H, W)`` are shown for T steps (direct coding); event frames are ``(T, B, C, H, W)``. Neurons are
    multi-step: nothing has to be reset between calls.

    Attributes:
        config: the `SMixerConfig` it was built from.
        dstsp: the pruning, or None; settings can be changed at any time, ``net.dstsp.ps = 0.2``.
    """

    def __init__(self, config: SMixerConfig | None = None) -> None:
        super().__init__()
        config = SMixerConfig() if config is None else config
        self.config = config
        neuron = partial(LIF, config.beta, threshold=config.threshold, spike_grad=Dspike(config.gamma))
        self.stem = SpikingPatchSplitting(config.in_channels, config.dim, strides=config.strides, neuron=neuron)
        self.dstsp: DSTSP | None
        self.register_module("dstsp", None if config.prune is None else DSTSP(config.prune, depth=config.depth))
        blocks = []
        for _ in range(config.depth):
            if config.mixer == "ssa":
                mixer: SpikingSelfAttention | SpikingTokenMixer = SpikingSelfAttention(
                    config.dim, heads=config.heads, neuron=neuron
                )
            else:
                mixer = SpikingTokenMixer(config.dim, num_tokens=config.num_tokens, heads=config.heads, neuron=neuron)
            mlp = SpikingMLP(config.dim, hidden=round(config.dim * config.mlp_ratio), neuron=neuron)
            blocks.append(EncodingBlock(mixer, mlp))
        self.blocks = nn.ModuleList(blocks)
        self.head = ClassifierHead(config.dim, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)``, the mean over the kept steps.

        Raises:
            LayoutError: wrong rank, number of steps, channels or size.
        """
        return self.step_logits(x).mean(0)

    def step_logits(self, x: Tensor) -> Tensor:
        """Logits of each kept step, ``(T', B, K)``, for losses over steps such as those of ``snntorch.functional``."""
        return self.head(self.forward_features(x)[0])

    def forward_features(self, x: Tensor) -> tuple[Tensor, Selection | None]:
        """Tokens ``(T', B, N', C)`` behind the last block, and what pruning kept (None: everything)."""
        x, kept = self.tokens(x), None
        for index, block in enumerate(self.blocks):
            x, kept = self.prune(x, kept, index)
            x = block(x, kept)
        return x, kept

    def tokens(self, x: Tensor) -> Tensor:
        """Stem output, real-valued tokens ``(T, B, N, C)``."""
        c = self.config
        frames = encode(x, steps=c.T, channels=c.in_channels, size=c.img_size)
        return self.stem(frames, steps=c.T)

    def first_spikes(self, tokens: Tensor, block: int = 0) -> Tensor:
        """Spikes ``(T, B, N, C)`` of the first neuron of a block on the stream in front of it: where SIV is taken."""
        with torch.no_grad():
            return cast(EncodingBlock, self.blocks[block]).first_spikes(tokens)

    def prune(self, tokens: Tensor, kept: Selection | None = None, block: int = 0) -> tuple[Tensor, Selection | None]:
        """DSTSP in front of a block; ``(tokens, kept)`` where there is nothing to prune."""
        if self.dstsp is None or not self.dstsp.prunes(tokens, kept, block):
            return tokens, kept
        return self.dstsp(tokens, self.first_spikes(tokens, block), kept, block)
