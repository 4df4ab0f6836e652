"""Torch's own attention calls, written out as matrix products, so that a trace sees Q, K, V and what lies between."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snntorch_smixer.errors import FamilyError


def dot_product(  # noqa: PLR0913 - the parameters of torch's
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """``F.scaled_dot_product_attention`` as two products with a softmax between; arguments as there.

    Raises:
        FamilyError: heads of V are shared by groups of queries.
    """
    if enable_gqa:
        raise FamilyError(
            "wrap: its scaled_dot_product_attention shares heads (enable_gqa), and W_M has a head for each. Pass "
            "swap=False."
        )
    scores = (query @ key.transpose(-2, -1)) * (query.size(-1) ** -0.5 if scale is None else scale)
    if is_causal:
        scores = forget_later(scores)
    if attn_mask is not None:
        scores = join_mask(scores, attn_mask)
    weights = scores.softmax(-1)
    return (F.dropout(weights, dropout_p) if dropout_p else weights) @ value


def forget_later(scores: Tensor) -> Tensor:
    """Scores ``(..., N, N)`` with minus infinity where a query would read a key behind it."""
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(later, -math.inf)


def join_mask(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores with a mask added, or with minus infinity where a boolean one is False, as torch reads it."""
    return scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask


torch.fx.wrap("forget_later")
torch.fx.wrap("join_mask")


def multihead(  # noqa: PLR0913 - the parameters of torch's
    layer: nn.MultiheadAttention,
    query: Any,
    key: Any,
    value: Any,
    key_padding_mask: Any = None,
    need_weights: bool = True,  # noqa: ARG001 - W_M has no weights per sample to give
    attn_mask: Any = None,
    average_attn_weights: bool = True,  # noqa: ARG001
    is_causal: bool = False,  # noqa: ARG001 - a hint that the mask is causal; the mask says so itself
) -> tuple[Any, None]:
    """`torch.nn.MultiheadAttention`, its weights not given back; arguments as there.

    Raises:
        FamilyError: a padding mask, learned keys, or input without samples.
    """
    for what, given in (("a key_padding_mask", key_padding_mask), ("bias_k or add_zero_attn", _adds_keys(layer))):
        if given is not None:
            raise FamilyError(f"wrap: its nn.MultiheadAttention has {what}, to which no W_M keeps. Pass swap=False.")
    if query.dim() != 3:
        raise FamilyError("wrap: its nn.MultiheadAttention takes one sample without a batch axis. Add that axis.")
    q, k, v = _projected(layer, query, key, value)
    if not layer.batch_first:
        q, k, v = (one.transpose(0, 1) for one in (q, k, v))
    q, k, v = (one.unflatten(-1, (layer.num_heads, layer.head_dim)).transpose(1, 2) for one in (q, k, v))
    y = dot_product(q, k, v, attn_mask, layer.dropout if layer.training else 0.0)
    y = y.transpose(1, 2).flatten(2)
    return layer.out_proj(y if layer.batch_first else y.transpose(0, 1)), None


def _adds_keys(layer: nn.MultiheadAttention) -> Any:
    return True if layer.bias_k is not None or layer.add_zero_attn else None


def _projected(layer: nn.MultiheadAttention, query: Any, key: Any, value: Any) -> tuple[Any, Any, Any]:
    bias = layer.in_proj_bias
    if layer._qkv_same_embed_dim and query is key is value:
        return tuple(F.linear(query, layer.in_proj_weight, bias).chunk(3, -1))  # type: ignore[return-value]
    if layer._qkv_same_embed_dim:
        weights = layer.in_proj_weight.chunk(3)
    else:
        weights = layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight
    biases = (None, None, None) if bias is None else bias.chunk(3)
    return tuple(F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))  # type: ignore[return-value]
