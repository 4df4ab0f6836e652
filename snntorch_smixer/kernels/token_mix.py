"""``W_M' X'``: the token-mixing matrix restricted to the tokens that pruning kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from snntorch_smixer.selection import Selection, take_tokens


def active_weight(weight: Tensor, kept: Selection) -> Tensor:
    """``W_M'``, the part of ``W_M`` that acts on the kept tokens (paper, DSSP; three readings, see `Selection`).

    Args:
        weight: ``(h, N, N)``; row i gives output token i, column j takes input token j.
        kept: what pruning kept of the N tokens.

    Returns:
        ``(B, h, N', N')`` for ``w_prime="gather"``, ``(1, h, N', N')`` where the batch shares one matrix. With fused
        tokens the last row is the mean over the dropped rows and the last column the sum over the dropped columns: the
        fused token stands at every dropped position.
    """
    if not kept.drops_tokens:
        return weight[None]
    if kept.w_prime == "crop":
        return weight[None, :, : kept.num_tokens, : kept.num_tokens]
    if kept.rows is not None:
        return weight[None, :, kept.rows[:, None], kept.rows[None, :]]
    rows, columns = kept.tokens[:, :, None], kept.tokens[:, None, :]
    mine = weight[:, rows, columns]  # (h, B, N', N')
    if kept.fused:
        lost = kept.dropped()
        into_fused = weight[:, lost[:, :, None], columns].mean(2, keepdim=True)
        from_fused = weight[:, rows, lost[:, None, :]].sum(3, keepdim=True)
        within = weight[:, lost[:, :, None], lost[:, None, :]].mean(2, keepdim=True).sum(3, keepdim=True)
        mine = torch.cat([torch.cat([mine, from_fused], 3), torch.cat([into_fused, within], 3)], 2)
    return mine.transpose(0, 1)


def token_mix_reference(x: Tensor, weight: Tensor, kept: Selection) -> Tensor:
    """``W_M' X'`` by definition: builds ``W_M'`` and multiplies. Reference of the faster forms below.

    Args:
        x: kept tokens, ``(T', B, N', C)``.
        weight: ``(h, N, N)``; channels are split into h contiguous groups.
        kept: what pruning kept.
    """
    heads = x.unflatten(3, (weight.shape[0], -1))
    w_prime = active_weight(weight, kept).to(x.dtype).expand(x.shape[1], -1, -1, -1)
    return torch.einsum("bhnm,tbmhc->tbnhc", w_prime, heads).flatten(3)


def mix_shared(x: Tensor, w_prime: Tensor) -> Tensor:
    """``W' X`` with one ``(h, N', N')`` for the whole batch, as one batched product over heads.

    A broadcast ``matmul`` would keep a copy of ``W'`` for every sample; folding samples into columns keeps one.

    Args:
        x: tokens, ``(..., N', C)``.
        w_prime: ``(h, N', N')``; ``(h, M, N')`` gives M tokens.
    """
    tokens, channels = x.shape[-2:]
    heads = w_prime.shape[0]
    columns = x.reshape(-1, tokens, heads, channels // heads).permute(2, 1, 0, 3)  # (h, N', -1, C/h)
    mixed = torch.bmm(w_prime.to(x.dtype), columns.flatten(2)).unflatten(2, columns.shape[2:])
    return mixed.permute(2, 1, 0, 3).reshape(*x.shape[:-2], w_prime.shape[1], channels)


def mix(x: Tensor, weight: Tensor, kept: Selection | None, whole: Callable[[Tensor], Tensor]) -> Tensor:
    """``W_M X``, or ``W_M' X'`` on kept tokens, in the form that is cheapest.

    Args:
        x: tokens ``(..., N, C)``, or ``(T', B, N', C)`` with ``kept``.
        weight: ``W_M`` as ``(h, N, N)``.
        kept: what pruning kept of the N tokens.
        whole: ``W_M X`` on all N tokens.
    """
    if kept is None or not kept.drops_tokens:
        return whole(x)
    if kept.w_prime == "crop" or kept.rows is not None:
        return mix_shared(x, active_weight(weight, kept)[0])
    if grid_is_cheaper(x, weight.shape[0], kept):
        return restrict_to_kept(whole(expand_to_grid(x, kept)), kept)
    return token_mix_reference(x, weight, kept)


def mix_on_grid(x: Tensor, kept: Selection, whole: Callable[[Tensor], Tensor]) -> Tensor:
    """``W_M' X'`` by ``whole`` alone, for a ``W_M`` of which nothing is known but what it answers.

    Args:
        x: kept tokens, ``(T', B, N', C)``.
        kept: what pruning kept of the N tokens; its ``w_prime`` says on which rows and columns they meet ``W_M``.
        whole: ``W_M X`` on all N tokens.
    """
    placed = on_grid(kept)
    return restrict_to_kept(whole(expand_to_grid(x, placed)), placed)


def on_grid(kept: Selection) -> Selection:
    """``kept`` with its tokens at the rows of ``W_M`` that act on them, which need not be their own places."""
    rows = kept.rows
    if kept.w_prime == "crop":
        rows = torch.arange(kept.num_tokens, device=kept.tokens.device)
    if rows is None or not kept.drops_tokens:
        return kept
    return replace(kept, tokens=rows.expand(kept.tokens.shape[0], -1), rows=None, fused=False)


def grid_is_cheaper(x: Tensor, heads: int, kept: Selection) -> bool:
    """True when filling the dropped positions keeps fewer bytes for backward than one ``W'`` per sample.

    Per sample: ``T' N C`` numbers for the filled grid, ``h N'^2 + T' N' C`` for a gathered matrix and its tokens.
    """
    steps, _, tokens, channels = x.shape
    return steps * kept.full_tokens * channels <= heads * tokens * tokens + steps * tokens * channels


def expand_to_grid(x: Tensor, kept: Selection) -> Tensor:
    """Put kept tokens back at their positions: ``(T', B, N', C)`` to ``(T', B, N, C)``.

    Dropped positions are silent (zero), or hold the fused token where there is one.
    """
    silent = x if kept.fused else torch.cat([x, x.new_zeros(*x.shape[:2], 1, x.shape[3])], 2)
    order = torch.arange(kept.tokens.shape[1], device=x.device).expand_as(kept.tokens)
    last = torch.full((x.shape[1], kept.full_tokens), silent.shape[2] - 1, device=x.device)
    return take_tokens(silent, last.scatter(1, kept.tokens, order))


def restrict_to_kept(grid: Tensor, kept: Selection) -> Tensor:
    """Read the kept tokens off a grid: ``(T', B, N, C)`` to ``(T', B, N', C)``; the inverse of `expand_to_grid`.

    The fused token, if any, is the mean over the dropped positions.
    """
    x = take_tokens(grid, kept.tokens)
    if not kept.fused:
        return x
    return torch.cat([x, take_tokens(grid, kept.dropped()).mean(2, keepdim=True)], 2)


def resize_matrix(matrix: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """``W_M`` for another token grid: bicubic over the grid of the outputs and over that of the inputs.

    Each row is a map over the input tokens and is resized as one, then scaled by N / N', because its sum runs over N'
    tokens now; each column is a map over the output tokens and is resized as one. Antialiased where the grid shrinks.

    Args:
        matrix: ``(h, N, N)``, float.
        before: (rows, columns) of its tokens.
        after: wanted.

    Returns:
        ``(h, N', N')``.
    """
    heads, tokens = matrix.shape[:2]
    wanted = after[0] * after[1]
    rows = _bicubic(matrix.reshape(-1, 1, *before), after).reshape(heads, tokens, wanted) * (tokens / wanted)
    columns = rows.transpose(1, 2).reshape(-1, 1, *before)
    return _bicubic(columns, after).reshape(heads, wanted, wanted).transpose(1, 2).contiguous()


def _bicubic(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bicubic", align_corners=False, antialias=True)
