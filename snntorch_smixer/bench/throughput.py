"""Images per second of several models, side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import SettingError


def throughput(models: Mapping[str, nn.Module], x: Tensor, *, rounds: int = 5, batch_axis: int = 0) -> dict[str, float]:
    """Median images per second of each model's forward pass without gradients.

    The models take turns, so that what else the machine does hits all of them; compare the ratios, not the numbers.

    Args:
        models: by name; each keeps its mode.
        x: input.
        rounds: timed passes per model, after one that is not timed.
        batch_axis: axis of ``x`` that counts samples.
    """
    if rounds < 1:
        raise SettingError(f"throughput: rounds={rounds} must be at least 1. Pass how many passes to time.")
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for _ in range(rounds + 1):
            for name, model in models.items():
                seconds[name].append(_time(model, x))
    return {name: x.shape[batch_axis] / median(values[1:]) for name, values in seconds.items()}


def _time(model: nn.Module, x: Tensor) -> float:
    _wait(x)
    start = time.perf_counter()
    model(x)
    _wait(x)
    return time.perf_counter() - start


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
