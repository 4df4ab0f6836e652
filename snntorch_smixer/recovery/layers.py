"""Which layers of a net can be fitted in closed form, found by what one small run shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.layers.mixer import SMixer, is_plain
from snntorch_smixer.patching.observe import first_tensor
from snntorch_smixer.pruning.pruner import DSTSP
from snntorch_smixer.recovery.quality import logits
from snntorch_smixer.recovery.statistics import Norm
from snntorch_smixer.selection import Selection


@dataclass(frozen=True)
class Layer:
    """One layer that is fitted so that a neuron behind it gets what the unpruned net's neuron had.

    Attributes:
        path: of a pointwise linear layer, or of an `SMixer` whose ``W_M`` it is.
        source: path of the module whose output, for ``W_M``, or whose input, for all others, is the layer's input.
        norm: path of the BatchNorm behind it, "" for none.
        neuron: path of the neuron behind it.
        stream: path of an earlier neuron whose input is added in front of that neuron, "" where nothing is.
        mixes: True for a ``W_M``.
    """

    path: str
    source: str
    norm: str
    neuron: str
    stream: str = ""
    mixes: bool = False


@dataclass(eq=False)
class Trace:
    """What modules were given and gave at their last call in one forward, and what was kept at that time.

    Attributes:
        inputs: first tensor in, by path.
        outputs: first tensor out.
        kept: the last `Selection` made before the call; None for everything.
        order: paths as they were called.
        repeated: paths that were called more than once.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Selection | None] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    repeated: set[str] = field(default_factory=set)
    now: Selection | None = None


@torch.no_grad()
def trace(net: nn.Module, x: Tensor, paths: Sequence[str]) -> Trace:
    """Run ``net`` once on ``x`` and take down what the modules of these paths see; its neurons start at rest."""
    seen = Trace()
    with _watched(net, seen, paths):
        logits(net, x)
    return seen


@contextmanager
def _watched(net: nn.Module, seen: Trace, paths: Sequence[str]) -> Iterator[None]:
    hooks = [net.get_submodule(path).register_forward_hook(partial(_note, seen, path)) for path in paths]
    hooks += [m.register_forward_hook(partial(_note_kept, seen)) for m in net.modules() if isinstance(m, DSTSP)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _note(seen: Trace, path: str, _module: nn.Module, args: Any, out: Any) -> None:
    x, y = first_tensor(args), first_tensor(out)
    if x is None or y is None:
        return
    if path in seen.inputs:
        seen.repeated.add(path)
        seen.order.remove(path)
    seen.order.append(path)
    seen.inputs[path], seen.outputs[path], seen.kept[path] = x, y, seen.now


def _note_kept(seen: Trace, _module: nn.Module, _args: Any, out: Any) -> None:
    seen.now = out[1]


def is_pointwise(module: nn.Module) -> bool:
    """True for a linear layer over channels alone, whose weight is its own."""
    if type(module) is nn.Linear:
        return True
    if not isinstance(module, (nn.Conv1d, nn.Conv2d)) or type(module).__name__ not in ("Conv1d", "Conv2d"):
        return False
    return {*module.kernel_size, *module.stride, module.groups} == {1}


def find_layers(model: nn.Module, x: Tensor) -> tuple[list[Layer], list[str]]:
    """(layers in the order in which they run, what cannot be fitted and why), of a pruned net on a small input."""
    named = dict(model.named_modules())
    linear = [path for path, module in named.items() if is_pointwise(module)]
    leaves = [path for path, module in named.items() if path and not list(module.children())]
    mixers = [path for path, m in named.items() if isinstance(m, SMixer) and is_plain(m.w_m)]
    seen = trace(model, x, leaves)
    found: list[tuple[int, Layer]] = []
    skipped: list[str] = []
    for path in linear:
        if path in seen.repeated:
            skipped.append(f"{path}: runs several times in one forward")
        elif path in seen.inputs and (layer := _chain(named, seen, path)) is not None:
            found.append((seen.order.index(path), layer))
    for path in mixers:
        source, target = f"{path}.neuron", f"{path}.proj.neuron"
        if source in seen.inputs and target in seen.inputs:
            found.append((seen.order.index(source), Layer(path, source, "", target, mixes=True)))
    return [layer for _, layer in sorted(found, key=lambda entry: entry[0])], skipped


def _chain(named: dict[str, nn.Module], seen: Trace, path: str) -> Layer | None:
    """The BatchNorm and the neuron behind a linear layer, by the values that they pass on; None where there is none."""
    at, norm, y = seen.order.index(path), "", seen.outputs[path]
    later = seen.order[at + 1 :]
    behind = next((p for p in later if isinstance(named[p], Norm) and _passes(y, seen.inputs[p])), None)
    if behind is not None:
        norm, y = behind, seen.outputs[behind]
    neurons = [p for p in later if _fires(seen.outputs[p]) and seen.inputs[p].numel() == y.numel()]
    direct = next((p for p in neurons if _passes(y, seen.inputs[p])), None)
    if direct is not None:
        return Layer(path, path, norm, direct)
    earlier = [p for p in seen.order[:at] if _fires(seen.outputs[p]) and seen.inputs[p].numel() == y.numel()]
    for stream in reversed(earlier):
        x = seen.inputs[stream]
        total = x + y.reshape(x.shape)
        reader = next((p for p in neurons if _passes(total, seen.inputs[p])), None)
        if reader is not None:
            return Layer(path, path, norm, reader, stream)
    return None


def _passes(given: Tensor, taken: Tensor) -> bool:
    """True where ``taken`` holds the values of ``given``, in their order."""
    return given.numel() == taken.numel() and torch.equal(given.reshape(-1), taken.reshape(-1))


def _fires(y: Tensor) -> bool:
    """True for spikes: nothing but whole numbers from 0 on."""
    return y.is_floating_point() and bool(((y >= 0) & (y == y.round())).all())
