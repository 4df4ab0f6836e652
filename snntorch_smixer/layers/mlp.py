"""Spiking MLP: the channel mixer of an encoding block."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.layers.memory import KeepsLess, chain, is_lean
from snntorch_smixer.layers.unit import Unit
from snntorch_smixer.neurons import LIF
from snntorch_smixer.selection import Selection


class SpikingMLP(KeepsLess):
    """neuron - linear C to H - BN - neuron - linear H to C - BN. Source: STMixer's FFN.

    Args:
        dim: C, channels of a token.
        hidden: H; None means ``4 * dim``.
        neuron: makes one spiking neuron.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import SpikingMLP
        >>> SpikingMLP(32)(torch.randn(4, 2, 16, 32)).shape  # (T, B, N, C)
        torch.Size([4, 2, 16, 32])
    """

    def __init__(self, dim: int, *, hidden: int | None = None, neuron: Callable[[], nn.Module] = LIF) -> None:
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        self.dim = dim
        self.expand = Unit(nn.Linear(dim, hidden, bias=False), neuron())
        self.contract = Unit(nn.Linear(hidden, dim, bias=False), neuron())

    def forward(self, x: Tensor, kept: Selection | None = None) -> Tensor:
        """Mix channels of ``(T, B, N', C)``; ``kept`` only supplies the spike cap."""
        shapes.check_token_axes("SpikingMLP", x, channels=self.dim)
        cap = None if kept is None else kept.spike_cap
        units = (self.expand, self.contract)
        if cap is None and is_lean(self, units):
            return cast(Tensor, chain(self, units, x))
        return self.contract(self.expand(x, cap), cap)
