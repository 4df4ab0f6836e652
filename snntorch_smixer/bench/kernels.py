"""How many kernels one training step launches."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from snntorch_smixer.bench.subject import training
from snntorch_smixer.kernels import compiled

_NO_KERNEL = {"_unsafe_view", "_reshape_alias"}


def kernel_launches(
    model: nn.Module, x: Tensor, *, fake: bool = False, autocast: torch.dtype | None = None
) -> Counter[str]:
    """Operators that run a kernel in one forward and backward pass, by name; ``.total()`` is the number of launches.

    The counting rule: one for every operator that reaches a backend, so behind autograd and behind what torch composes
    from other operators; custom operators count like torch's own. Views, and what only allocates (``empty``), run no
    kernel and are left out; so are the optimizer and the loss. Some operators, such as the backward pass of BatchNorm,
    launch several kernels on a GPU: the number is that of the calls. Compiled code counts as what it is compiled to:
    one for every call of a kernel that torch's compiler wrote for the CPU, and one for every operator that it calls.
    The model's buffers, gradients and mode are restored.

    Args:
        model: any module whose output is one tensor.
        x: its input.
        fake: take the shapes alone and compute nothing; nothing is compiled then, and plain torch is counted.
        autocast: dtype of the forward pass under ``torch.autocast``.
    """
    plain = compiled.use("eager") if fake else nullcontext()
    with plain, training(model, x, fake=fake, autocast=autocast) as subject, _Tally() as tally:
        if not fake:
            subject.step()  # whatever is compiled is compiled here
            model.zero_grad(set_to_none=True)
            tally.calls.clear()
        # The kernels of the backward pass are seen in this thread only.
        with torch.autograd.set_multithreading_enabled(False), _generated(tally.calls):
            subject.step()
    return tally.calls


class _Tally(TorchDispatchMode):
    """Counts operators that run a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compiled code runs compiled, and only the operators that it calls come here."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and count it."""
        if _runs_a_kernel(func):
            self.calls[func.__name__.split(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def _runs_a_kernel(func: torch._ops.OpOverload) -> bool:
    name = func.__name__.split(".")[0]
    if func.namespace == "prim" or name in _NO_KERNEL or name.startswith(("empty", "new_empty")):
        return False
    returns = func._schema.returns
    if returns and not any("Tensor" in str(r.type) for r in returns):
        return False  # asks for a size, a type or a number
    # A return value that shares memory without being written to is a view.
    return not any(r.alias_info is not None and not r.alias_info.is_write for r in returns)


@contextmanager
def _generated(calls: Counter[str]) -> Iterator[None]:
    """Add the calls of kernels that no operator stands for: those that torch's compiler wrote.

    The compiler's module for the CPU names each kernel ``cpp_...`` and calls it from Python as a built-in function,
    which nothing but Python's own profiler sees.
    """

    def see(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and called.__name__ == "kernel":
            names = [name for name, value in frame.f_globals.items() if value is called and name.startswith("cpp_")]
            calls.update(names[:1])

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        yield
    finally:
        sys.setprofile(before)
