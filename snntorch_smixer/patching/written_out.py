"""Torch's own attention calls, written out as matrix products, so that a trace sees Q, K, V and what lies between."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snntorch_smixer.errors import FamilyError

_MULTIHEAD: dict[str, Any] = {
    **dict.fromkeys(("query", "key", "value", "key_padding_mask")),
    **{"need_weights": True, "attn_mask": None, "average_attn_weights": True, "is_causal": False},
}
_DOT_PRODUCT: dict[str, Any] = {
    **dict.fromkeys(("query", "key", "value", "attn_mask")),
    **{"dropout_p": 0.0, "is_causal": False, "scale": None, "enable_gqa": False},
}
"""The parameters of torch's own in their order; ``need_weights`` is not read, as W_M has none for each sample."""


def _bound(defaults: dict[str, Any], args: Any, kwargs: Any) -> dict[str, Any]:
    return {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}


def dot_product(*args: Any, **kwargs: Any) -> Any:
    """``F.scaled_dot_product_attention`` as two products with a softmax between; its arguments.

    Raises:
        FamilyError: heads of V are shared by groups of queries.
    """
    given = _bound(_DOT_PRODUCT, args, kwargs)
    query, value, scale, mask = given["query"], given["value"], given["scale"], given["attn_mask"]
    if given["enable_gqa"]:
        raise FamilyError(
            "wrap: its scaled_dot_product_attention shares heads (enable_gqa), and W_M has a head for each. Pass "
            "swap=False."
        )
    scores = (query @ given["key"].transpose(-2, -1)) * (query.size(-1) ** -0.5 if scale is None else scale)
    if given["is_causal"]:
        scores = forget_later(scores)
    if mask is not None:
        scores = join_mask(scores, mask)
    weights, rate = scores.softmax(-1), given["dropout_p"]
    return (F.dropout(weights, rate) if rate else weights) @ value


def forget_later(scores: Tensor) -> Tensor:
    """Scores ``(..., N, N)`` with minus infinity where a query would read a key behind it."""
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(later, -math.inf)


def join_mask(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores with a mask added, or with minus infinity where a boolean one is False, as torch reads it."""
    return scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask


torch.fx.wrap("forget_later")
torch.fx.wrap("join_mask")


def multihead(layer: nn.MultiheadAttention, *args: Any, **kwargs: Any) -> tuple[Any, None]:
    """`torch.nn.MultiheadAttention`, its weights not given back; its arguments.

    Raises:
        FamilyError: a padding mask, learned keys, or input without samples.
    """
    given = _bound(_MULTIHEAD, args, kwargs)
    query, key, value, padding = (given[name] for name in ("query", "key", "value", "key_padding_mask"))
    for what, held in (("a key_padding_mask", padding), ("bias_k or add_zero_attn", _adds_keys(layer))):
        if held is not None:
            raise FamilyError(f"wrap: its nn.MultiheadAttention has {what}, to which no W_M keeps. Pass swap=False.")
    if query.dim() != 3:
        raise FamilyError("wrap: its nn.MultiheadAttention takes one sample without a batch axis. Add that axis.")
    q, k, v = _projected(layer, query, key, value)
    if not layer.batch_first:
        q, k, v = (one.transpose(0, 1) for one in (q, k, v))
    q, k, v = (one.unflatten(-1, (layer.num_heads, layer.head_dim)).transpose(1, 2) for one in (q, k, v))
    y = dot_product(q, k, v, given["attn_mask"], layer.dropout if layer.training else 0.0)
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
