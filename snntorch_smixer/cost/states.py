"""Putting every neuron of a model at rest for a while, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from snntorch_smixer.neurons import reset


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Neurons start at rest; afterwards buffers, states and attributes of every module are what they were.

    Knows snnTorch's ``reset_mem`` and the ``reset`` of SpikingJelly's modules with memories.
    """
    held = [(module, _held(module)) for module in model.modules()]
    tensors = {id(x): (x, x.detach().clone()) for _, copies in held for copy in copies.values() for x in _tensors(copy)}
    try:
        reset(model)
        for module in model.modules():
            if "_memories" in module.__dict__:
                module.reset()  # type: ignore[operator]
        yield
    finally:
        for module, copies in held:
            for name, copy in copies.items():
                _restore(module, name, copy)
        for x, value in tensors.values():
            x.detach().copy_(value)


_CONTAINERS = ("_buffers", "_memories")


def _held(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Buffers, memories and plain attributes of one module, as they are."""
    own = {k: v for k, v in module.__dict__.items() if isinstance(v, Tensor | int | float | bool | None | list | tuple)}
    return {"": own} | {name: dict(module.__dict__[name]) for name in _CONTAINERS if name in module.__dict__}


def _restore(module: nn.Module, name: str, copy: dict[str, Any]) -> None:
    if name:
        live = module.__dict__[name]
        live.clear()
        live.update(copy)
        return
    module.__dict__.update(copy)


def _tensors(copy: dict[str, Any]) -> Iterator[Tensor]:
    for value in copy.values():
        if isinstance(value, Tensor):
            yield value
