"""The edits that `wrap` makes; each is prepared on copies, and then applied without a way to fail."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from snntorch_smixer.layouts import Layout
from snntorch_smixer.patching import hooks
from snntorch_smixer.patching.loop import PruneStepInput, PruneStepOutput
from snntorch_smixer.patching.modules import Current, StoredSteps, WrappedDSTSP
from snntorch_smixer.patching.reader import Reader
from snntorch_smixer.patching.standins import InPlaceOf
from snntorch_smixer.patching.swap import Swap, build

LATER = "made at the first forward"
"""In the line of a swap: the size of a ``W_M`` whose number of tokens is not known."""


@dataclass(frozen=True, eq=False)
class Context:
    """What the edits of one model share."""

    dstsp: WrappedDSTSP
    current: Current
    stored: StoredSteps


class Edit(Protocol):
    """One edit of a model."""

    @property
    def path(self) -> str:
        """Dotted name of what is edited."""

    def describe(self) -> str:
        """One line."""

    def apply(self, model: nn.Module, context: Context) -> None:
        """Do it."""


@dataclass(frozen=True, eq=False)
class SwapEdit:
    """Put ``W_M`` in the place of an attention."""

    path: str
    swap: Swap
    tokens: int | None

    def describe(self) -> str:
        """What is swapped, and what stays."""
        s = self.swap
        if s.kind == "as_is":
            return f"{self.path}: kept, and its output gets the shape of its input"
        known = self.tokens is not None and s.windows == 1
        size = f"{self.tokens} x {self.tokens // s.stride}" if known else LATER  # type: ignore[operator]
        size += " for every window" if s.windows > 1 else ", lower triangular" if s.causal else ""
        whole = f"; the fused projection stays whole: {s.kept_whole}" if s.kept_whole else ""
        what = {"ssa": "Q K^T V", "linear": "linear attention", "mixer": "its own matrices"}[s.kind]
        whole += "; its softmax is lost, so fit W_M (dstsp.fit) before use" if s.softmax else ""
        return f"{self.path}: {what} -> W_M, {s.heads} heads, {size}, {-s.dropped:+,} parameters otherwise{whole}"

    def apply(self, model: nn.Module, context: Context) -> None:
        """Replace the child; its parts and the state of its neurons are shared."""
        parent, name = _parent(model, self.path)
        parent._modules[name] = build(self.swap, model.get_submodule(self.path), context.current, self.tokens)

    def weights(self) -> int | None:
        """Parameters of ``W_M``, None where it is not made yet."""
        if self.swap.kind == "as_is":
            return 0
        if self.tokens is None or self.swap.windows > 1:
            return None
        return self.swap.heads * self.tokens**2 // self.swap.stride


@dataclass(frozen=True, eq=False)
class WholeGridEdit:
    """Let matrices over all tokens, which are not swapped, act on the kept ones."""

    path: str
    layout: str

    def describe(self) -> str:
        """What stays."""
        return f"{self.path}: its own matrices stay, and act on the kept tokens"

    def apply(self, model: nn.Module, context: Context) -> None:
        """Put the hooks on."""
        module, hook = model.get_submodule(self.path), hooks.OnWholeGrid(context.current, Layout(self.layout))
        module.register_forward_pre_hook(hook)
        module.register_forward_hook(hook)


@dataclass(frozen=True, eq=False)
class PruneEdit:
    """Drop steps, tokens or both where the stream enters a block, or where it leaves the stem."""

    path: str
    layout: str
    block: int
    neuron: str | None
    stateful: bool = False
    at_output: bool = False
    first: bool = False
    loop: bool = False

    def describe(self) -> str:
        """What is dropped, where, and on which spikes it is decided."""
        where = "behind" if self.at_output else "in front of"
        what = {hooks.ONLY_STEPS: "steps", 0: "steps and tokens"}.get(
            self.block, "more tokens, where its rate is higher"
        )
        what = f"{what}, the same in each step of a sequence," if self.loop else what
        spikes = "the stream's own spikes" if self.neuron is None else f"spikes of {self.neuron}"
        return f"{self.path}: {what} are dropped {where} it, by {spikes}, layout {self.layout!r}"

    def apply(self, model: nn.Module, context: Context) -> None:
        """Put the hook on."""
        module = model.get_submodule(self.path)
        neuron = None if self.neuron is None else model.get_submodule(self.neuron)
        shared = (
            context.dstsp,
            context.current,
            context.stored,
            Layout(self.layout),
            self.block,
            Reader(neuron, self.stateful),
        )
        hook: hooks.Prune
        if self.at_output:
            hook = (PruneStepOutput if self.loop else hooks.PruneOutput)(*shared)
            module.register_forward_hook(hook)
        else:
            hook = (PruneStepInput if self.loop else hooks.PruneInput)(*shared)
            hook.name = next(iter(inspect.signature(module.forward).parameters))
            module.register_forward_pre_hook(hook, with_kwargs=True)
        hook.first, hook.where = self.first, self.path
        if self.first:
            context.dstsp.place_of_steps = hook


@dataclass(frozen=True, eq=False)
class UnitEdit:
    """Let a part of a block work on the kept tokens of a grid."""

    path: str
    layout: str
    pointwise: bool
    residual: bool
    silences: bool = False

    def describe(self) -> str:
        """How it treats dropped tokens."""
        if self.silences:
            return f"{self.path}: silent at dropped tokens"
        if self.pointwise:
            return f"{self.path}: works on the kept tokens alone; dropped tokens keep their value"
        return (
            f"{self.path}: looks at neighbours, runs on all tokens; dropped tokens keep their value, which saves "
            "events but no dense arithmetic"
        )

    def apply(self, model: nn.Module, context: Context) -> None:
        """Put the hooks on."""
        module, layout = model.get_submodule(self.path), Layout(self.layout)
        if not self.pointwise:
            mask = hooks.MaskOutput(context.current, layout, self.residual)
            module.register_forward_hook(mask, with_kwargs=True)
            return
        scatter = hooks.ScatterOutput(context.current, layout, self.residual)
        module.register_forward_pre_hook(hooks.GatherInput(scatter), with_kwargs=True)
        module.register_forward_hook(scatter)


@dataclass(frozen=True, eq=False)
class CapEdit:
    """Let t limit the spikes of an integer neuron."""

    path: str
    unit: float
    levels: int

    def describe(self) -> str:
        """Levels and unit."""
        return f"{self.path}: t caps its {self.levels} levels"

    def apply(self, model: nn.Module, context: Context) -> None:
        """Put the hook on."""
        model.get_submodule(self.path).register_forward_hook(hooks.CapLevels(context.dstsp, self.unit))


def _parent(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    above, _, name = path.rpartition(".")
    return model.get_submodule(above), name


def undo(model: nn.Module) -> None:
    """Take out everything that edits put in, wherever it is."""
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, InPlaceOf):
                module._modules[name] = child.removed.give_back(child)
    for module in model.modules():
        _remove_hooks(module, "_forward_pre_hooks")
        _remove_hooks(module, "_forward_hooks")


def _remove_hooks(module: nn.Module, kind: str) -> None:
    for number in [n for n, hook in getattr(module, kind).items() if isinstance(hook, hooks.Hook)]:
        for table in (kind, f"{kind}_with_kwargs", "_forward_hooks_always_called"):
            getattr(module, table).pop(number, None)
