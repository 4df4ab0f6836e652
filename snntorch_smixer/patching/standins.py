"""What stands in for a swapped attention, with the original waiting in it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.layers.attention import SpikingSelfAttention
from snntorch_smixer.layers.mixer import SMixer
from snntorch_smixer.patching.observe import HOOKS, ByValue
from snntorch_smixer.patching.program import Program
from snntorch_smixer.selection import Selection

Watcher = TypeVar("Watcher", bound=nn.Module)
TAP = "tap"
"""Name of the child of a tapped forward."""


class Part(Protocol):
    """A part of a removed module that was copied out of it."""

    def give_back(self) -> None:
        """Write what the copy learnt into the original."""


@dataclass(frozen=True, eq=False)
class Tap:
    """The original forward, with V and its product shown to a child ``tap``.

    Attributes:
        program: the forward; None where the stand-in runs it by itself.
        value_layout: of V.
        out_layout: of the product.
        functions: children that the forward calls besides those of the original.
        factor: what the forward multiplies the product by afterwards, which ``W_M`` takes over.
    """

    program: Program | None
    value_layout: str
    out_layout: str
    functions: Mapping[str, nn.Module]
    factor: float = 1.0

    def children(self, watcher: nn.Module) -> dict[str, nn.Module]:
        """What the original needs as children while the forward is followed."""
        return {TAP: watcher, **self.functions}


class Removed:
    """What `wrap` took out of a model. No module, so that its parameters are not those of the model any more.

    Attributes:
        module: the original.
        parts: what was copied out of it instead of shared.
        tap: for fitting ``W_M``; None where there is nothing to fit.
        teaching: True while the original runs in place of what replaced it.
    """

    def __init__(self, module: nn.Module, parts: Sequence[Part] = (), tap: Tap | None = None) -> None:
        self.module, self.parts, self.tap, self.teaching = module, tuple(parts), tap, False
        self.training = module.training

    def start_teaching(self, watcher: Callable[[Any, Tap], Watcher], holder: Any) -> Watcher:
        """Let the original run in place of what replaced it, and show V and its product to a new watcher.

        To undo it, set ``teaching`` to False and restore the `State` of ``module``.
        """
        if self.tap is None:
            raise ValueError("there is nothing to watch")
        seen = watcher(holder, self.tap)
        self.module.eval()
        for name, child in self.tap.children(seen).items():
            self.module.add_module(name, child)
        self.teaching = True
        return seen

    def __deepcopy__(self, memo: dict[int, Any]) -> Removed:
        # The membranes of neurons that wait here may be nodes of a graph, and no reset of the model reaches them.
        twin = memo[id(self)] = object.__new__(Removed)
        with ByValue():
            vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin

    def give_back(self, stand_in: nn.Module) -> nn.Module:
        """The original, with what its parts have learnt; where the mode changed, what waited in it changes too."""
        for part in self.parts:
            part.give_back()
        shared = set(map(id, stand_in.modules()))
        for module in self.module.modules():
            if id(module) not in shared and stand_in.training != self.training:
                module.training = stand_in.training
        return self.module


class InPlaceOf(nn.Module):
    """Base of what stands in for a removed module."""

    removed: Removed
    has_w_m = True
    """False where the products were kept."""

    def replaced(self) -> str:
        """Dotted name of a shared part in whose place another module was put since, "" for none."""
        return ""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> InPlaceOf:
        # Keeps what was taken out on the device and in the precision of the rest.
        super()._apply(fn, recurse)
        _apply_outside(self.removed.module, fn, set(map(id, self.modules())))
        return self


def _apply_outside(module: nn.Module, fn: Callable[[Tensor], Tensor], done: set[int]) -> None:
    """``module._apply(fn)`` without the modules in ``done``; SpikingJelly's neurons take no ``recurse``."""
    if id(module) in done:
        return
    if not any(id(inner) in done for inner in module.modules()):
        module._apply(fn)
        return
    nn.Module._apply(module, fn, recurse=False)
    for child in module.children():
        _apply_outside(child, fn, done)


