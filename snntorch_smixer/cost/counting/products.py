"""The operations of torch that multiply: how each one's arguments are the factors of a product."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snntorch_smixer.cost.counting.counters import (
    Convolution,
    Setting,
    Tally,
    convolution,
    is_activation,
    matrix_product,
)
from snntorch_smixer.cost.counting.notes import Call, Operand, Role


def _operand(call: Call, x: Tensor) -> Operand:
    return Operand(x, next(note for seen, note in zip(call.tensors, call.notes, strict=True) if seen is x))


def _pair(call: Call, left: Operand, right: Operand, setting: Setting) -> Tally | None:
    """The product of two matrices; None where neither is an activation."""
    if not is_activation(left, right) and not is_activation(right, left):
        return None
    return _finish(call, matrix_product(left, right, setting), left, right)


def _finish(call: Call, tally: Tally, *factors: Operand) -> Tally:
    if tally.weight is not None and tally.kinds != ["analog"]:
        counts = tally.counts
        counts["rate_sop"] = round(counts["dense"] * counts["units"] / max(counts["inputs"], 1))
    activations = [f.x for f in factors if tally.weight is None or f.x is not tally.weight.x]
    tally.bytes = sum(x.numel() * x.element_size() for x in (*activations, *call.out[:1]))
    return tally


def _mm(call: Call, setting: Setting) -> Tally | None:
    left, right = call.args[-2:]
    return _pair(call, _operand(call, left), _operand(call, right), setting)


def _addmm(call: Call, setting: Setting) -> Tally | None:
    bias, left, right = call.args[:3]
    tally = _pair(call, _operand(call, left), _operand(call, right), setting)
    if tally is not None and _operand(call, bias).note.role == Role.DATA:
        tally.counts["adds"] = call.out[0].numel()
    return tally


def _mv(call: Call, setting: Setting) -> Tally | None:
    matrix, vector = call.args[-2:]
    return _pair(call, _operand(call, matrix), _as_column(_operand(call, vector)), setting)


def _dot(call: Call, setting: Setting) -> Tally | None:
    left, right = (_operand(call, x) for x in call.args[:2])
    row = Operand(left.x[None], replace(left.note, axes=((), *left.note.axes)))
    return _pair(call, row, _as_column(right), setting)


def _as_column(vector: Operand) -> Operand:
    return Operand(vector.x[:, None], replace(vector.note, axes=(*vector.note.axes, ())))


def _convolution(call: Call, setting: Setting) -> Tally | None:
    x, w = _operand(call, call.args[0]), _operand(call, call.args[1])
    if not is_activation(x, w) or is_activation(w, x):
        return None  # a kernel that depends on the input: listed as uncounted
    how = Convolution(*call.args[3:9])
    return _finish(call, convolution(x, w, call.out[0], how, setting), x, w)


def _addbmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    wide = left.transpose(0, 1).reshape(left.shape[1], -1)
    return torch.addmm(bias, wide, right.reshape(-1, right.shape[2]), beta=beta, alpha=alpha)


def _bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    inner = F.linear(y, weight.reshape(-1, weight.shape[2])).unflatten(-1, weight.shape[:2])
    out = (inner @ x.unsqueeze(-1)).squeeze(-1)
    return out if bias is None else out + bias


SPELLED: Mapping[Any, Callable[..., Tensor]] = {
    torch.ops.aten.addbmm.default: _addbmm,
    torch.ops.aten.bilinear.default: _bilinear,
}
"""Products that torch runs as one operation of its own, spelled with those of `PRODUCTS`."""

PRODUCTS: Mapping[str, Callable[[Call, Setting], Tally | None]] = {
    "mm": _mm,
    "bmm": _mm,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "mv": _mv,
    "addmv": lambda call, setting: _mv(Call(call.name, call.args[:3], call.tensors, call.notes, call.out), setting),
    "dot": _dot,
    "vdot": _dot,
    "convolution": _convolution,
    "_convolution": _convolution,
}
"""What multiplies. A new entry returns None where no activation takes part."""
