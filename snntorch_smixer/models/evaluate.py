"""Classification accuracy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snntorch_smixer.modes import in_mode


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
