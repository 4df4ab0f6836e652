"""What a module does, found out by calling copies of it: neurons, their levels and memories, bare residuals."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from snntorch_smixer.patching.observe import Call, Observation, reset_copy


def without_weights(block: nn.Module) -> nn.Module:
    """A copy that adds nothing to its input: what is left of the input shows where the residual runs."""
    empty = copy.deepcopy(block)
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.zero_()
    return empty


def is_neuron(module: nn.Module, x: Tensor) -> bool:
    """True when ``module`` turns any numbers into a few non-negative levels of the same shape, and has no weights."""
    if any(p.dim() > 1 for p in module.parameters()) or any(isinstance(m, _BatchNorm) for m in module.modules()):
        return False
    try:
        twin = reset_copy(module).train(module.training)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            drawn = torch.rand_like(x) * 8 - 2
            out = copy.deepcopy(twin)(drawn)
            return has_few_levels(out, x) and not _mixes_tokens(twin, drawn, out)
    except Exception:  # noqa: BLE001 - foreign code that is no neuron may raise anything
        return False


def _mixes_tokens(module: nn.Module, x: Tensor, out: Tensor) -> bool:
    """True where the first entries of the last two axes reach others, as in a mixer that ends in a neuron."""
    for axis in (-1, -2)[: x.dim() - 1]:
        changed = x.clone()
        changed.select(axis, 0).mul_(-1)
        torch.manual_seed(0)
        torch.rand_like(x)
        after = copy.deepcopy(module)(changed)
        if not torch.equal(*(one.narrow(axis, 1, x.shape[axis] - 1) for one in (out, after))):
            return True
    return False


def has_few_levels(out: object, x: Tensor) -> bool:
    """True for a few non-negative levels of the shape of ``x``, not all of them 0: what a neuron gives."""
    if not isinstance(out, Tensor) or out.shape != x.shape or out.min() < 0 or out.max() <= 0:
        return False
    return len(out.flatten()[:: max(1, out.numel() // 4096)].unique()) <= 17


def keeps_state(neuron: nn.Module, x: Tensor) -> bool:
    """True when a call leaves something in ``neuron``: a membrane, a counter."""
    twin = copy.deepcopy(neuron)
    before = [dict(vars(m), **m._buffers) for m in twin.modules()]
    with torch.no_grad():
        twin(x)
    after = [dict(vars(m), **m._buffers) for m in twin.modules()]
    memories = any(getattr(m, "_memories", None) for m in twin.modules())  # SpikingJelly 2 keeps v in a dictionary
    return memories or any(old.get(k) is not v for old, new in zip(before, after, strict=True) for k, v in new.items())


def levels_of(module: nn.Module) -> tuple[float, int] | None:
    """(output of one spike, most spikes) of an integer neuron without children or weights, None for all else."""
    if any(True for _ in module.children()) or any(True for _ in module.parameters()):
        return None
    try:
        twin = reset_copy(module)
        with torch.no_grad():
            out = twin(torch.linspace(-2, 40, 4201))
    except Exception:  # noqa: BLE001 - foreign code that is no neuron may raise anything
        return None
    levels = out.unique() if isinstance(out, Tensor) else torch.zeros(0)
    if not 2 < len(levels) <= 33 or levels[0] != 0:
        return None
    return levels[1].item(), len(levels) - 1


def neurons(block: nn.Module, seen: Observation) -> Iterator[Call]:
    """Calls of neurons, the outermost where one holds another."""
    ends = -1
    for call in seen.calls:
        if call.x is None or call.out is None or call.out.shape != call.x.shape or call.start <= ends:
            continue
        if is_neuron(block.get_submodule(call.path), call.x):
            ends = call.end
            yield call
