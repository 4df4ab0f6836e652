"""How the tests of the memory modes compare two modes, and that this comparison can fail."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from snntorch import SpikingNeuron
from torch import Tensor, nn

from snntorch_smixer.layers.memory import memory_mode
from snntorch_smixer.layers.mlp import SpikingMLP

LEAN = ("fused", "recompute")
SHARE = {"fused": 0.55, "recompute": 0.25}
"""Of what the plain layers keep, at most; tiny layers keep a larger share than real ones."""


@dataclass(frozen=True)
class Ran:
    """One forward and backward pass: results, statistics afterwards, and bytes that were kept in between."""

    out: Tensor
    grads: dict[str, Tensor | None]
    buffers: dict[str, Tensor]
    saved: int


def ran(
    model: nn.Module,
    mode: str,
    *args: object,
    chunks: int = 1,
    autocast: torch.dtype | None = None,
    forward: Callable[..., Tensor] | None = None,
) -> Ran:
    """A copy of ``model`` after one pass in ``mode`` from a fixed seed; ``forward(copy, *args)`` instead of its own."""
    model, kept = copy.deepcopy(model), []
    model.zero_grad()
    torch.manual_seed(1)
    with (
        memory_mode(model, mode, chunks=chunks),
        torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.untyped_storage()) or t, lambda t: t),
    ):
        out = model(*args) if forward is None else forward(model, *args)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    saved = {s.data_ptr(): s.nbytes() for s in kept if s.data_ptr() not in own}
    torch.manual_seed(2)
    (out * torch.randn_like(out)).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    return Ran(out.detach(), grads, dict(model.named_buffers()), sum(saved.values()))


def worst(grads: dict[str, Tensor | None], wanted: dict[str, Tensor | None]) -> float:
    """Largest relative error of a parameter's gradient."""
    assert grads.keys() == wanted.keys()
    assert any(grad is not None for grad in wanted.values())
    errors = [0.0]
    for name, want in wanted.items():
        got = grads[name]
        assert (got is None) == (want is None), name
        if want is not None:
            assert got.dtype == want.dtype
            assert want.any(), f"{name}: no gradient at all, so nothing is compared"
            errors.append(((got - want).norm() / want.norm()).item())
    return max(errors)


def assert_same(got: Ran, want: Ran, *, tol: float = 1e-5, rounding: float = 0.0) -> None:
    """Bit-equal results and statistics (or up to ``rounding``), gradients up to ``tol``."""
    for name, value in {**want.buffers, "out": want.out}.items():
        other = got.out if name == "out" else got.buffers[name]
        assert other.dtype == value.dtype
        if rounding:
            equal = bool((other - value).double().norm() <= rounding * value.double().norm())
        else:
            equal = torch.equal(other, value)
        assert equal, f"{name} differs"
    error = worst(got.grads, want.grads)
    assert error <= tol, f"gradient error {error:.1e}"


def assert_fires(model: nn.Module, *args: object, least: float = 0.01) -> None:
    """Every neuron layer spikes here, and none all the time: two silent layers would look equal."""
    model, rates = copy.deepcopy(model), {}
    for name, module in model.named_modules():
        if isinstance(module, SpikingNeuron):
            module.register_forward_hook(lambda _, __, out, name=name: rates.update({name: out.float().mean().item()}))
    with torch.no_grad():
        model(*args)
    assert rates
    assert all(least < rate < 0.95 for rate in rates.values()), rates


def check(
    model: nn.Module,
    *args: object,
    tol: float = 1e-5,
    autocast: torch.dtype | None = None,
    forward: Callable[..., Tensor] | None = None,
    share: dict[str, float] = SHARE,
    least: float = 0.01,
) -> None:
    """Both lean modes are lean, and give what the plain layers give."""
    assert_fires(model, *args, least=least)
    want = ran(model, "reference", *args, autocast=autocast, forward=forward)
    for mode in LEAN:
        got = ran(model, mode, *args, autocast=autocast, forward=forward)
        assert_same(got, want, tol=tol)
        assert got.saved < share[mode] * want.saved, (mode, got.saved / want.saved)


@pytest.fixture
def firing_mlp(settle) -> tuple[nn.Module, Tensor]:
    x = torch.randn(2, 3, 4, 8)
    return settle(SpikingMLP(8), x), x


def test_comparison_passes_on_a_layer_and_itself(firing_mlp):
    layer, x = firing_mlp
    assert_fires(layer, x)
    assert_same(ran(layer, "reference", x), ran(layer, "reference", x), tol=0.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda run: replace(run, out=run.out * (1 + 1e-6)),
        lambda run: replace(run, grads={name: grad * (1 + 2e-5) for name, grad in run.grads.items()}),
        lambda run: replace(run, grads={**run.grads, "expand.norm.bias": None}),
        lambda run: replace(run, buffers={name: value + 1 for name, value in run.buffers.items()}),
    ],
    ids=["out", "gradient", "missing gradient", "statistics"],
)
def test_comparison_finds_a_small_difference(firing_mlp, change):
    layer, x = firing_mlp
    run = ran(layer, "reference", x)
    with pytest.raises(AssertionError, match=r"differs|gradient error|expand"):
        assert_same(change(run), run)


def test_comparison_refuses_a_silent_layer(firing_mlp):
    layer, x = firing_mlp
    with pytest.raises(AssertionError):
        assert_fires(layer, x - 100)
