"""The forward of a swapped attention that loops over its time steps: one program for each number of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from snntorch_smixer.layouts import Layout
from snntorch_smixer.patching.observe import copied
from snntorch_smixer.patching.program import Program
from snntorch_smixer.patching.trace import Given, remember


class Unrolled:
    """Programs of one attention by steps and mode, made when an input of so many steps comes first; shared by copies.

    Args:
        layout: of its input.
        given: further arguments, see `trace.given_to`.
        again: makes its swap, of a copy, a layout, the channels and the steps.
    """

    def __init__(self, layout: str, given: Given, again: Callable[..., Any]) -> None:
        self.layout, self.given, self.again = Layout(layout), given, again
        self.programs: dict[tuple[int, bool], Program] = {}

    def pair(self) -> tuple[Any, Any]:
        """Callables for evaluation and for training mode."""
        return _InMode(self, False), _InMode(self, True)

    def __deepcopy__(self, memo: dict[int, Any]) -> Unrolled:
        return self

    def run(self, owner: Any, training: bool, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the forward of ``owner``, a `SwappedAttention`, returns."""
        x = args[0] if args else next(iter(kwargs.values()))
        steps = self.layout.size(x, "t")
        if (steps, training) not in self.programs:
            self._make(owner, x, steps)
        return self.programs[steps, training](owner, *args, **kwargs)

    def _make(self, owner: Any, x: torch.Tensor, steps: int) -> None:
        with torch.inference_mode(False), torch.autocast(x.device.type, enabled=False):
            twin = copied(owner.removed.module)
            remember(twin, self.given)
            swap = self.again(twin, self.layout.text, self.layout.size(x, "c"), steps=steps)
        if swap is None:
            raise AssertionError("an attention of some steps is one of any")
        for name, child in swap.functions.items():
            if name not in owner._modules:
                owner._modules[name] = child
        evaluation = Program(swap.graph)
        self.programs[steps, False] = evaluation
        self.programs[steps, True] = evaluation if swap.train_graph is None else Program(swap.train_graph)

    # What torch.compiler.disable sets; the decorator itself would import all of torch's compiler.
    _make._torchdynamo_disable = True  # type: ignore[attr-defined]


class _InMode:
    """An `Unrolled` in evaluation or in training mode."""

    def __init__(self, unrolled: Unrolled, training: bool) -> None:
        self.unrolled, self.training = unrolled, training

    def __call__(self, owner: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.unrolled.run(owner, self.training, args, kwargs)
