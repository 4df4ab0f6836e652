"""What the Triton twins share on the host: whether Triton runs, which calls they serve, and how these are laid out.

Nothing here needs Triton to be installed.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod, tanh
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.kernels.fire import Firing, SpikeGrad

OLDEST = (3, 3)
"""The oldest Triton whose kernels may hold tuples, which carry the membranes of all steps in registers."""

MAX_STEPS = 32
"""The loop over the steps is written out, and every step holds registers: beyond this the plain path is taken."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_HOME = "snntorch_smixer.surrogates"


def why_not(device: torch.device | None = None) -> str | None:
    """Why the Triton kernels cannot run on ``device`` (None: on any of this machine), in words; None where they can.

    Under ``TRITON_INTERPRET=1`` Triton runs them on the CPU, one program after the other: right, and very slow.
    """
    if not interpreted():
        if device is not None and device.type != "cuda":
            return f"Triton runs on CUDA devices, not on {device.type}"
        if torch.version.hip is not None:
            return "the Triton kernels were written for CUDA, not for ROCm"
        if not torch.cuda.is_available():
            return "there is no CUDA device"
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:  # below it there are no bfloat16 conversions
            return f"the device has compute capability {major}.{minor}, and the Triton kernels need 8.0"
    return _package_problem()


@functools.cache
def _package_problem() -> str | None:
    if find_spec("triton") is None:
        return "Triton is not installed"
    try:
        # Not by its metadata: the package has other names in nightly builds and on Windows.
        found: str = importlib.import_module("triton").__version__
    except (ImportError, OSError, RuntimeError) as error:
        return f"Triton does not import: {error}"
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        return f"Triton {found} is older than {'.'.join(map(str, OLDEST))}"
    return None


def interpreted() -> bool:
    """True where Triton's interpreter was asked for; Triton decides when the kernels are imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


@dataclass(frozen=True)
class Blocks:
    """Sizes of what one program of a launch does; the results do not depend on them but for the order of sums.

    Attributes:
        held: values times steps that a backward program holds in registers, 32 for each of its 128 threads.
        row_values: values of a step that a forward program takes.
        programs: programs of a launch that sums up, enough to fill a large GPU; the same on every device, so that sums
            are the same too.
        warps: of 32 threads.
    """

    held: int = 4096
    row_values: int = 1024
    programs: int = 2048
    warps: int = 4


class _Setting:
    def __init__(self) -> None:
        self.blocks = Blocks()
        self.watchers: list[Callable[[str, int], None]] = []


_setting = _Setting()


@contextmanager
def using(blocks: Blocks) -> Iterator[None]:
    """Other block sizes inside ``with``, for a benchmark that looks for better ones."""
    before, _setting.blocks = _setting.blocks, blocks
    try:
        yield
    finally:
        _setting.blocks = before


@contextmanager
def watched(watcher: Callable[[str, int], None]) -> Iterator[None]:
    """Tells ``watcher`` of each launch inside ``with`` the kernel's name and the bytes of the tensors it is given."""
    _setting.watchers.append(watcher)
    try:
        yield
    finally:
        _setting.watchers.remove(watcher)


def launch(kernel: Any, programs: int, arguments: tuple[Any, ...], fixed: Mapping[str, Any]) -> None:
    """Run a kernel on the device of its first tensor.

    Products and sums are not fused, so that both are rounded, as by plain torch.

    Args:
        kernel: a Triton kernel.
        programs: their number, along the only axis that has room for 2**31.
        arguments: tensors, numbers, None.
        fixed: what the kernel is compiled for.
    """
    tensors = [t for t in arguments if isinstance(t, Tensor)]
    for watcher in _setting.watchers:
        watcher(kernel.__name__, sum(t.nbytes for t in tensors))
    with torch.cuda.device(tensors[0].device) if tensors[0].is_cuda else nullcontext():
        kernel[(programs,)](*arguments, **fixed, num_warps=_setting.blocks.warps, enable_fp_fusion=False)


@dataclass(frozen=True)
class Slope:
    """A surrogate's derivative as the kernels know it: the name of its formula and up to two constants."""

    kind: str
    first: float = 0.0
    second: float = 0.0


def slope_of(spike_grad: SpikeGrad) -> Slope | None:
    """The closed form of a surrogate that fires on ``v > 0``; None for one that is not in the table.

    Known by the very class, not by its attributes: a subclass or a look-alike may compute something else.
    """
    kind = type(spike_grad)
    if kind.__module__ != _HOME:
        return None
    if kind.__name__ == "Dspike":
        gamma = float(getattr(spike_grad, "gamma", 0.0))
        return Slope("dspike", 2 * gamma, 2 * gamma / tanh(gamma)) if gamma > 0 else None
    settings: Mapping[str, Any] = getattr(spike_grad, "settings", {})
    names = _SETTINGS.get(str(getattr(spike_grad, "factory", "")))
    if names is None or set(names) != set(settings):
        return None
    values = [settings[name] for name in names]
    if not all(isinstance(value, (int, float)) for value in values):
        return None
    return Slope(str(getattr(spike_grad, "factory", "")), *map(float, values))


