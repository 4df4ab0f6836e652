"""Encoding block: token mixer and MLP, each added to a real-valued residual stream."""

from __future__ import annotations

from torch import Tensor, nn

from snntorch_smixer.kernels.spikes import Spikes
from snntorch_smixer.layers.attention import SpikingSelfAttention
from snntorch_smixer.layers.memory import fire_lean, has_hooks, is_known
from snntorch_smixer.layers.mixer import SMixer
from snntorch_smixer.layers.mlp import SpikingMLP
from snntorch_smixer.layers.unit import fire
from snntorch_smixer.selection import Selection


class EncodingBlock(nn.Module):
    """``x += mixer(x); x += mlp(x)``. Source: paper, encoding block; STMixer's Encoder.

    Args:
        mixer: `SMixer`, or `SpikingSelfAttention` as the baseline.
        mlp: `SpikingMLP`.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import EncodingBlock, SMixer, SpikingMLP
        >>> EncodingBlock(SMixer(32, num_tokens=16, heads=4), SpikingMLP(32))(torch.randn(4, 2, 16, 32)).shape
        torch.Size([4, 2, 16, 32])
    """

    def __init__(self, mixer: SMixer | SpikingSelfAttention, mlp: SpikingMLP) -> None:
        super().__init__()
        self.mixer = mixer
        self.mlp = mlp

    def forward(self, x: Tensor, kept: Selection | None = None) -> Tensor:
        """``(T, B, N', C)`` to ``(T, B, N', C)``."""
        x = x + self.mixer(x, kept)
        return x + self.mlp(x, kept)

    def first_spikes(self, x: Tensor) -> Tensor:
        """Spikes of this block's first neuron on the real-valued stream: where SIV is taken."""
        return fire(self._first_neuron, x)

    def counted_spikes(self, x: Tensor) -> Tensor | Spikes:
        """`first_spikes` with their bits, on which SIV is counted, where the fused kernels serve the neuron."""
        neuron = self._first_neuron
        if neuron is None or not is_known(neuron) or has_hooks(neuron):
            return fire(neuron, x)
        return fire_lean(neuron, x)

    @property
    def _first_neuron(self) -> nn.Module | None:
        mixer = self.mixer
        return mixer.neuron if isinstance(mixer, SpikingSelfAttention) else mixer.value.neuron
