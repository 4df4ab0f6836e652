"""Linear maps of binary spikes that keep bits for backward instead of numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.kernels import token_mix
from snntorch_smixer.kernels.fire import once
from snntorch_smixer.kernels.spikes import Spikes, unpack
from snntorch_smixer.selection import Selection

Needs = tuple[bool, bool, bool]
Three = tuple[Tensor | None, Tensor | None, Tensor | None]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class SpikeMap(Protocol):
    """A map of spikes that can run forward, and backward from spikes that are unpacked only when asked for."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The plain torch operation."""
        ...

    def backward(self, grad: Tensor, x: Callable[[], Tensor], weight: Tensor, needs: Needs) -> Three:
        """Gradients of ``x``, weight and bias where needed; None otherwise."""
        ...


@dataclass(frozen=True)
class Dense:
    """``F.linear`` on ``(..., C)``."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``x W^T + b``."""
        return F.linear(x, weight, bias)

    def backward(self, grad: Tensor, x: Callable[[], Tensor], weight: Tensor, needs: Needs) -> Three:
        """As torch computes them: one product each, over all leading axes at once."""
        rows = grad.reshape(-1, grad.shape[-1])
        by_x = (rows @ weight).view(*grad.shape[:-1], weight.shape[1]) if needs[0] else None
        by_weight = rows.t() @ x().flatten(0, -2) if needs[1] else None
        return by_x, by_weight, rows.sum(0) if needs[2] else None


