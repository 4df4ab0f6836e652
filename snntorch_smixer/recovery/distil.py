"""Distillation without labels: the pruned net follows the logits of the unpruned one by gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snntorch_smixer.errors import MeasureError
from snntorch_smixer.recovery.inputs import batches
from snntorch_smixer.recovery.quality import logits
from snntorch_smixer.recovery.settings import RecoverySettings
from snntorch_smixer.recovery.statistics import Norm


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of the teacher's distribution from the student's at a temperature, times its square.

    Args:
        student: logits ``(B, K)``.
        teacher: logits ``(B, K)``.
        temperature: both are divided by it.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015.
    """
    mine = F.log_softmax(student.float() / temperature, 1)
    theirs = F.log_softmax(teacher.float() / temperature, 1)
    return F.kl_div(mine, theirs, reduction="batchmean", log_target=True) * temperature**2


def distil(
    model: nn.Module,
    teacher: nn.Module,
    loader: Iterable[Any],
    *,
    settings: RecoverySettings,
    shown: Callable[[int], None],
    batch_count: int,
) -> float:
    """Train ``model`` in place; BatchNorms use the statistics of the batch, all else runs as in evaluation.

    Args:
        model: pruned.
        teacher: unpruned, in evaluation mode.
        loader: unlabelled batches, gone through once per epoch.
        settings: see `RecoverySettings`.
        shown: is called with the number of inputs after each step.
        batch_count: batches of one epoch.

    Returns:
        The mean loss of the last epoch.

    Raises:
        MeasureError: the loss is not finite.
    """
    total = max(1, settings.epochs * batch_count)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=0.0)
    for module in model.modules():
        module.training = isinstance(module, Norm)
    losses = [0.0]
    for epoch in range(settings.epochs):
        losses = []
        for sample in batches("recover", loader, model):
            rate = _rate(epoch * batch_count + len(losses), total)
            optimizer.param_groups[0]["lr"] = settings.lr * rate
            loss = _loss(model, teacher, sample.x, settings)
            losses.append(_finite(loss))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 5.0)
            optimizer.step()
            shown(sample.count)
    model.eval()
    return math.fsum(losses) / max(1, len(losses))


def _rate(step: int, total: int) -> float:
    """Learning rate over its peak: up over at most 50 steps, then down to 0 as a cosine."""
    warm = min(1.0, (step + 1) / max(1, min(50, total // 10)))
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))


def _loss(model: nn.Module, teacher: nn.Module, x: Tensor, settings: RecoverySettings) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        with torch.no_grad():
            wanted = logits(teacher, x)
        return divergence(logits(model, x), wanted, settings.temperature)


def _finite(loss: Tensor) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise MeasureError(f"recover: the loss of distillation is {value}. Pass a lower lr; the model is as before.")
    return value
