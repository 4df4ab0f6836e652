"""BatchNorm as pure functions that agree with torch's module bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.errors import LayoutError, SettingError


@dataclass(frozen=True, eq=False)
class NormCall:
    """One call of a BatchNorm: everything but the input and the two parameters.

    Attributes:
        running_mean: ``(C,)`` to update (batch statistics) or to use (evaluation); None where none is tracked.
        running_var: as ``running_mean``.
        by_batch: True when the statistics of this very batch normalise it.
        momentum: weight of this batch in the running statistics.
        eps: added to the variance.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    by_batch: bool
    momentum: float
    eps: float


def fold(z: Tensor) -> Tensor:
    """Tokens ``(..., N, C)`` to ``(M, C)``, maps ``(T, B, C, H, W)`` to ``(T*B, C, H, W)``: what torch normalises."""
    return shapes.fold_steps(z) if z.dim() == 5 else z.flatten(0, -2)


def check_norm(where: str, z: Tensor, norm: nn.Module) -> None:
    """Raise unless ``norm`` is a plain BatchNorm1d on tokens, or BatchNorm2d on maps, that fits ``z``."""
    if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d):
        raise SettingError(
            f"{where}: expected nn.BatchNorm1d or nn.BatchNorm2d, got {type(norm).__name__}; use the plain path for it"
        )
    is_map = isinstance(norm, nn.BatchNorm2d)
    if z.dim() != 5 if is_map else z.dim() not in (3, 4):
        wanted = "maps (T, B, C, H, W)" if is_map else "tokens (T, B, N, C)"
        raise LayoutError(f"{where}: expected {wanted}, got shape {tuple(z.shape)}; fold nothing before the call")
    channels = z.shape[2] if is_map else z.shape[-1]
    if channels != norm.num_features:
        raise LayoutError(
            f"{where}: expected {norm.num_features} channels, got {channels} in shape {tuple(z.shape)}; "
            "pass the output of the map that this BatchNorm belongs to"
        )


def begin_norm(norm: Any, z: Tensor) -> NormCall:
    """What ``norm.forward`` decides before it calls torch; counts the batch, as it does.

    Raises:
        LayoutError: batch statistics of one value per channel. Of an empty batch there are none to take.
    """
    by_batch = norm.training or norm.running_mean is None
    if by_batch and 0 < z.numel() <= norm.num_features:
        raise LayoutError(
            f"norm_fire: expected more than one value per channel in training, got shape {tuple(z.shape)}; "
            "pass a larger batch, or call eval() on the network"
        )
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            momentum = 1 / float(norm.num_batches_tracked)
    uses = not norm.training or norm.track_running_stats
    mean, var = (norm.running_mean, norm.running_var) if uses else (None, None)
    return NormCall(mean, var, by_batch, momentum, norm.eps)


def normalise(
    z: Tensor, weight: Tensor | None, bias: Tensor | None, call: NormCall
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Normalised ``z`` and the pair to keep for backward: mean and 1 / std of the batch, or the running statistics.

    Args:
        z: folded, see `fold`.
        weight: ``(C,)`` or None.
        bias: ``(C,)`` or None.
        call: settings; its running statistics are updated in place where the batch is used.
    """
    if not z.numel():  # its statistics would be NaN, and the running ones after it
        return z.clone(), z.new_zeros(z.shape[1]), z.new_ones(z.shape[1])
    y, mean, invstd = torch.native_batch_norm(
        z, weight, bias, call.running_mean, call.running_var, call.by_batch, call.momentum, call.eps
    )
    # Copies, because a training pass may change the running statistics before the backward pass comes.
    return (y, mean, invstd) if call.by_batch else (y, _copy(call.running_mean), _copy(call.running_var))


def renormalise(
    z: Tensor, weight: Tensor | None, bias: Tensor | None, call: NormCall, kept: tuple[Tensor | None, Tensor | None]
) -> Tensor:
    """The same bits as `normalise` gave, without touching any statistics.

    Args:
        z: as it was.
        weight: as it was.
        bias: as it was.
        call: as it was.
        kept: the pair that `normalise` returned.
    """
    mean, second = kept
    if not z.numel():
        return z.clone()
    if not call.by_batch:
        return torch.native_batch_norm(z, weight, bias, mean, second, False, 0.0, call.eps)[0]
    if second is None or not _has_linear_kernel(z, weight):
        return torch.native_batch_norm(z, weight, bias, None, None, True, 0.0, call.eps)[0]
    # torch's CPU kernel takes y = z * (w / std) + (b - mean * (w / std)), one fused multiply-add per element, which no
    # plain expression repeats. Given a variance of 1 and w / std for w, the same kernel in evaluation mode does.
    scale = second if weight is None else second * weight
    return torch.native_batch_norm(z, scale, bias, mean, torch.ones_like(second), False, 0.0, 0.0)[0]


def _has_linear_kernel(z: Tensor, weight: Tensor | None) -> bool:
    dense = z.is_contiguous() or (z.dim() == 4 and z.is_contiguous(memory_format=torch.channels_last))
    wide = weight is None or weight.dtype in (torch.float32, torch.float64)
    return z.device.type == "cpu" and dense and wide


def norm_backward(
    grad: Tensor,
    z: Tensor,
    weight: Tensor | None,
    call: NormCall,
    kept: tuple[Tensor | None, Tensor | None, tuple[bool, bool, bool]],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of ``z``, weight and bias: torch's own, so equal to plain BatchNorm's bit for bit.

    Args:
        grad: gradient of the normalised values, folded.
        z: as it was, folded.
        weight: as it was.
        call: as it was.
        kept: the pair that `normalise` returned, and which of the three gradients are needed.
    """
    first, second, wanted = kept
    if not z.numel():  # torch's kernel ends the process
        return _wanted((torch.zeros_like(z), *(z.new_zeros(z.shape[1]) for _ in range(2))), wanted)
    none = None, None
    of_batch, running = ((first, second), none) if call.by_batch else (none, (first, second))
    # With the strides it came with: torch has a faster kernel for a contiguous gradient, which rounds other sums.
    found = torch.ops.aten.native_batch_norm_backward(
        grad, z, weight, *running, *of_batch, call.by_batch, call.eps, list(wanted)
    )
    return _wanted(found, wanted)


def _copy(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.clone()


def _wanted(grads: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    by_z, by_weight, by_bias = (g if want else None for g, want in zip(grads, wanted, strict=True))
    return by_z, by_weight, by_bias
