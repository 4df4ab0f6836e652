"""What a training step costs on a device: seconds, the peak of memory, launched kernels, bytes moved."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Step = Callable[[], object]


class Meter(Protocol):
    """Measures on one device. The benchmark asks nothing else of a device, so another meter makes it run elsewhere."""

    device: torch.device

    def clock(self) -> float:
        """Seconds; all that was launched before is done."""

    def peak(self, step: Step) -> int:
        """Highest bytes of tensors on the device while the step runs, with all that was there before."""

    def launches(self, step: Step) -> int:
        """Kernels that the step launches."""


class CudaMeter:
    """The meter of a CUDA device.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._last: torch.cuda.Event | None = None
        self._seconds = 0.0

    def clock(self) -> float:
        """Seconds by the device's own events; waits for what was launched before."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        event.synchronize()
        if self._last is not None:
            self._seconds += self._last.elapsed_time(event) / 1000
        self._last = event
        return self._seconds

    def peak(self, step: Step) -> int:
        """``torch.cuda.max_memory_allocated`` of one step."""
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        step()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)

    def launches(self, step: Step) -> int:
        """By torch's profiler: calls of the driver that launch a kernel, whoever makes them; copies are not counted."""
        kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=kinds) as profile:
            step()
            torch.cuda.synchronize(self.device)
        return launch_calls(event.name for event in profile.events())


def launch_calls(names: Iterable[str]) -> int:
    """How many of these calls of the CUDA runtime or driver launch a kernel, such as ``cudaLaunchKernel``."""
    return sum(re.match(r"cu(da)?Launch\w*Kernel", name) is not None for name in names)


def moved_bytes(step: Step) -> int:
    """Bytes that the operators of a step read and write besides convolutions and matrix products.

    Each tensor that goes into an operator, or comes out of it, counts once, by its own size. What ``torch.compile``
    made is not seen.
    """
    with _Traffic() as traffic:
        step()
    return traffic.nbytes


class _Traffic(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if _moves(func):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.nbytes += sum(t.numel() * t.element_size() for t in tensors)
        return out


_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "dot"}


def _moves(func: torch._ops.OpOverload) -> bool:
    name = func.__name__.split(".")[0]
    if func.namespace == "prim" or name in _PRODUCTS or "convolution" in name or "linear" in name:
        return False
    return not func.is_view and "empty" not in name and name not in ("_unsafe_view", "_reshape_alias", "detach")
