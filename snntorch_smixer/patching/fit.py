"""Fit every ``W_M`` to the attention that it replaced: ridge regression of the product on V, in closed form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import FamilyError, SettingError
from snntorch_smixer.layers.mixer import is_plain
from snntorch_smixer.layouts import Layout
from snntorch_smixer.modes import undisturbed
from snntorch_smixer.patching import built_in
from snntorch_smixer.patching.modules import (
    CausalTokenMatrix,
    LazyCausalTokenMatrix,
    LazyTokenMatrix,
    TokenMixing,
    WrappedDSTSP,
)
from snntorch_smixer.patching.observe import first_tensor
from snntorch_smixer.patching.standins import InPlaceOf, SwappedAttention, Tap
from snntorch_smixer.patching.state import restored
from snntorch_smixer.rest import reset_all

CAUSAL = (CausalTokenMatrix, LazyCausalTokenMatrix)


def ridge(gram: Tensor, cross: Tensor, strength: float = 1e-3, *, causal: bool = False) -> Tensor:
    """``W`` that minimises ``|W V - Y|^2 + r |W|^2`` per head.

    Args:
        gram: ``V V^T`` summed over samples, steps and channels, ``(h, N, N)``.
        cross: ``Y V^T``, summed alike, ``(h, M, N)``.
        strength: r over the mean of the diagonal of ``gram``.
        causal: row i is fitted to the first i + 1 entries of V alone, and the others are 0.

    Returns:
        ``(h, M, N)``. A head whose V never fired gives zeros.
    """
    mean = gram.diagonal(dim1=1, dim2=2).mean(1)
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    full = gram + strength * mean[:, None, None] * eye
    if not causal:
        return torch.linalg.solve(full, cross.transpose(1, 2)).transpose(1, 2)
    rows = torch.zeros_like(cross)
    for last in range(1, cross.shape[1] + 1):
        rows[:, last - 1, :last] = torch.linalg.solve(full[:, :last, :last], cross[:, last - 1, :last])
    return rows


class Statistics(nn.Module):
    """Adds up, over the batches, what `ridge` needs; lets the product pass.

    Args:
        holder: has ``w_m`` and ``heads``.
        tap: layouts of V and of the product.
    """

    def __init__(self, holder: Any, tap: Tap) -> None:
        super().__init__()
        self.heads, self.factor, self.causal = holder.heads, tap.factor, isinstance(holder.w_m, CAUSAL)
        self.columns = holder.shape[1] if isinstance(holder, TokenMixing) else 0
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
        together = ("t", "n") in layout.groups or ("n", "t") in layout.groups
        known = {"n": self.columns} if together else {"t": 1}
        tokens = layout.to_tokens(x.detach(), {"g": self.heads} | known)  # (T, B, N, C)
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

    Examples:
        >>> import torch
        >>> from spikingjelly.activation_based.model.spikformer import Spikformer
        >>> from snntorch_smixer import dstsp
        >>> sizes = {"img_size_h": 16, "img_size_w": 16, "patch_size": 4, "embed_dims": 32, "num_heads": 2, "depths": 1}
        >>> net = dstsp.wrap(Spikformer(T=2, **sizes), ps=0, t=None)
        >>> net = dstsp.fit(net, [torch.rand(4, 3, 16, 16)])  # unlabelled batches
    """
    if built_in.pruning_of(model) is not None:
        raise FamilyError(f"fit: {type(model).__name__} has no attention that was swapped: its W_M is trained with it.")
    if not isinstance(getattr(model, "dstsp", None), WrappedDSTSP):
        raise FamilyError(f"fit: this {type(model).__name__} is not wrapped. Call dstsp.wrap(model) first.")
    swapped = [m for m in model.modules() if isinstance(m, InPlaceOf) and m.removed.tap is not None]
    if not swapped:
        raise FamilyError(_nothing_to_fit(model))
    taken = next(
        (m for m in swapped if not isinstance(w := _holder(m).w_m, (LazyTokenMatrix, *CAUSAL)) and not is_plain(w)),
        None,
    )
    if taken is not None:
        raise FamilyError(
            f"fit: w_m of a {type(taken.removed.module).__name__} is a {type(_holder(taken).w_m).__name__}, whose "
            "weight fit cannot write. Fit first, then put adapters or parametrizations on."
        )
    with undisturbed():
        weights = _fitted(model, swapped, batches)
        _write(swapped, weights)
    return model


def _nothing_to_fit(model: nn.Module) -> str:
    if any(isinstance(m, InPlaceOf) and m.has_w_m for m in model.modules()):
        return "fit: every W_M holds the model's own matrices already, so there is nothing to fit. Leave fit out."
    return "fit: no attention was swapped, so there is no W_M to fit. Wrap with swap=True or 'all'."


def _fitted(model: nn.Module, swapped: list[InPlaceOf], batches: Iterable[Any]) -> list[Tensor | None]:
    """The matrix for each swapped attention, None where it was never called; the model is as before."""
    count = 0
    with _teaching(model, swapped) as taps:
        for batch in batches:
            for part in (model, *(module.removed.module for module in swapped)):
                reset_all(part)
            model(_input(batch, model))
            count += 1
    if not count:
        raise SettingError("fit: got no batch to calibrate on. Pass a loader with at least one.")
    return [
        None
        if isinstance(tap.gram, float) or isinstance(tap.cross, float)
        else ridge(tap.gram, tap.cross, causal=tap.causal)
        for tap in taps
    ]


def _write(swapped: list[InPlaceOf], weights: list[Tensor | None]) -> None:
    """Put the matrices in: all of them, or none where Ctrl-C comes in between."""
    pairs = [(_holder(module), weight) for module, weight in zip(swapped, weights, strict=True) if weight is not None]
    before: list[tuple[Tensor, Tensor]] = []
    try:
        for holder, weight in pairs:
            if isinstance(holder, TokenMixing):
                holder.materialize(weight.shape[1], weight.device)
            before.append((holder.w_m.weight, holder.w_m.weight.clone()))
            holder.w_m.weight.view(holder.heads, -1, weight.shape[2]).copy_(weight)
    except BaseException:
        for parameter, value in before:
            parameter.copy_(value)
        raise


def _holder(module: InPlaceOf) -> Any:
    """What has ``w_m`` and ``heads``."""
    return module.mixer if isinstance(module, SwappedAttention) else module


@contextmanager
def _teaching(model: nn.Module, swapped: list[InPlaceOf]) -> Iterator[list[Statistics]]:
    """Let the original attentions run, unpruned, each with its statistics; then the model and its state are as before.

    Neurons are shared with the originals, which are no part of the model.
    """
    dstsp, originals = model.dstsp, [module.removed.module for module in swapped]
    with restored(model, *originals) as before:
        before.set_aside()
        model.eval()
        dstsp.active = "never"  # type: ignore[union-attr]
        try:
            yield [module.removed.start_teaching(Statistics, _holder(module)) for module in swapped]
        finally:
            for module in swapped:
                module.removed.teaching = False


def _input(batch: Any, model: nn.Module) -> Tensor:
    x = first_tensor(batch)
    if x is None:
        raise SettingError(f"fit: found no tensor in a batch of type {type(batch).__name__}. Pass inputs or tuples.")
    if not x.numel():
        raise SettingError(f"fit: got an empty batch of shape {tuple(x.shape)}. Pass batches with at least one sample.")
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    return x if weight is None else x.to(weight.device, weight.dtype if x.is_floating_point() else x.dtype)
