"""What a module and its children remember between calls, taken down and restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter


class State:
    """The attributes of modules and of all modules in them, as they are now, and their classes.

    What an attribute refers to is not copied, except dictionaries and lists, which are copied one level deep:
    SpikingJelly 2 keeps its membranes in one, snnTorch in buffers, others in plain attributes.
    """

    def __init__(self, *modules: nn.Module) -> None:
        inside = list({id(m): m for module in modules for m in module.modules()}.values())
        # The containers stay the same objects: handles of hooks refer to them weakly.
        self._saved = [(vars(m), dict(vars(m)), _contents(vars(m))) for m in inside]
        self._kinds = [(m, type(m)) for m in inside]
        self._versions = [(tensor, tensor._version) for tensor in self._tensors()]

    def set_aside(self) -> None:
        """Let the modules work on copies of their buffers and membranes, so that nothing writes into those."""
        copies: dict[int, Tensor] = {}
        held = [table for _, _, contents in self._saved for table, _ in contents if isinstance(table, dict)]
        for table in (*(state for state, _, _ in self._saved), *held):
            for name, value in table.items():
                if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                    table[name] = copies.setdefault(id(value), value.detach().clone())

    def put_back(self) -> None:
        """Let all of them have the attributes that they had."""
        for module, kind in self._kinds:
            if type(module) is not kind:
                module.__class__ = kind
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
            yield from (one for values in held for one in values if _has_version(one))


def _has_version(value: Any) -> bool:
    lazy = isinstance(value, (UninitializedParameter, UninitializedBuffer))
    return isinstance(value, Tensor) and not lazy and not value.is_inference()


@contextmanager
def restored(*modules: nn.Module, failed: bool = False) -> Iterator[State]:
    """Restore the `State` of modules when the inside has ended, by Ctrl-C too.

    Args:
        modules: with all modules in them.
        failed: only where it did not end well.
    """
    before = State(*modules)
    try:
        yield before
        if not failed:
            before.put_back()
    except BaseException:
        before.put_back()  # once more where Ctrl-C came while it was restored
        raise


def _contents(state: dict[str, Any]) -> list[tuple[Any, Any]]:
    return [(value, value.copy()) for value in state.values() if isinstance(value, (dict, list))]


def put_back_values(values: list[tuple[Tensor, int, Tensor]]) -> None:
    """Undo what was written in place into the tensors of `State.values` since."""
    with torch.no_grad():
        for tensor, version, copy in values:
            if tensor._version != version:
                tensor.copy_(copy)
