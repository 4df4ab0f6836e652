"""Spiking self-attention, the baseline that SMixer replaces."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.layers.mixer import check_heads
from snntorch_smixer.layers.unit import Unit, fire
from snntorch_smixer.neurons import LIF, check_multi_step
from snntorch_smixer.selection import Selection


class SpikingSelfAttention(nn.Module):
    """``SSA(Q, K, V) = SN(Q K^T V s)``: the baseline, with the interface of `SMixer`.

    ``Q K^T`` multiplies spikes with spikes, which an asynchronous chip cannot do. It needs no ``W_M``, so any token
    count works and pruned tokens need no special care. Source: Spikformer; s = 0.125, and threshold 0.5 after the
    product.

    Args:
        dim: C, channels of a token.
        heads: h; divides ``dim``.
        scale: s.
        neuron: makes one spiking neuron; it must take ``threshold=``.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import SpikingSelfAttention
        >>> SpikingSelfAttention(32, heads=4)(torch.randn(4, 2, 16, 32)).shape
        torch.Size([4, 2, 16, 32])
    """

    def __init__(
        self, dim: int, *, heads: int = 1, scale: float = 0.125, neuron: Callable[..., nn.Module] = LIF
    ) -> None:
        super().__init__()
        check_heads("SpikingSelfAttention", dim, heads)
        self.dim, self.heads, self.scale = dim, heads, scale
        self.neuron = neuron()
        linear = partial(nn.Linear, dim, dim, bias=False)
        self.query, self.key, self.value = (Unit(linear(), None) for _ in range(3))
        self.query_neuron, self.key_neuron, self.value_neuron = (neuron() for _ in range(3))
        self.proj = Unit(linear(), neuron(threshold=0.5))
        for child in (self.neuron, self.query_neuron, self.key_neuron, self.value_neuron):
            check_multi_step("SpikingSelfAttention", child)

    def forward(self, x: Tensor, kept: Selection | None = None) -> Tensor:
        """Attend over tokens ``(T, B, N', C)``; ``kept`` only supplies the spike cap."""
        cap = None if kept is None else kept.spike_cap
        return self.proj(self.attend(x, cap)[1], cap)

    def attend(self, x: Tensor, cap: int | None = None) -> tuple[Tensor, Tensor]:
        """``V`` and ``Q K^T V s``, both ``(T, B, N', C)``: what a matrix over tokens is fitted to."""
        shapes.check_tokens("SpikingSelfAttention", x, channels=self.dim)
        spikes = fire(self.neuron, x, cap)
        q = fire(self.query_neuron, self.query(spikes), cap)
        k = fire(self.key_neuron, self.key(spikes), cap)
        value = fire(self.value_neuron, self.value(spikes), cap)
        q, k, v = (s.unflatten(3, (self.heads, -1)).transpose(2, 3) for s in (q, k, value))  # (T, B, h, N', C/h)
        product = (q @ k.transpose(3, 4)) @ v * self.scale
        return value, product.transpose(2, 3).flatten(3)

    def extra_repr(self) -> str:
        """Channels, heads and scale, for ``print(model)``."""
        return f"dim={self.dim}, heads={self.heads}, scale={self.scale:g}"