_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "atan": ("alpha",),
    "fast_sigmoid": ("slope",),
    "heaviside": (),
    "SFS": ("slope", "B"),
    "sigmoid": ("slope",),
    "spike_rate_escape": ("beta", "slope"),
    "straight_through_estimator": (),
    "triangular": ("threshold",),
}
"""snnTorch's surrogates by name, with their settings in the order of `Slope`."""


@dataclass(frozen=True)
class Layout:
    """One step of contiguous currents as the kernels see it.

    Attributes:
        channels: C, the axis along which BatchNorm, beta and threshold vary; 1 where nothing varies.
        inner: values behind one index of that axis: 1 for tokens, H * W for maps.
        per_channel: values of one channel in one step: B * N, or B * H * W.
        last: length of the axis that bits are packed along.
        is_wide: offsets need 64 bits.
    """

    channels: int
    inner: int
    per_channel: int
    last: int
    is_wide: bool

    @classmethod
    def of(cls, x: Tensor, axis: int | None, steps: int) -> Layout:
        """Layout of ``(T, ...)`` shown for ``steps`` steps; ``axis`` of the channels counts from the end of a step."""
        step = x.shape[1:]
        size, last = prod(step), (step[-1] if step else 1)
        channels = 1 if axis is None else step[axis]
        inner = size if axis is None else prod(step[len(step) + axis + 1 :])
        return cls(channels, inner, size // channels, last, needs_wide(steps * size))

    @property
    def size(self) -> int:
        """Values of one step."""
        return self.channels * self.per_channel


def needs_wide(values: int) -> bool:
    """True where 32 bits are too few for an offset; 64-bit divisions are slow, so they are taken only then.

    The last pieces may reach past the end by less than 2**20, masked, but not past zero.
    """
    return values >= 2**31 - 2**20


def channel_axis(*parameters: Tensor) -> int | None:
    """Axis along which the parameters vary, counted from the end; None where all are single numbers.

    Raises:
        LayoutError: they vary along more than one axis.
    """
    axes = {i - p.dim() for p in parameters for i in range(p.dim()) if p.shape[i] > 1}
    if len(axes) > 1:
        shapes = " and ".join(str(tuple(p.shape)) for p in parameters)
        raise LayoutError(
            f"Triton kernels: expected parameters that vary along one axis, got shapes {shapes}; ask `serves` first, "
            "and take the plain path where it says no"
        )
    return axes.pop() if axes else None


def served(x: Tensor, neuron: Firing, steps: int, *, axis: int | None = None) -> bool:
    """True where the kernels give what plain torch gives.

    Not served are other dtypes than float32, float16 and bfloat16, surrogates without a closed form in `slope_of`, beta
    or threshold that vary along more than one axis, more than `MAX_STEPS` steps, empty tensors, parameters on another
    device, and tensors without memory, such as fake ones.

    Args:
        x: what comes in, ``(T, ...)``.
        neuron: the LIF.
        steps: T that the neuron sees.
        axis: the only one along which beta and threshold may vary, from the end; None for any.
    """
    parameters = neuron.beta, neuron.threshold
    plain = all(type(t) in (Tensor, nn.Parameter) and t.device == x.device for t in (x, *parameters))
    if not plain or x.numel() == 0 or not 1 <= steps <= MAX_STEPS or slope_of(neuron.spike_grad) is None:
        return False
    if any(t.dtype not in DTYPES for t in (x, *parameters)):
        return False
    axes = {i - p.dim() for p in parameters for i in range(p.dim()) if p.shape[i] > 1}
    return not axes or (len(axes) == 1 and axis in (None, *axes))


def tile(layout: Layout, steps: int) -> tuple[int, int]:
    """Values per channel and channels that one program of the backward pass, or of the statistics, holds at a time.

    Tokens lie with their channels side by side, so a tile is 32 channels wide, one line of 128 bytes in float32; each
    channel of a map is a run by itself.
    """
    values = max(128, min(2048, _setting.blocks.held // power_of_two(steps)))
    channels = min(32, power_of_two(layout.channels)) if layout.inner == 1 else 1
    return values // channels, channels


def chunks(layout: Layout, block: tuple[int, int]) -> tuple[int, int]:
    """Into how many pieces the values of a channel are cut, at most 128, and how many tiles each piece has."""
    tiles = -(-layout.per_channel // block[0])
    wanted = max(1, min(128, _setting.blocks.programs // -(-layout.channels // block[1])))
    each = -(-tiles // wanted)
    return -(-tiles // each), each


def row_block(last: int) -> tuple[int, int]:
    """Rows and columns of the forward pass's tile, in whole bytes of spikes: what packs and unpacks goes along rows."""
    columns = min(128, max(8, power_of_two(last)))
    return _setting.blocks.row_values // columns, columns


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << max(0, n - 1).bit_length()
