"""Weights in closed form: ridge regression of what the unpruned net has on what the pruned net gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from snntorch_smixer.kernels.token_mix import expand_to_grid
from snntorch_smixer.layers.mixer import SMixer
from snntorch_smixer.recovery.inputs import Sample
from snntorch_smixer.recovery.layers import Layer, Trace, trace
from snntorch_smixer.recovery.neurons import target_current
from snntorch_smixer.recovery.quality import logits
from snntorch_smixer.selection import Selection

LARGEST_GRAM = 2**27
"""Numbers of the Gram matrices of a ``W_M``, one per row and head: 1 GiB; larger ones are not fitted."""


def step(gram: Tensor, cross: Tensor, now: Tensor, strength: float) -> Tensor:
    """``W`` that minimises ``|W X - Y|^2 + r |W - now|^2``: what the data do not tell stays as it is.

    Args:
        gram: ``X X^T``, ``(..., n, n)``.
        cross: ``Y X^T``, ``(..., m, n)``.
        now: the weight of now, ``(..., m, n)``.
        strength: r over the mean of the diagonal of ``gram``.
    """
    mean = gram.diagonal(dim1=-2, dim2=-1).mean(-1)
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    full = gram + strength * mean[..., None, None] * eye
    missing = cross - now @ gram
    return now + torch.linalg.solve(full, missing.transpose(-1, -2)).transpose(-1, -2)


@torch.no_grad()
def fit_head(model: nn.Module, path: str, teacher: nn.Module, samples: Iterable[Sample], strength: float) -> None:
    """Fit the linear layer that gives the logits to those of ``teacher``, in place.

    Args:
        model: pruned.
        path: of the layer; see `find_head`.
        teacher: unpruned.
        samples: inputs.
        strength: see `step`.
    """
    head: Any = model.get_submodule(path)
    gram = cross = torch.zeros((), dtype=torch.float64)
    for sample in samples:
        seen = trace(model, sample.x, [path])
        x = _pooled(seen.inputs[path]).double()
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        y = logits(teacher, sample.x).double()
        gram, cross = gram + x.T @ x, cross + y.T @ x
    bias = torch.zeros_like(head.weight[:, 0]) if head.bias is None else head.bias
    now = torch.cat([head.weight, bias[:, None]], 1).double()
    if head.bias is None:
        gram, cross, now = gram[:-1, :-1], cross[:, :-1], now[:, :-1]
    new = step(gram, cross, now, strength)
    head.weight.copy_(new[:, : head.weight.shape[1]])
    if head.bias is not None:
        head.bias.copy_(new[:, -1])


def _pooled(x: Tensor) -> Tensor:
    return x.mean(0) if x.dim() == 3 else x


@torch.no_grad()
def find_head(model: nn.Module, x: Tensor) -> str:
    """Path of the one linear layer whose output, averaged over its steps, is the logits; "" where there is none."""
    linear = [path for path, module in model.named_modules() if type(module) is nn.Linear]
    seen = trace(model, x, linear)
    out = logits(model, x)
    known = [p for p in seen.order if p not in seen.repeated and seen.outputs[p].dim() in (2, 3)]
    return next((p for p in reversed(known) if _gives(seen.outputs[p], out)), "")


def _gives(y: Tensor, out: Tensor) -> bool:
    mean = _pooled(y)
    return mean.shape == out.shape and torch.allclose(mean, out, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def fit_layer(model: nn.Module, teacher: nn.Module, layer: Layer, samples: Sequence[Sample], strength: float) -> str:
    """Fit one layer in place; "" or why it cannot be.

    Args:
        model: pruned, with all layers in front of it fitted.
        teacher: unpruned.
        layer: see `find_layers`.
        samples: inputs.
        strength: see `step`.
    """
    if layer.neuron not in dict(teacher.named_modules()):
        return "the unpruned net has no such neuron"
    paths = list({p for p in (layer.path, layer.source, layer.neuron, layer.stream, layer.norm) if p})
    gram = cross = torch.zeros((), dtype=torch.float64)
    for sample in samples:
        mine, theirs = trace(model, sample.x, paths), trace(teacher, sample.x, [layer.neuron])
        target = _target(teacher, layer, mine, theirs)
        if isinstance(target, str):
            return target
        add = _sums_of_mixer if layer.mixes else _sums_of_linear
        more = add(model, layer, mine, target)
        if more is None:
            return "W_M is too large for a fit of its rows"
        gram, cross = gram + more[0], cross + more[1]
    (_write_mixer if layer.mixes else _write_linear)(model, layer, gram, cross, strength)
    return ""


def _target(teacher: nn.Module, layer: Layer, mine: Trace, theirs: Trace) -> Tensor | str:
    """What the neuron has to be given by this layer, in the shape of its input; or why that is not known."""
    if layer.neuron not in theirs.inputs or layer.neuron in theirs.repeated:
        return "its neuron does not run once in the unpruned net"
    kept, x = mine.kept[layer.neuron], mine.inputs[layer.neuron]
    steps = None if kept is None or kept.num_steps == kept.full_steps else kept.steps
    neuron = teacher.get_submodule(layer.neuron)
    target = target_current(neuron, theirs.inputs[layer.neuron], steps)
    if target is None:
        return f"the membrane of a {type(neuron).__name__} is not known"
    if kept is not None and kept.drops_tokens:
        target = _kept_tokens(target, kept, x)
    if target is None or target.shape != x.shape:
        return "dropped tokens keep their place behind it"
    return target - mine.inputs[layer.stream].reshape(x.shape) if layer.stream else target


def _kept_tokens(target: Tensor, kept: Selection, like: Tensor) -> Tensor | None:
    """``target`` ``(T', B, ...)`` without the dropped tokens; None where their axis is not the one that is shorter."""
    if kept.fused or target.dim() != like.dim():
        return None
    sizes = zip(target.shape, like.shape, strict=True)
    axes = [i for i, (full, left) in enumerate(sizes) if full != left]
    if len(axes) != 1 or target.shape[axes[0]] != kept.full_tokens or axes[0] < 2:
        return None
    shape = [1, kept.tokens.shape[0], *[1] * (target.dim() - 2)]
    shape[axes[0]] = kept.tokens.shape[1]
    sizes_of_index = list(target.shape)
    sizes_of_index[axes[0]] = kept.tokens.shape[1]
    return target.gather(axes[0], kept.tokens.view(shape).expand(sizes_of_index))


def _rows(module: nn.Module, x: Tensor) -> Tensor:
    """``(rows, C)``: channels are last in front of a linear layer, and second in front of a convolution."""
    return x.flatten(0, -2) if isinstance(module, nn.Linear) else x.movedim(1, -1).flatten(0, -2)


def _sums_of_linear(model: nn.Module, layer: Layer, mine: Trace, target: Tensor) -> tuple[Tensor, Tensor]:
    linear: Any = model.get_submodule(layer.path)
    if layer.norm:
        norm: Any = model.get_submodule(layer.norm)
        out = target.reshape(mine.outputs[layer.norm].shape).movedim(1, -1)
        scale, shift = _affine(norm)
        target = ((out - shift) / scale).movedim(-1, 1)
    target = target.reshape(mine.outputs[layer.path].shape)
    x, y = _rows(linear, mine.inputs[layer.path]).double(), _rows(linear, target).double()
    if linear.bias is not None:
        y = y - linear.bias.double()
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    return x.T @ x, y.T @ x


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """(scale, shift) of a BatchNorm in evaluation; a scale near 0 is 1: `_write_linear` leaves its channel alone."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale + (0 if norm.bias is None else norm.bias)
    return torch.where(scale.abs() < _SILENT, torch.ones_like(scale), scale), shift


_SILENT = 1e-4


def _write_linear(model: nn.Module, layer: Layer, gram: Tensor, cross: Tensor, strength: float) -> None:
    linear: Any = model.get_submodule(layer.path)
    norm: Any = model.get_submodule(layer.norm) if layer.norm else None
    weight = linear.weight.flatten(1).double()
    now = torch.cat([weight, torch.zeros_like(weight[:, :1])], 1)
    shifts = norm is not None or linear.bias is not None
    if not shifts:
        gram, cross, now = gram[:-1, :-1], cross[:, :-1], now[:, :-1]
    new = step(gram, cross, now, strength)
    if norm is not None and norm.weight is not None:
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        new = torch.where((scale.abs() < _SILENT)[:, None], now, new)
    linear.weight.copy_(new[:, : weight.shape[1]].view_as(linear.weight))
    if shifts and linear.bias is not None:
        linear.bias.add_(new[:, -1])
    elif shifts:
        norm.running_mean.sub_(new[:, -1])


def _sums_of_mixer(model: nn.Module, layer: Layer, mine: Trace, target: Tensor) -> tuple[Tensor, Tensor] | None:
    """A Gram matrix for each row and head: row i is fitted where token i was kept."""
    mixer = cast(SMixer, model.get_submodule(layer.path))
    if mixer.heads * mixer.num_tokens**3 > LARGEST_GRAM:
        return None
    kept, x = mine.kept[layer.neuron], mine.outputs[layer.source]
    here = torch.ones(x.shape[1], mixer.num_tokens, device=x.device)
    if kept is not None and kept.drops_tokens:
        x, target = expand_to_grid(x, kept), expand_to_grid(target, kept)
        here = kept.keep_mask().to(x.dtype)
    heads = (mixer.heads, x.shape[3] // mixer.heads)
    v = x.unflatten(3, heads).permute(3, 1, 2, 0, 4).flatten(3)  # (h, B, N, T' C)
    y = target.unflatten(3, heads).permute(3, 1, 2, 0, 4).flatten(3)
    own = v @ v.transpose(2, 3)  # (h, B, N, N)
    gram = torch.einsum("bi,hbjk->hijk", here, own)
    cross = torch.einsum("bi,hbij->hij", here, y @ v.transpose(2, 3))
    return gram.double(), cross.double()


def _write_mixer(model: nn.Module, layer: Layer, gram: Tensor, cross: Tensor, strength: float) -> None:
    mixer = cast(SMixer, model.get_submodule(layer.path))
    now = mixer.matrix.double()[:, :, None]  # (h, N, 1, N)
    new = step(gram, cross[:, :, None], now, strength)
    mixer.w_m.weight.copy_(new[:, :, 0].reshape(mixer.w_m.weight.shape))
