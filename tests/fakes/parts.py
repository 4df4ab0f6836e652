"""What the stand-ins of several families share."""

import torch
from torch import Tensor, nn


def per_step(x: Tensor, *layers: nn.Module) -> Tensor:
    """Apply layers that know no time to (T, B, ...)."""
    flat = x.flatten(0, 1)
    for layer in layers:
        flat = layer(flat)
    return flat.unflatten(0, x.shape[:2])


def per_step_linear(x: Tensor, linear: nn.Linear, bn: nn.BatchNorm1d) -> Tensor:
    """Linear over the channels of (T, B, N, C), then a BatchNorm1d that wants them before the tokens."""
    flat = linear(x.flatten(0, 1))
    return bn(flat.transpose(-1, -2)).transpose(-1, -2).unflatten(0, x.shape[:2])


class DropPath(nn.Module):
    """Drop a residual branch per sample, in training; the batch is axis ``axis``."""

    def __init__(self, rate: float, axis: int) -> None:
        super().__init__()
        self.rate, self.axis = rate, axis

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        shape = [size if axis == self.axis else 1 for axis, size in enumerate(x.shape)]
        return x * (torch.rand(shape, device=x.device) >= self.rate) / (1 - self.rate)
