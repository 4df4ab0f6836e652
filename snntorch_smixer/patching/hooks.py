"""Hooks that prune inside a third-party model. Each is a small picklable object; `unwrap` finds them by their class."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.kernels.token_mix import expand_to_grid, on_grid, restrict_to_kept
from snntorch_smixer.layouts import Layout
from snntorch_smixer.patching.modules import Current, StoredSteps, TokenMixing, WrappedDSTSP
from snntorch_smixer.patching.observe import first_tensor
from snntorch_smixer.patching.reader import Reader
from snntorch_smixer.selection import Selection, take_tokens

ONLY_STEPS = -1
"""Block number of a place where steps are dropped and tokens are not."""


class Hook:
    """Base of all hooks that `wrap` puts on; they are on a module, or in the model's `WrappedDSTSP`, never global."""


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
    where = ""
    """Dotted name of the module that it is on."""

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
        if self.first:
            steps, samples, count = tokens.shape[:3]
            self.current.stream, self.current.left = (steps, samples, count), (steps, count)
        if not self.dstsp.prunes(tokens, kept, self.block):
            self.current.kept = kept
            return x
        spikes = self.layout.to_tokens(self.reader.spikes(x), sizes)
        pruned, kept = self.dstsp(tokens, spikes, kept, self.block)
        self.current.kept, self.current.left = kept, (pruned.shape[0], pruned.shape[2])
        self.stored.set(pruned.shape[0], alone=self.current.threads < 2)
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
    """What the hooks of a unit share: its layout, and which forward runs."""

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
        grid = {n: layout.size(x, n) for n in ("y", "x") if n in layout}
        self.scatter.current.call().units.append((grid, tokens if self.scatter.residual else None))
        gathered = layout.from_tokens(take_tokens(tokens, kept.tokens), {})
        return (gathered, *args[1:]), kwargs


class ScatterOutput(KeepGrid):
    """Forward hook of the same unit: results go back to their places; the rest gets nothing added."""

    def __call__(self, _module: nn.Module, _args: Any, out: Any) -> Any:
        """Output on the whole grid."""
        kept = self.drops()
        if kept is None:
            return None
        sizes, before = self.current.call().units.pop()
        grid = expand_to_grid(self.tokens(first_tensor(out), kept), kept)  # type: ignore[arg-type]
        if before is not None:
            grid = torch.where(kept.keep_mask()[None, :, :, None], grid, before)
        return with_first(out, self.layout.from_tokens(grid, sizes))


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


class SameGrid(Hook):
    """Forward pre-hook and forward hook of the root: ``W_M`` joins places of one grid, and another is refused.

    Args:
        dstsp: its mode follows that of a root that is no parent of it.
        size: (rows, columns) of the input that ``W_M`` was made for; None: that of the first forward.
    """

    def __init__(self, dstsp: WrappedDSTSP, size: tuple[int, int] | None) -> None:
        self.dstsp, self.size = dstsp, size

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, out: Any = None) -> None:
        """Compare the size of the input in front of the forward; behind the first one remember it.

        Raises:
            LayoutError: as many tokens may come of this input, but from other places.
        """
        size = picture_size((args, kwargs))
        if out is not None:
            self.size = self.size or size
            return
        if "dstsp" not in module._modules:
            self.dstsp.training = module.training
        if size is None or self.size is None or size == self.size:
            return
        tokens = {m.shape[0] for m in module.modules() if isinstance(m, TokenMixing)} - {0}
        if any(_grid_of(n, size) != _grid_of(n, self.size) for n in tokens):
            here, there = (" x ".join(map(str, one)) for one in (self.size, size))
            raise LayoutError(
                f"wrapped {type(module).__name__}: its W_M mixes the tokens of inputs of {here}, got one of {there}, "
                "whose tokens lie elsewhere. Feed the size that it was wrapped for, or unwrap it and wrap it for the "
                "new one."
            )


def picture_size(inputs: Any) -> tuple[int, int] | None:
    """(rows, columns) of the first tensor of four axes or more, None where it has fewer."""
    x = first_tensor(inputs)
    return None if x is None or x.dim() < 4 else (x.shape[-2], x.shape[-1])


def _grid_of(tokens: int, size: tuple[int, int]) -> int:
    """Rows of the grid of ``tokens`` tokens that is most nearly of the shape of an input."""
    wanted = math.log(size[0] / size[1])
    rows = (r for r in range(1, tokens + 1) if tokens % r == 0)
    return min(rows, key=lambda r: abs(math.log(r * r / tokens) - wanted))


class OnWholeGrid(Hook):
    """Forward pre-hook and forward hook of a module with matrices over all N tokens: it gets the pruned ones as N.

    Kept tokens go to their places, or where ``w_prime`` says, and what comes out is read there: its matrices act as
    ``W_M'`` and stay as they are.

    Args:
        current: says what was kept.
        layout: of its input and output.
    """

    def __init__(self, current: Current, layout: Layout) -> None:
        self.current, self.layout = current, layout

    def __call__(self, _module: nn.Module, args: Any, out: Any = None) -> Any:
        """Arguments with all N tokens; behind the module its output without the dropped ones."""
        kept = self.current.kept
        if kept is None or not kept.drops_tokens:
            return None
        x, sizes = args[0] if out is None else out, {"b": kept.tokens.shape[0]}
        tokens = self.layout.to_tokens(x, sizes)
        placed = on_grid(kept)
        done = expand_to_grid(tokens, placed) if out is None else restrict_to_kept(tokens, placed)
        y = self.layout.from_tokens(done, {})
        return (y, *args[1:]) if out is None else y


def with_first(out: Any, x: Tensor) -> Any:
    """``out`` with its first tensor replaced."""
    if isinstance(out, Tensor):
        return x
    items = list(out)
    place = next(i for i, item in enumerate(items) if first_tensor(item) is not None)
    items[place] = with_first(items[place], x)
    return type(out)(items)
