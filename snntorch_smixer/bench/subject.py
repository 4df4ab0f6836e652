"""A model that is about to be measured in one training step, put back afterwards; with weights or with shapes alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from snntorch_smixer.modes import in_mode, undisturbed


@dataclass(frozen=True)
class Subject:
    """A model and its input, ready for training steps.

    Attributes:
        model: in training mode, without gradients.
        x: its input.
        autocast: dtype of the forward pass under ``torch.autocast``, or None.
    """

    model: nn.Module
    x: Tensor
    autocast: torch.dtype | None = None

    def forward(self) -> Tensor:
        """Output of the model, with its graph."""
        # Without a dtype an autocast of the caller stays as it is.
        with nullcontext() if self.autocast is None else torch.autocast(self.x.device.type, dtype=self.autocast):
            out: Tensor = self.model(self.x)
        return out

    def step(self) -> None:
        """Forward and backward; the gradient of the output is one everywhere, which no measurement here depends on."""
        out = self.forward()
        if out.requires_grad:
            out.backward(torch.ones_like(out))


@contextmanager
def training(
    model: nn.Module, x: Tensor, *, fake: bool = False, autocast: torch.dtype | None = None
) -> Iterator[Subject]:
    """A model ready for a training step; mode, buffers and gradients are restored.

    Args:
        model: any module.
        x: its input.
        fake: run on shapes alone: weights, buffers and input are replaced by torch's fake tensors, so nothing is
            computed and no memory is used. Not for models whose control flow depends on values.
        autocast: dtype of the forward pass under ``torch.autocast``, or None.
    """
    with undisturbed(), in_mode(model, training=True), _restored(model):
        if not fake:
            yield Subject(model, x, autocast)
            return
        # Constants that are no buffers, such as those of a surrogate, are converted as they are met.
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            _replace(model, mode)
            yield Subject(model, mode.from_tensor(x), autocast)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    modules = list(model.modules())
    # A stateful neuron puts another tensor in the place of its buffer, BatchNorm writes into its own: both are undone.
    holders = [(m, dict(m._parameters), dict(m._buffers)) for m in modules]
    values = [(b, b.detach().clone()) for *_, held in holders for b in held.values() if b is not None]
    grads = [(p, p.grad) for p in model.parameters()]
    for p, _ in grads:
        p.grad = None
    for module, _, buffers in holders:  # the step does not run back through a forward of the caller
        live = {name: b.detach().clone() for name, b in buffers.items() if b is not None and not b.is_leaf}
        module._buffers.update(live)
    try:
        yield
    finally:
        for module, parameters, buffers in holders:
            module._parameters.update(parameters)
            module._buffers.update(buffers)
        for p, grad in grads:
            p.grad = grad
        _write_back(values)


@torch.no_grad()
def _write_back(values: list[tuple[Tensor, Tensor]]) -> None:
    """Only what differs, because a write cuts a graph that holds a buffer; BatchNorm's own writes count no version."""
    for buffer, value in values:
        if isinstance(buffer, FakeTensor) or not torch.equal(buffer, value):
            buffer.copy_(value)


def _replace(model: nn.Module, mode: FakeTensorMode) -> None:
    """Put fake tensors in the place of all parameters and buffers; the mode gives a shared tensor the same one."""
    holders: list[dict[str, Any]] = [d for module in model.modules() for d in (module._parameters, module._buffers)]
    for holder in holders:
        for name, tensor in holder.items():
            if tensor is not None:
                holder[name] = mode.from_tensor(tensor if tensor.is_leaf else tensor.detach())
