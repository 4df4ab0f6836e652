"""Networks of other packages that are measured beside ours where they are installed."""

from __future__ import annotations

import copy
import importlib
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn


def spikingjelly_peers(batch: int) -> list[tuple[str, nn.Module, Tensor]]:
    """SpikingJelly's Spikformer-4-384 for CIFAR-100, plain and after its ``memopt`` at level 1; empty without it.

    Args:
        batch: images of the input.

    Returns:
        Name, model and images ``(B, 3, 32, 32)``; no steps axis, the model repeats them 4 times.
    """
    if find_spec("spikingjelly") is None or find_spec("spikingjelly.activation_based.memopt") is None:
        return []
    home = "spikingjelly.activation_based"
    spikformer = importlib.import_module(f"{home}.model.spikformer")
    functional, memopt = importlib.import_module(f"{home}.functional"), importlib.import_module(f"{home}.memopt")
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    plain = FromRest(spikformer.spikformer_cifar10(T=4, num_classes=100), functional)
    lean = copy.deepcopy(plain).train()
    targets = (
        spikformer.SpikformerConv2dBN,
        spikformer.SpikformerConv2dBNLIF,
        spikformer.SpikformerMLP,
        spikformer.SpikingSelfAttention,
    )
    # memopt runs the model once to find the inputs that are spikes, which it then keeps as bits.
    memopt.optimize_memory(lean.net, targets, lambda _: lean(x[:2]), level=1)
    return [("spikformer_cifar10", plain, x), ("spikformer_cifar10 memopt", lean, x)]


class FromRest(nn.Module):
    """A SpikingJelly model whose neurons are reset before and after each call.

    Args:
        net: gives logits ``(T, B, K)`` or ``(B, K)``.
        functional: SpikingJelly's module of this name.
    """

    def __init__(self, net: nn.Module, functional: Any) -> None:
        super().__init__()
        self.net = net
        self.reset_net = functional.reset_net

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)``."""
        self.reset_net(self.net)
        y: Tensor = self.net(x)
        self.reset_net(self.net)
        return y.mean(0) if y.dim() == 3 else y