class SwappedMixer(InPlaceOf, SMixer):
    """The mixer that stands in for a `SpikingSelfAttention` of this package; it shares V and the projection.

    Args:
        attention: what it stands in for.
        num_tokens: N.
    """

    def __init__(self, attention: SpikingSelfAttention, num_tokens: int) -> None:
        super().__init__(attention.dim, num_tokens=num_tokens, heads=attention.heads)
        self.value.neuron = attention.neuron
        self.value.linear, self.value.norm = attention.value.linear, attention.value.norm
        self.neuron, self.proj = attention.value_neuron, attention.proj
        weight = attention.proj.linear.weight
        self.w_m.to(device=weight.device, dtype=weight.dtype)
        self.removed = Removed(attention, tap=Tap(None, "t b n c", "t b n c", {}))
        self.training = attention.training
        self.value.training = self.w_m.training = attention.training

    def replaced(self) -> str:
        """A part of V; the projection is shared as a whole, with whatever is put into it."""
        theirs: Any = self.removed.module
        return next(
            (f"value.{n}" for n in ("linear", "norm") if getattr(self.value, n) is not getattr(theirs.value, n)), ""
        )

    def forward(self, x: Tensor, kept: Selection | None = None) -> Tensor:
        """As `SMixer`."""
        if not self.removed.teaching:
            return super().forward(x, kept)
        attention: Any = self.removed.module
        value, out = attention.attend(x)
        return attention.proj(attention.tap(value, out))


class SwappedAttention(InPlaceOf):
    """An attention whose products were replaced by ``W_M V``: its own forward otherwise, with its own children.

    It takes and returns what the original did: extra arguments, tuples, a residual inside. Q and K are gone from
    parameters and state dict; the original waits in ``removed`` for `unwrap`.

    Args:
        programs: the forwards of evaluation and of training mode.
        children: by dotted name.
        removed: what it stands in for.
        resets: put the neurons at rest before each call, as the original did.
        frozen: arguments whose values the forwards hold.
    """

    def __init__(
        self,
        programs: tuple[Program, Program],
        children: dict[str, Any],
        removed: Removed,
        *,
        resets: bool,
        frozen: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.programs, self.removed, self.resets = programs, removed, resets
        self.frozen = dict(frozen)
        self._names = list(inspect.signature(removed.module.forward).parameters)
        self.has_w_m = any(path == "mixer" for path in children)
        for table in HOOKS:  # a user's hooks stay; the same tables, so that their handles still take them off
            setattr(self, table, getattr(removed.module, table))
        for path, child in children.items():
            owner: nn.Module = self
            *parents, name = path.split(".")
            for parent in parents:
                if parent not in owner._modules:
                    owner._modules[parent] = nn.Module()
                owner = getattr(owner, parent)
            setattr(owner, name, child)
        self._given = {path: child for path, child in children.items() if isinstance(child, nn.Module)}
        self.training = removed.module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the original forward returns, with ``W_M V`` in place of its products.

        Raises:
            LayoutError: an argument asks for what the swapped forward does not hold.
        """
        if self.frozen and len(args) + len(kwargs) > 1:
            self._check_arguments(args, kwargs)
        tap = self.removed.tap
        if self.removed.teaching and tap is not None and tap.program is not None:
            return tap.program(self.removed.module, *args, **kwargs)
        if self.resets:
            for module in self.removed.module.modules():  # it knows its neurons, which are shared
                names = (name for name in ("reset", "reset_mem") if callable(getattr(module, name, None)))
                if name := next(names, ""):
                    getattr(module, name)()
        return self.programs[self.training](self, *args, **kwargs)

    def replaced(self) -> str:
        """A child that is no longer the one that it shares with the original, or that was cut out of it."""
        mine = dict(self.named_modules())
        return next((path for path, child in self._given.items() if mine.get(path) is not child), "")

    def _check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        for name, value in self.frozen.items():
            if name in given and given[name] is not value and not _equal(given[name], value):
                raise LayoutError(
                    f"wrapped {type(self.removed.module).__name__}: got {name} of type {type(given[name]).__name__}, "
                    f"but its attention was swapped for {name}={value!r}. Leave it out, or wrap with swap=False."
                )

    def __getattr__(self, name: str) -> Any:
        # What the code around it may read of the original: num_heads or scale, its neurons, whose membranes are often
        # made outside, neuron by neuron, and its methods, as reset or one that makes all its membranes.
        try:
            return super().__getattr__(name)
        except AttributeError:
            removed = self.__dict__.get("removed")
            known = {} if removed is None else {**vars(removed.module), **_without_weights(removed.module)}
            if name.startswith("__") or removed is None:
                raise
            if name not in known and not inspect.isfunction(getattr(type(removed.module), name, None)):
                raise
            return known[name] if name in known else getattr(removed.module, name)

    def extra_repr(self) -> str:
        """What it replaced."""
        return f"in place of {type(self.removed.module).__name__}"


def _without_weights(module: nn.Module) -> dict[str, nn.Module]:
    """Children such as neurons."""
    children = module._modules.items()
    return {
        name: child
        for name, child in children
        if child is not None and not any(p.dim() > 1 for p in child.parameters())
    }


def _equal(a: Any, b: Any) -> bool:
    return isinstance(a, (bool, int, float, str)) and isinstance(b, (bool, int, float, str)) and a == b
