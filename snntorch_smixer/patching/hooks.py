"""Hooks that prune inside a foreign model. Each is a small picklable object; `unwrap` finds them by their class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.kernels.token_mix import expand_to_grid
from snntorch_smixer.layouts import Layout
from snntorch_smixer.patching.modules import Current, WrappedDSTSP
from snntorch_smixer.patching.observe import first_tensor
from snntorch_smixer.patching.reader import Reader
from snntorch_smixer.selection import Selection, take_tokens

ONLY_STEPS = -1
"""Block number of a place where steps are dropped and tokens are not."""


class Hook:
    """Base of all hooks that `wrap` puts on; they are on a module, or in the model's `WrappedDSTSP`, never global."""


class StoredSteps:
    """The attributes of a model that store T, and its value at rest.

    Attributes:
        places: (module, attribute) pairs.
    """

    def __init__(self) -> None:
        self.places: tuple[tuple[nn.Module, str], ...] = ()
        self.before: int | None = None

    def get(self) -> int | None:
        """T, None where none is stored."""
        return getattr(*self.places[0]) if self.places else None

    def set(self, steps: int) -> None:
        """Let every place say ``steps`` until `restore`."""
        if self.places and steps != self.get():
            self.before = self.get() if self.before is None else self.before
            for module, name in self.places:
                setattr(module, name, steps)

    def restore(self) -> None:
        """Let every place say what it said before."""
        if self.before is not None:
            before, self.before = self.before, None
            for module, name in self.places:
                setattr(module, name, before)


class StartForward(Hook):
    """Forward pre-hook of the root: nothing is kept yet."""

    def __init__(self, current: Current, stored: StoredSteps) -> None:
        self.current, self.stored = current, stored

    def __call__(self, _module: nn.Module, _args: Any) -> None:
        """Forget the last forward."""
        self.current.kept = None
        self.stored.restore()


class EndForward(StartForward):
    """Forward hook of the root, called after a failure too.

    With gradients, what was kept stays until the next forward: blocks may run again in the backward pass (activation
    checkpointing, where T is not stored).
    """

    def __call__(self, _module: nn.Module, _args: Any, _out: Any = None) -> None:
        """Let stored step counts say what they said before."""
        self.stored.restore()
        if not torch.is_grad_enabled():
            self.current.kept = None


class Prune(Hook):
    """Drops steps and tokens of the stream where it enters a block, or where it leaves the stem.

    Args:
        dstsp: the settings and the maths.
        current: told what was kept.
        stored: told how many steps are left.
        layout: of the stream.
        block: number of the block, or `ONLY_STEPS`.
        reader: gives the spikes that are counted.
    """

    def __init__(
        self,
        dstsp: WrappedDSTSP,
        current: Current,
        stored: StoredSteps,
        layout: Layout,
        block: int,
        reader: Reader,
    ) -> None:
        self.dstsp, self.current, self.stored = dstsp, current, stored
        self.layout, self.block, self.reader = layout, block, reader

    first = False
    """True where nothing was pruned before: activation checkpointing may run this place again."""

    def prune(self, x: Tensor) -> Tensor:
        """The stream, pruned, in its own layout."""
        if x.dim() != len(self.layout.groups):
            raise LayoutError(
                f"wrapped model: the stream has shape {tuple(x.shape)}, expected {self.layout.text!r}. "
                "Feed the number of axes that the model was wrapped for."
            )
        sizes = self._sizes()
        tokens = self.layout.to_tokens(x, sizes)
        kept = self._kept_here(tokens)
        if not self.dstsp.prunes(tokens, kept, self.block):
            self.current.kept = kept
            return x
        spikes = self.layout.to_tokens(self.reader.spikes(x), sizes)
        pruned, kept = self.dstsp(tokens, spikes, kept, self.block)
        self.current.kept = kept
        self.stored.set(pruned.shape[0])
        return x if pruned is tokens else self.layout.from_tokens(pruned, self._grid(x))

    def _sizes(self) -> dict[str, int]:
        steps = self.stored.get()
        return {} if steps is None else {"t": steps}

    def _grid(self, x: Tensor) -> dict[str, int]:
        return {"y": self.layout.size(x, "y"), "x": self.layout.size(x, "x")} if "y" in self.layout else {}

    def _kept_here(self, tokens: Tensor) -> Selection | None:
        """What was kept so far, with all tokens where the stream has another resolution since."""
        kept = None if self.first else self.current.kept
        if kept is None:
            return None
        expected = kept.full_tokens if self.dstsp.keeps_grid else kept.num_tokens
        return kept if tokens.shape[2] == expected else kept.all_tokens(tokens.shape[2])


