"""How many kernels one training step launches."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from snntorch_smixer.bench.subject import training

_NO_KERNEL = {"_unsafe_view", "_reshape_alias"}


def kernel_launches(
    model: nn.Module, x: Tensor, *, fake: bool = False, autocast: torch.dtype | None = None
) -> Counter[str]:
    """Operators that run a kernel in one forward and backward pass, by name; ``.total()`` is the number of launches.

    The counting rule: one for every operator that reaches a backend, so behind autograd and behind what torch composes
    from other operators; custom operators count like torch's own. Views, and what only allocates (``empty``), run no
    kernel and are left out; so are the optimizer and the loss. Some operators, such as the backward pass of BatchNorm,
    launch several kernels on a GPU: the number is that of the calls. Compiled code is counted uncompiled. The model's
    buffers, gradients and mode are restored.

    Args:
        model: any module whose output is one tensor.
        x: its input.
        fake: take the shapes alone and compute nothing.
        autocast: dtype of the forward pass under ``torch.autocast``.
    """
    with training(model, x, fake=fake, autocast=autocast) as subject, _Tally() as tally:
        subject.step()
    return tally.calls


class _Tally(TorchDispatchMode):
    """Counts operators that run a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

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
