"""Wrapped models in their memory modes, for the tests of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack as function_modes

from snntorch_smixer import set_memory
from snntorch_smixer.modes import innermost_saved
from tests.fakes.neurons import reset
from tests.fakes.wrapped import FAKES, wrapped

FAKE = FAKES["spikformer_cifar"]
LEAN = pytest.mark.parametrize("mode", ["fused", "recompute"])
X = FAKE.example(4)


def made(mode: str = "reference", **settings) -> nn.Module:
    model = wrapped(FAKE, mode=True, **(settings or {"ps": 0, "t": None, "swap": False})).model
    set_memory(model, mode)
    return model


def loss_of(model: nn.Module, x: Tensor = X) -> Tensor:
    reset(model)
    torch.manual_seed(3)
    out = model(x)
    return (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum()


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def check_alike(model: nn.Module, other: nn.Module) -> None:
    pairs = [*zip(gradients(model), gradients(other), strict=True)]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(a.any() for a, _ in pairs)


def trained(mode: str, step: Callable[[nn.Module], None], **settings) -> nn.Module:
    model = made(mode, **settings)
    step(model)
    return model


def check_nothing_left(model: nn.Module) -> None:
    assert innermost_saved() is None
    assert function_modes() == []
    assert [name for name, module in model.named_modules() if "forward" in vars(module)] == []


def check_same_as_reference(step: Callable[[nn.Module], None], mode: str, **settings) -> nn.Module:
    lean = trained(mode, step, **settings)
    check_alike(lean, trained("reference", step, **settings))
    check_nothing_left(lean)
    return lean


def one_step(model: nn.Module) -> None:
    loss_of(model).backward()
