"""Dense multiply-accumulates of a forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from snntorch_smixer.modes import in_mode


def dense_macs(model: nn.Module, x: Tensor, *, batch_axis: int = 0) -> float:
    """Multiply-accumulates per sample of one forward pass, every zero counted: convolutions and matrix products.

    This is the paper's "FLOPs" column. Counted by ``torch.utils.flop_counter`` in evaluation mode; the mode is
    restored.

    Args:
        model: any module.
        x: its input.
        batch_axis: axis of ``x`` that counts samples: 0 for images, 1 for event frames.
    """
    with in_mode(model, training=False), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() / 2 / x.shape[batch_axis]