class PruneInput(Prune):
    """Forward pre-hook, with keyword arguments: prunes the first argument of the forward."""

    name = ""

    def __call__(self, _module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Arguments with the pruned stream."""
        if args:
            return (self.prune(args[0]), *args[1:]), kwargs
        name = self.name if self.name in kwargs else next(k for k, v in kwargs.items() if isinstance(v, Tensor))
        return args, {**kwargs, name: self.prune(kwargs[name])}


class PruneOutput(Prune):
    """Forward hook: prunes the first tensor that comes out, of a tensor or a tuple."""

    def __call__(self, _module: nn.Module, _args: Any, out: Any) -> Any:
        """Output with the pruned stream."""
        return with_first(out, self.prune(first_tensor(out)))  # type: ignore[arg-type]


class KeepGrid(Hook):
    """What the two hooks of a unit share: its layout, and the grid and input of the running call."""

    def __init__(self, current: Current, layout: Layout, residual: bool) -> None:
        self.current, self.layout, self.residual = current, layout, residual

    def drops(self) -> Selection | None:
        """What was kept, None where all tokens are."""
        kept = self.current.kept
        return kept if kept is not None and kept.drops_tokens else None

    def tokens(self, x: Tensor, kept: Selection) -> Tensor:
        """``x`` as tokens."""
        return self.layout.to_tokens(x, {"b": kept.tokens.shape[0]})

    def whole(self, x: Tensor, kept: Selection) -> Tensor | None:
        """``x`` as tokens where the unit adds it inside, so that dropped tokens keep their value; else None."""
        return self.tokens(x, kept) if self.residual else None


class GatherInput(Hook):
    """Forward pre-hook of a pointwise unit: it works on the kept tokens alone."""

    def __init__(self, scatter: ScatterOutput) -> None:
        self.scatter = scatter

    def __call__(self, _module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Arguments with the kept tokens only."""
        kept = self.scatter.drops()
        if kept is None:
            return None
        x, layout = args[0], self.scatter.layout
        tokens = self.scatter.tokens(x, kept)
        self.scatter.grid = {n: layout.size(x, n) for n in ("y", "x") if n in layout}
        self.scatter.before = tokens if self.scatter.residual else None
        gathered = layout.from_tokens(take_tokens(tokens, kept.tokens), {})
        return (gathered, *args[1:]), kwargs


class ScatterOutput(KeepGrid):
    """Forward hook of the same unit: results go back to their places; the rest gets nothing added."""

    grid: dict[str, int] = {}  # noqa: RUF012 - replaced, never changed
    before: Tensor | None = None

    def __call__(self, _module: nn.Module, _args: Any, out: Any) -> Any:
        """Output on the whole grid."""
        kept = self.drops()
        if kept is None:
            return None
        before, self.before = self.before, None
        grid = expand_to_grid(self.tokens(first_tensor(out), kept), kept)  # type: ignore[arg-type]
        if before is not None:
            grid = torch.where(kept.keep_mask()[None, :, :, None], grid, before)
        return with_first(out, self.layout.from_tokens(grid, self.grid))


class MaskOutput(KeepGrid):
    """Forward hook of a unit that looks at neighbours: it runs on all tokens, dropped ones get nothing added."""

    def __call__(self, _module: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
        """Output with nothing added at dropped tokens."""
        kept = self.drops()
        y = first_tensor(out)
        if kept is None or y is None:
            return None
        mask = kept.keep_mask()[None, :, :, None].expand(1, -1, -1, 1)
        grid = {n: self.layout.size(y, n) for n in ("y", "x") if n in self.layout}
        mask = self.layout.from_tokens(mask, grid)
        before = first_tensor([args, kwargs]) if self.residual else None
        return with_first(out, torch.where(mask, y, torch.zeros_like(y) if before is None else before))


class CapLevels(Hook):
    """Forward hook of an integer neuron: at most t spikes, where t stands for steps that are folded into levels.

    Args:
        dstsp: its ``t`` is the cap.
        unit: output of one spike.
    """

    def __init__(self, dstsp: WrappedDSTSP, unit: float) -> None:
        self.dstsp, self.unit = dstsp, unit

    def __call__(self, _module: nn.Module, _args: Any, out: Tensor) -> Tensor | None:
        """Capped spikes."""
        cap = self.dstsp.level_cap()
        return None if cap is None else out.clamp(max=cap * self.unit)


def with_first(out: Any, x: Tensor) -> Any:
    """``out`` with its first tensor replaced."""
    if isinstance(out, Tensor):
        return x
    items = list(out)
    place = next(i for i, item in enumerate(items) if first_tensor(item) is not None)
    items[place] = with_first(items[place], x)
    return type(out)(items)
