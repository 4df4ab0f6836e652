"""BatchNorm statistics of what arrives behind the pruning."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.patching.observe import first_tensor
from snntorch_smixer.recovery.inputs import Sample
from snntorch_smixer.recovery.quality import logits

Norm = nn.modules.batchnorm._BatchNorm


def norms_behind(model: nn.Module, teacher: nn.Module, x: Tensor) -> list[str]:
    """Dotted names of the BatchNorms that see other values in ``model`` than in ``teacher``: those behind the pruning.

    Those without running statistics use those of the batch anyway, and are left out.
    """
    seen = [_inputs(net, x) for net in (model, teacher)]
    return [name for name, mine in seen[0].items() if not _same(mine, seen[1].get(name))]


def _same(mine: list[Tensor], theirs: list[Tensor] | None) -> bool:
    return theirs is not None and len(mine) == len(theirs) and all(map(torch.equal, mine, theirs))


@torch.no_grad()
def _inputs(net: nn.Module, x: Tensor) -> dict[str, list[Tensor]]:
    found: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_pre_hook(partial(_note, found.setdefault(name, [])))
        for name, module in net.named_modules()
        if isinstance(module, Norm) and module.track_running_stats
    ]
    try:
        logits(net, x)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: inputs for name, inputs in found.items() if inputs}


def _note(found: list[Tensor], _module: nn.Module, args: Any) -> None:
    x = first_tensor(args)
    if x is not None:
        found.append(x.detach().clone())


@torch.no_grad()
def estimate(model: nn.Module, names: Iterable[str], samples: Iterable[Sample]) -> None:
    """Set running mean and variance of the named BatchNorms to the averages over the batches of ``samples``."""
    norms: list[Any] = [model.get_submodule(name) for name in names]
    before = [(norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True  # the plain average over all batches
    try:
        for sample in samples:
            logits(model, sample.x)
    finally:
        for norm, (momentum, training) in zip(norms, before, strict=True):
            norm.momentum, norm.training = momentum, training