@dataclass(frozen=True)
class Conv:
    """``F.conv2d`` on ``(M, C, H, W)`` with the settings of one ``nn.Conv2d``.

    Attributes:
        size: H and W of the input.
        stride: as in ``nn.Conv2d``; so are the rest, in numbers.
    """

    size: tuple[int, int]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, conv: nn.Conv2d, x: Tensor) -> Conv:
        """The settings of ``conv`` for input ``(..., H, W)``.

        Raises:
            SettingError: a padding other than zeros, or "same" padding that differs between the two sides.
        """
        padding: Any = conv.padding
        if isinstance(padding, str):
            total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
            padding = tuple(n // 2 for n in total) if padding == "same" else (0, 0)
            uneven = conv.padding == "same" and any(n % 2 for n in total)
        else:
            uneven = False
        if uneven or conv.padding_mode != "zeros":
            raise SettingError(
                f"spike_conv2d: expected padding with the same number of zeros on both sides, got "
                f"padding_mode={conv.padding_mode!r}, padding={conv.padding!r}; use the plain path for this convolution"
            )
        height, width = x.shape[-2:]
        return cls((height, width), conv.stride, padding, conv.dilation, conv.groups)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution."""
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def backward(self, grad: Tensor, x: Callable[[], Tensor], weight: Tensor, needs: Needs) -> Three:
        """As torch computes them; spikes are unpacked for the weight gradient only."""
        shape = (grad.shape[0], weight.shape[1] * self.groups, *self.size)
        given = x() if needs[1] else grad.new_empty(1).expand(shape)
        settings = self.stride, self.padding, self.dilation, False, [0, 0], self.groups
        grads: Three = torch.ops.aten.convolution_backward(
            grad, given, weight, [weight.shape[0]], *settings, list(needs)
        )
        return grads


@dataclass(frozen=True)
class Mix:
    """``W_M X``, or ``W_M' X'`` on kept tokens, in the form that `layers.mixer.mix_tokens` takes.

    Attributes:
        kept: what pruning kept, or None.
        autocast: dtype of the autocast region that the forward pass runs in, or None. ``W_M'`` is built from full
            precision numbers before it is cast, so the backward pass has to enter such a region again.
    """

    kept: Selection | None
    autocast: torch.dtype | None

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """The product; ``bias`` is always None."""
        with in_autocast(x, self.autocast):
            return _mix(x, weight, self.kept)

    def backward(self, grad: Tensor, x: Callable[[], Tensor], weight: Tensor, needs: Needs) -> Three:
        """On all tokens as torch computes them; on kept ones by computing the product again, in any form it took."""
        if self.kept is None or not self.kept.drops_tokens:
            return _mix_all_backward(grad, lambda: cast(x(), self.autocast), cast(weight, self.autocast), needs)
        spikes = x() if needs[1] else weight.new_zeros(grad.shape)  # the gradient of the spikes needs none of them
        spikes, matrix = spikes.requires_grad_(needs[0]), weight.detach().requires_grad_(needs[1])
        with torch.enable_grad():
            out = self.forward(spikes, matrix)
        asked = [tensor for tensor, need in ((spikes, needs[0]), (matrix, needs[1])) if need]
        grads = list(torch.autograd.grad(out, asked, grad)) if asked else []
        by_x = grads.pop(0) if needs[0] else None
        return by_x, grads.pop(0) if needs[1] else None, None


def _mix(x: Tensor, weight: Tensor, kept: Selection | None) -> Tensor:
    return token_mix.mix(x, weight, kept, lambda tokens: _mix_all(tokens, weight))


def _mix_all(x: Tensor, weight: Tensor) -> Tensor:
    heads, tokens = weight.shape[:2]
    kernel = weight.reshape(heads * tokens, -1, 1)
    return shapes.join_heads(F.conv1d(shapes.split_heads(x, heads), kernel, groups=heads), x)


def _mix_all_backward(grad: Tensor, x: Callable[[], Tensor], weight: Tensor, needs: Needs) -> Three:
    heads, tokens = weight.shape[:2]
    kernel, by_columns = weight.reshape(heads * tokens, -1, 1), shapes.split_heads(grad, heads)
    columns = shapes.split_heads(x(), heads) if needs[1] else grad.new_empty(1).expand(by_columns.shape)
    settings = [1], [0], [1], False, [0], heads, [*needs[:2], False]
    by_x, by_weight, _ = torch.ops.aten.convolution_backward(by_columns, columns, kernel, None, *settings)
    by_x = shapes.join_heads(by_x, grad) if needs[0] else None
    return by_x, by_weight.view(weight.shape) if needs[1] else None, None


def spike_linear(spikes: Spikes, linear: nn.Linear) -> Tensor:
    """``linear(spikes.values)``, bit for bit, that keeps bits and the weight only. Hooks on ``linear`` do not run.

    Args:
        spikes: ``(..., C)``.
        linear: C to O, with or without bias.

    Returns:
        ``(..., O)``. Differentiable once.

    Raises:
        LayoutError: wrong number of channels, or a dtype that is not in `FLOATS`.
    """
    check_width("spike_linear", spikes.values, -1, linear.in_features)
    return _Keep.apply(Dense(), autocast_dtype(spikes.values), spikes.bits, spikes.values, linear.weight, linear.bias)


def spike_conv2d(spikes: Spikes, conv: nn.Conv2d) -> Tensor:
    """``conv`` on maps with steps and samples folded, bit for bit, that keeps bits and the weight only.

    Args:
        spikes: ``(T, B, C, H, W)``.
        conv: any ``nn.Conv2d`` that pads with zeros, the same number on both sides. Its hooks do not run.

    Returns:
        ``(T, B, O, H', W')``. Differentiable once.

    Raises:
        LayoutError: wrong rank, number of channels, or dtype.
        SettingError: another padding.
    """
    check_maps("spike_conv2d", spikes.values, conv)
    bits, values = shapes.fold_steps(spikes.bits), shapes.fold_steps(spikes.values)
    out = _Keep.apply(Conv.of(conv, values), autocast_dtype(values), bits, values, conv.weight, conv.bias)
    return shapes.unfold_steps(out, spikes.shape[0])


def spike_mix(spikes: Spikes, weight: Tensor, kept: Selection | None = None) -> Tensor:
    """``W_M X``, or ``W_M' X'`` on kept tokens, that keeps bits, indices and ``W_M``: never a matrix per sample.

    Args:
        spikes: tokens ``(..., N, C)``, or ``(T', B, N', C)`` with ``kept``.
        weight: ``W_M`` as ``(h, N, N)``; h divides C.
        kept: what pruning kept of the N tokens.

    Returns:
        Mixed tokens, real valued, of the spikes' shape. Differentiable once.

    Raises:
        LayoutError: wrong number of tokens, or dtype.
    """
    check_width("spike_mix", spikes.values, -2, weight.shape[1] if kept is None else kept.num_tokens)
    return _Keep.apply(Mix(kept, autocast_dtype(spikes.values)), None, spikes.bits, spikes.values, weight, None)


class _Keep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, op: SpikeMap, dtype: torch.dtype | None, bits: Tensor, values: Tensor, *parameters: Tensor | None
    ) -> Tensor:
        x, weight, bias = (cast(tensor, dtype) for tensor in (values, *parameters))
        ctx.op, ctx.dtype, ctx.x = op, dtype, (x.shape[-1], x.dtype)
        ctx.dtypes = values.dtype, *(None if p is None else p.dtype for p in parameters)
        ctx.save_for_backward(bits if ctx.needs_input_grad[4] else None, parameters[0])
        return op.forward(x, weight, bias)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        bits, weight = ctx.saved_tensors
        with in_autocast(grad, None):
            grads = ctx.op.backward(
                grad, lambda: unpack(bits, *ctx.x), cast(weight, ctx.dtype), ctx.needs_input_grad[3:]
            )
        return None, None, None, *recast(grads, ctx.dtypes)


def recast(grads: Three, dtypes: tuple[torch.dtype | None, ...]) -> list[Tensor | None]:
    """Each gradient in the dtype of what it belongs to."""
    return [None if g is None or d is None else g.to(d) for g, d in zip(grads, dtypes, strict=True)]


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast gives products on the device of ``x``; None where it is off."""
    kind = x.device.type
    known = torch.amp.is_autocast_available(kind)  # false on the meta device
    return torch.get_autocast_dtype(kind) if known and torch.is_autocast_enabled(kind) else None


def in_autocast(x: Tensor, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """An autocast region of ``dtype`` on the device of ``x``; None for one where autocast is off."""
    kind = x.device.type
    known = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, dtype, enabled=dtype is not None) if known else nullcontext()


def cast(x: Any, dtype: torch.dtype | None) -> Any:
    """A tensor as autocast hands it to a product; like autocast, it leaves float64, and None, alone."""
    return x if x is None or dtype is None or x.dtype == torch.float64 else x.to(dtype)


def check_width(where: str, x: Tensor, axis: int, wanted: int) -> None:
    """Raise `LayoutError` unless ``x`` has ``wanted`` on ``axis``, -1 channels, -2 tokens, and a dtype of `FLOATS`."""
    if x.dim() < 2 or x.shape[axis] != wanted:
        name = "channels on the last axis" if axis == -1 else "tokens on the last axis but one"
        raise LayoutError(f"{where}: expected {wanted} {name}, got shape {tuple(x.shape)}; tokens are (T, B, N, C)")
    _check_dtype(where, x)


def check_maps(where: str, x: Tensor, conv: nn.Conv2d) -> None:
    """Raise `LayoutError` unless ``x`` is ``(T, B, C, H, W)`` for ``conv``, and has a dtype of `FLOATS`."""
    if x.dim() != 5 or x.shape[2] != conv.in_channels:
        raise LayoutError(
            f"{where}: expected maps (T, B, {conv.in_channels}, H, W), got shape {tuple(x.shape)}; "
            "did you forget the time axis?"
        )
    _check_dtype(where, x)


def _check_dtype(where: str, x: Tensor) -> None:
    # Autocast leaves integers alone, `cast` would not, and what plain torch refuses is refused here too.
    if x.dtype not in FLOATS:
        raise LayoutError(
            f"{where}: expected {', '.join(str(dtype)[6:] for dtype in FLOATS)}, got {x.dtype}; "
            "convert the input, for example with .float()"
        )
