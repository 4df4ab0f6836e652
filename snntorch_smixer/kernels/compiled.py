"""Which tier runs the small pure functions: plain torch, or the same functions under ``torch.compile``.

One setting for the process: "eager", "compile", or "auto". On the CPU "auto" means eager: compiling costs seconds for
each number of steps, which only a long run earns back, so it has to be asked for. Results agree bit for bit in the
forward pass.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, ParamSpec, TypeVar

import torch

from snntorch_smixer.errors import check_choice

IMPLS = ("auto", "eager", "compile")

P = ParamSpec("P")
R = TypeVar("R")


class _Setting:
    """What was asked for, and why compiling was given up, if it was."""

    def __init__(self) -> None:
        self.impl = "auto"
        self.failure: str | None = None


_setting = _Setting()


def set_impl(impl: str) -> None:
    """Choose the tier for the whole process, one of `IMPLS`.

    Raises:
        SettingError: unknown tier.
    """
    check_choice("compiled.set_impl", "impl", impl, IMPLS)
    _setting.impl = impl


@contextmanager
def use(impl: str) -> Iterator[None]:
    """Choose the tier inside ``with``; afterwards the earlier choice holds again. Backward passes count where they run.

    Raises:
        SettingError: unknown tier.
    """
    before = _setting.impl
    set_impl(impl)
    try:
        yield
    finally:
        _setting.impl = before


def active() -> dict[str, str]:
    """What was asked for ("impl"), what runs ("active": "eager" or "compile"), and "why"."""
    if _setting.impl == "compile" and _setting.failure is None:
        return {"impl": "compile", "active": "compile", "why": "asked for"}
    if _setting.impl == "compile":
        return {"impl": "compile", "active": "eager", "why": f"torch.compile failed: {_setting.failure}"}
    why = "asked for" if _setting.impl == "eager" else "compiling takes seconds, so it runs only where it is asked for"
    return {"impl": _setting.impl, "active": "eager", "why": why}


class Tiered(Generic[P, R]):
    """A pure function of tensors that runs in the tier that was chosen.

    Args:
        function: takes positional arguments only, changes none of them.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    @functools.cached_property
    def compiled(self) -> Callable[P, R]:
        """The function under ``torch.compile``; compiled when it first runs."""
        return torch.compile(self.function, dynamic=True)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's result; where compiling fails, that of plain torch, with one warning for the process."""
        # A model that is compiled as a whole takes the plain function into its own graph.
        if _setting.impl != "compile" or _setting.failure is not None or torch.compiler.is_compiling():
            return self.function(*args, **kwargs)
        try:
            return self.compiled(*args, **kwargs)
        except (RuntimeError, OSError) as error:
            result = self.function(*args, **kwargs)  # what is wrong with the input, not the compiler, raises here
            _give_up(error)
            return result


def _give_up(error: Exception) -> None:
    lines = str(error).strip().splitlines()
    _setting.failure = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    warnings.warn(
        f"compiled: torch.compile does not work here ({_setting.failure}), so plain torch runs instead, slower but "
        "with the same results. Install a C++ compiler and make the folder TORCHINDUCTOR_CACHE_DIR writable, or set "
        'the impl to "eager".',
        RuntimeWarning,
        stacklevel=3,
    )
