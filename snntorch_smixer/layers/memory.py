"""The lean forms of layers: what runs where a memory mode other than "reference" is set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.kernels.fire import Firing, fire
from snntorch_smixer.kernels.norm_fire import norm_fire, norm_only
from snntorch_smixer.kernels.recompute import recompute_unit
from snntorch_smixer.kernels.spike_linear import spike_conv2d, spike_linear
from snntorch_smixer.kernels.spikes import Spikes
from snntorch_smixer.layers.unit import Unit
from snntorch_smixer.memory import MODES as MODES
from snntorch_smixer.memory import KeepsLess as KeepsLess
from snntorch_smixer.memory import memory_mode as memory_mode
from snntorch_smixer.memory import memory_of as memory_of
from snntorch_smixer.memory import set_memory as set_memory
from snntorch_smixer.neurons import LIF


def is_lean(layer: KeepsLess, units: Sequence[Unit], neurons: Sequence[nn.Module | None] = ()) -> bool:
    """True where the lean form of a layer gives what the plain one gives, and keeps less.

    Not without gradients, which keep nothing; not under ``torch.compile``, which fuses by itself; not with parts that
    the kernels do not know, or that something hooks into.
    """
    if layer.memory == "reference" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    inside = [unit.neuron for unit in units if unit.neuron is not None] + [n for n in neurons if n is not None]
    known = all(map(is_known, inside))
    parts = [part for unit in units for part in (unit, unit.linear, unit.norm)] + inside
    return known and all(_is_plain(unit) for unit in units) and not any(has_hooks(part) for part in parts)


def is_known(neuron: nn.Module | None) -> bool:
    """True for a neuron that the kernels can stand for."""
    return type(neuron) is LIF and neuron.step_mode == "m" and neuron.keeps_less()


def _is_plain(unit: Unit) -> bool:
    linear = unit.linear
    if isinstance(linear, nn.Conv2d) and (linear.padding_mode != "zeros" or linear.padding == "same"):
        return False
    return type(linear) in (nn.Linear, nn.Conv2d) and type(unit.norm) in (nn.BatchNorm1d, nn.BatchNorm2d)


def has_hooks(module: nn.Module) -> bool:
    """True where something hooks into ``module``, or into every module of the process."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    everywhere = nn.modules.module
    hooked = any(getattr(module, kind) or getattr(everywhere, f"_global{kind}") for kind in kinds)
    return hooked or "forward" in vars(module)  # tools such as accelerate put another forward on one module


class _Layer(Protocol):
    memory: str
    chunks: int


def chain(
    layer: _Layer, units: Sequence[Unit], x: Tensor | Spikes, *, then: nn.Module | None = None, steps: int | None = None
) -> Tensor | Spikes:
    """Units one after the other, in the lean form of ``layer.memory``; each neuron runs with the BatchNorm before it.

    Args:
        layer: says what is kept.
        units: the first one's neuron fires on ``x``, unless ``x`` is spikes already or there is none.
        x: what the units take.
        then: neuron behind the last unit.
        steps: T to show a static ``x`` of one step for.

    Returns:
        Spikes of ``then``; without it what the last BatchNorm gives.
    """
    first = units[0].neuron
    state = x if first is None or isinstance(x, Spikes) else fire_lean(first, x)
    for unit, follower in zip(units, [*(u.neuron for u in units[1:]), then], strict=True):
        firing = None if follower is None else firing_of(follower)
        shown = steps if unit is units[0] else None
        state = _step(layer, unit, state, firing, shown)
    return state


def fire_lean(neuron: nn.Module, x: Tensor) -> Spikes:
    """Spikes of a neuron on a real-valued stream, which keeps the stream and nothing else."""
    rule = firing_of(neuron)
    return fire(x, rule.beta, rule.threshold, rule.spike_grad, reset=rule.reset)


def firing_of(neuron: nn.Module) -> Firing:
    """Settings of a `LIF`."""
    lif = cast(LIF, neuron)
    return Firing(lif.beta, lif.threshold, lif.spike_grad, lif.reset_mechanism)


def _step(layer: _Layer, unit: Unit, x: Tensor | Spikes, firing: Firing | None, steps: int | None) -> Tensor | Spikes:
    if layer.memory == "recompute":
        out: Tensor | Spikes = recompute_unit(x, unit.linear, unit.norm, firing, chunks=layer.chunks, steps=steps)
        return out
    z = _map(unit.linear, x)
    if firing is None:
        return norm_only(z, unit.norm)
    return norm_fire(z, unit.norm, firing, steps=steps)


def _map(linear: nn.Module, x: Tensor | Spikes) -> Tensor:
    if isinstance(linear, nn.Linear):
        return spike_linear(x, linear) if isinstance(x, Spikes) else linear(x)
    conv = cast(nn.Conv2d, linear)
    if isinstance(x, Spikes):
        return spike_conv2d(x, conv)
    return shapes.unfold_steps(conv(shapes.fold_steps(x)), x.shape[0])
