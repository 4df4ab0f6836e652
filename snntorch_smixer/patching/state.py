"""What a module and its children remember between calls, taken down and put back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class State:
    """The attributes of a module and of all modules in it, as they are now.

    What an attribute refers to is not copied, except dictionaries and lists, which are copied one level deep:
    SpikingJelly 2 keeps its membranes in one, snnTorch in buffers, others in plain attributes.
    """

    def __init__(self, module: nn.Module) -> None:
        # The containers stay the same objects: handles of hooks refer to them weakly.
        self._saved = [(vars(m), dict(vars(m)), _contents(vars(m))) for m in module.modules()]
        self._versions = [(tensor, tensor._version) for tensor in self._tensors()]

    def put_back(self) -> None:
        """Let all of them have the attributes that they had."""
        for state, before, contents in self._saved:
            state.clear()
            state.update(before)
            for table, held in contents:
                table.clear()
                table.update(held) if isinstance(table, dict) else table.extend(held)

    def is_overwritten(self) -> bool:
        """True when a tensor was written into since, so that `put_back` would not bring its values back."""
        return any(tensor._version != version for tensor, version in self._versions)

    def values(self) -> list[tuple[Tensor, int, Tensor]]:
        """The tensors among them with copies of their values, for `put_back_values`."""
        return [(tensor, tensor._version, tensor.detach().clone()) for tensor in self._tensors()]

    def _tensors(self) -> Iterator[Tensor]:
        for _, before, contents in self._saved:
            held = [before.values(), *(c.values() if isinstance(c, dict) else c for _, c in contents)]
            yield from (one for values in held for one in values if isinstance(one, Tensor) and not one.is_inference())


def _contents(state: dict[str, Any]) -> list[tuple[Any, Any]]:
    return [(value, value.copy()) for value in state.values() if isinstance(value, (dict, list))]


def put_back_values(values: list[tuple[Tensor, int, Tensor]]) -> None:
    """Undo what was written in place into the tensors of `State.values` since."""
    with torch.no_grad():
        for tensor, version, copy in values:
            if tensor._version != version:
                tensor.copy_(copy)
