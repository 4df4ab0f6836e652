"""Layers whose neurons really fire: without that, two silent layers would look equal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from snntorch_smixer.neurons import LIF
from snntorch_smixer.selection import Selection


def _settle(layer: nn.Module, *args: Tensor) -> nn.Module:
    """Take the statistics of BatchNorm from one batch and switch to evaluation."""
    norms = [module for module in layer.modules() if isinstance(module, _BatchNorm)]
    assert norms
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        layer.train()(*args)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    return layer.eval()


@contextmanager
def _firing(layer: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Give the spikes of each LIF by its path, and check at the end that 5 % to 60 % of each fired."""
    neurons = {name: module for name, module in layer.named_modules() if isinstance(module, LIF)}
    assert neurons
    seen: dict[str, list[Tensor]] = {name: [] for name in neurons}
    hooks = [
        neuron.register_forward_hook(lambda module, args, out, name=name: seen[name].append(out.detach()))
        for name, neuron in neurons.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
    rates = {name: torch.cat([s.flatten() for s in spikes]).float().mean().item() for name, spikes in seen.items()}
    assert all(0.05 < rate < 0.6 for rate in rates.values()), rates


@contextmanager
def _inputs(*modules: nn.Module) -> Iterator[list[Tensor]]:
    """Give what the modules receive, in the order of their calls."""
    seen: list[Tensor] = []
    hooks = [module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach())) for module in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _choose(x: Tensor, keep: int, *, spike_cap: int | None = None) -> Selection:
    """A selection of ``keep`` of the N tokens of ``x``, other ones for each sample, in position order."""
    steps, batch, full = x.shape[:3]
    tokens = torch.stack([torch.randperm(full)[:keep] for _ in range(batch)])
    return Selection(
        steps=torch.arange(steps).repeat(batch, 1),
        tokens=tokens.sort(1).values,
        full_steps=steps,
        full_tokens=full,
        spike_cap=spike_cap,
    )


@pytest.fixture
def settle() -> Callable[..., nn.Module]:
    return _settle


@pytest.fixture
def firing() -> Callable:
    return _firing


@pytest.fixture
def inputs() -> Callable:
    return _inputs


@pytest.fixture
def choose() -> Callable[..., Selection]:
    return _choose
