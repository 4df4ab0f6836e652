"""Fit every ``W_M`` to the attention that it replaced: ridge regression of the product on V, in closed form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import FamilyError, SettingError
from snntorch_smixer.layers.mixer import matrix
from snntorch_smixer.layouts import Layout
from snntorch_smixer.patching.modules import TokenMixing, WrappedDSTSP
from snntorch_smixer.patching.observe import first_tensor
from snntorch_smixer.patching.standins import InPlaceOf, SwappedAttention, Tap


def ridge(gram: Tensor, cross: Tensor, strength: float = 1e-3) -> Tensor:
    """``W`` that minimises ``|W V - Y|^2 + r |W|^2`` per head.

    Args:
        gram: ``V V^T`` summed over samples, steps and channels, ``(h, N, N)``.
        cross: ``Y V^T``, summed alike, ``(h, M, N)``.
        strength: r over the mean of the diagonal of ``gram``.

    Returns:
        ``(h, M, N)``. A head whose V never fired gives zeros.
    """
    mean = gram.diagonal(dim1=1, dim2=2).mean(1)
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram + strength * mean[:, None, None] * eye, cross.transpose(1, 2)).transpose(1, 2)


class Statistics(nn.Module):
    """Adds up, over the batches, what `ridge` needs; lets the product pass.

    Args:
        heads: h.
        tap: layouts of V and of the product.
    """

    def __init__(self, heads: int, tap: Tap) -> None:
        super().__init__()
        self.heads, self.factor = heads, tap.factor
        self.value_layout, self.out_layout = Layout(tap.value_layout), Layout(tap.out_layout)
        self.gram: Tensor | float = 0.0
        self.cross: Tensor | float = 0.0

    def forward(self, value: Tensor, out: Tensor) -> Tensor:
        """``out`` as it came."""
        v, y = self._by_head(self.value_layout, value), self._by_head(self.out_layout, out) * self.factor
        self.gram = self.gram + v @ v.transpose(1, 2)
        self.cross = self.cross + y @ v.transpose(1, 2)
        return out

    def _by_head(self, layout: Layout, x: Tensor) -> Tensor:
        tokens = layout.to_tokens(x.detach(), {"g": self.heads, "t": 1})  # (T, B, N, C)
        heads = tokens.unflatten(3, (self.heads, -1)).permute(3, 2, 0, 1, 4).flatten(2)
        return heads.double()  # (h, N, T * B * C / h)


@torch.no_grad()
def fit(model: nn.Module, batches: Iterable[Any]) -> nn.Module:
    """Fit every ``W_M`` of a wrapped model, in place, so that a trained one keeps working before any fine-tuning.

    Each batch runs once through the original attention, unpruned, in evaluation mode. Then, per head,
    ``W_M = Y V^T (V V^T + r I)^-1`` with V the values and Y the attention's product, summed over all batches, steps,
    samples and channels.

    Args:
        model: wrapped, with swapped attention.
        batches: inputs, or tuples and dictionaries whose first tensor is the input.

    Raises:
        FamilyError: the model is not wrapped, or nothing was swapped.
        SettingError: there is no batch. The model is as before.
    """
    if not isinstance(getattr(model, "dstsp", None), WrappedDSTSP):
        raise FamilyError(f"fit: this {type(model).__name__} is not wrapped. Call dstsp.wrap(model) first.")
    swapped = [m for m in model.modules() if isinstance(m, InPlaceOf) and m.removed.tap is not None]
    if not swapped:
        raise FamilyError("fit: no attention was swapped, so there is no W_M to fit. Wrap with swap=True or 'all'.")
    count = 0
    with _teaching(model, swapped) as taps:
        for batch in batches:
            reset_all(model)
            model(_input(batch, model))
            count += 1
    if not count:
        raise SettingError("fit: got no batch to calibrate on. Pass a loader with at least one.")
    for module, tap in zip(swapped, taps, strict=True):
        _write(module, tap)
    reset_all(model)
    return model


def _write(module: InPlaceOf, tap: Statistics) -> None:
    if isinstance(tap.gram, float) or isinstance(tap.cross, float):
        return  # never called
    weight = ridge(tap.gram, tap.cross)
    holder: Any = module.mixer if isinstance(module, SwappedAttention) else module
    if isinstance(holder, TokenMixing):
        holder.materialize(weight.shape[1], tap.gram.device)
    matrix(holder.w_m).copy_(weight)


@contextmanager
def _teaching(model: nn.Module, swapped: list[InPlaceOf]) -> Iterator[list[Statistics]]:
    """Let the original attentions run, unpruned, each with its statistics."""
    dstsp, modes = model.dstsp, [(m, m.training) for m in model.modules()]
    settings = dstsp.settings  # type: ignore[union-attr]
    taps = []
    try:
        model.eval()
        dstsp.active = "never"  # type: ignore[union-attr]
        for module in swapped:
            holder: Any = module.mixer if isinstance(module, SwappedAttention) else module
            taps.append(module.removed.start_teaching(Statistics, holder.heads))
        yield taps
    finally:
        dstsp.settings = settings  # type: ignore[union-attr]
        for module in swapped:
            module.removed.stop_teaching()
        for part, training in modes:
            part.training = training
        reset_all(model)  # a batch that failed leaves membranes


def _input(batch: Any, model: nn.Module) -> Tensor:
    x = first_tensor(batch)
    if x is None:
        raise SettingError(f"fit: found no tensor in a batch of type {type(batch).__name__}. Pass inputs or tuples.")
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    return x if weight is None else x.to(weight.device, weight.dtype if x.is_floating_point() else x.dtype)


def reset_all(model: nn.Module) -> None:
    """Put every neuron at rest, of snnTorch and of libraries whose neurons have ``reset``, removed ones too."""
    modules = [*model.modules()]
    modules += [n for m in modules if isinstance(m, InPlaceOf) for n in m.removed.module.modules()]
    for module in modules:
        for name in ("reset", "reset_mem"):
            if module is not model and callable(getattr(module, name, None)):
                getattr(module, name)()
                break
