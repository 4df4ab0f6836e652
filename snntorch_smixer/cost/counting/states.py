"""Putting every neuron of a model at rest for a while, and back."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.cost.counting.notes import erase
from snntorch_smixer.neurons import reset


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Neurons start at rest; afterwards buffers, states and attributes of every module are what they were.

    Knows snnTorch's ``reset_mem``, and ``reset`` or ``n_reset`` without arguments as SpikingJelly's ``reset_net`` does.
    """
    held = [(m, _held(m)) for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    found = {id(x): x for _, parts in held for part in parts.values() for x in _tensors(part)}
    tensors = [(x, x.detach().clone(), _version(x)) for x in found.values()]
    lists = [(x, list(x)) for _, parts in held for part in parts.values() for x in part.values() if type(x) is list]
    try:
        reset(model)
        for module in model.modules():
            _reset(module)
        yield
    finally:
        for module, parts in held:
            for name, part in parts.items():
                live = module.__dict__[name] if name else module.__dict__
                live.clear()
                live.update(part)
        for items, content in lists:
            items[:] = content
        # Only what was written into: a write cuts a graph that holds a membrane.
        for x, value in ((x, value) for x, value, version in tensors if version is None or x._version != version):
            x.detach().copy_(value)
        for x in found.values():
            erase(x)
        for x in model.parameters():
            erase(x)


def _version(x: Tensor) -> int | None:
    return None if x.is_inference() else x._version


def _reset(module: nn.Module) -> None:
    if not _is_neuron(module):
        return
    for name in ("reset", "n_reset"):
        method = getattr(module, name, None)
        if callable(method) and all(p.default is not p.empty for p in inspect.signature(method).parameters.values()):
            method()


def _is_neuron(module: nn.Module) -> bool:
    """True for SpikingJelly's modules, and for others without weights: a reset of those could draw them anew."""
    library = any(c.__module__.startswith("spikingjelly") for c in type(module).__mro__)
    return library or next(module.parameters(), None) is None


def _held(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Buffers, memories and attributes of one module, as they are."""
    names = [name for name in ("_buffers", "_memories") if name in module.__dict__]
    return {"": dict(module.__dict__)} | {name: dict(module.__dict__[name]) for name in names}


def _tensors(part: dict[str, Any]) -> Iterator[Tensor]:
    for value in part.values():
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            yield value
