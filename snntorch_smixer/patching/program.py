"""A traced forward as code that can be called, copied and pickled."""

from __future__ import annotations

import importlib
import itertools
import linecache
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import fx, nn

_numbers = itertools.count()


class Program:
    """The code of a graph, run on the module that owns its children. Immutable.

    A `torch.fx.GraphModule` loses its forward hooks and its own attributes when it is pickled, so a patched module
    keeps only the code and stays a plain module.

    Args:
        graph: every ``call_module`` target is a child of the owner.
    """

    def __init__(self, graph: fx.Graph) -> None:
        code = graph.python_code("self")
        self._build(code.src, {name: _by_name(value) for name, value in code.globals.items()})

    def _build(self, source: str, names: dict[str, Any]) -> None:
        self.source, self.names = source, names
        scope = {name: _by_value(value) for name, value in names.items()}
        filename = f"<swapped attention {next(_numbers)}>"
        code: CodeType = compile(source, filename, "exec")
        exec(code, scope)
        self._forward: FunctionType = scope["forward"]
        # Tracebacks show the generated lines.
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)

    def __call__(self, owner: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """What the traced forward returns."""
        return self._forward(owner, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self

    def __getstate__(self) -> tuple[str, dict[str, Any]]:
        return self.source, self.names

    def __setstate__(self, state: tuple[str, dict[str, Any]]) -> None:
        self._build(*state)


def _by_name(value: Any) -> Any:
    return _ModuleName(value.__name__) if isinstance(value, ModuleType) else value


def _by_value(value: Any) -> Any:
    return importlib.import_module(value) if isinstance(value, _ModuleName) else value


class _ModuleName(str):
    """Stands for an imported module, which cannot be pickled."""
