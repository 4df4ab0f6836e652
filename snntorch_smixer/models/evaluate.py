"""Classification accuracy, and running a network in a mode that is not its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def in_mode(net: nn.Module, *, training: bool) -> Iterator[None]:
    """Put ``net`` into training or evaluation mode; afterwards every submodule is in the mode in which it was."""
    modes = {module: module.training for module in net.modules()}
    net.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def accuracy(net: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 250) -> float:
    """Share of normalised ``images`` that ``net`` classifies correctly, in evaluation mode; the mode is restored.

    Args:
        net: classifier, images ``(B, C, H, W)`` to logits ``(B, K)``.
        images: ``(n, C, H, W)``.
        labels: int64 ``(n,)``.
        batch_size: images per call.
    """
    device = next(net.parameters()).device
    right = 0
    with in_mode(net, training=False), torch.no_grad():
        for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            right += int((net(x.to(device)).argmax(1).cpu() == y.cpu()).sum())
    return right / len(labels)
