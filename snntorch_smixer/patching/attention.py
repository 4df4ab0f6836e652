"""Find attention in a traced forward, whichever kind it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import fx, nn

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.patching.judge import has_softmax, is_masked_causally, what_attends, why_none
from snntorch_smixer.patching.products import (
    INDEXING,
    Attention,
    Pair,
    Sizes,
    describe,
    is_activation,
    multiplies_entries,
    operands,
    operation,
    pairs,
    roles,
    sized_layout,
)
from snntorch_smixer.patching.trace import VALUE


def find_attention(
    graph: fx.Graph, sizes: Sizes, module: nn.Module, heads: int | None = None
) -> tuple[tuple[Attention, ...], str]:
    """The attention in ``graph``, and why other chained products in it are none.

    Usually one, or none; T where the forward loops over its steps and attends in each.

    Args:
        graph: from `trace`.
        sizes: of the input that was traced.
        module: what was traced.
        heads: h where the axes do not show it.

    Raises:
        PlacesError: its tokens are tied to their places.
        FamilyError: there are several, or its axes cannot be told apart.
    """
    judged = [(pair, why_none(pair, sizes, module)) for pair in pairs(graph)]
    found = [pair for pair, reason in judged if not reason]
    loops = sizes.t is not None and len(found) == sizes.t
    if len(found) > 1 and not loops:
        raise FamilyError(f"wrap: found {len(found)} attentions in one forward, expected one. Pass swap=False.")
    used = [node for pair in found for node in (pair.first, pair.second)]
    others = [reason for pair, reason in judged if reason and not {pair.first, pair.second} & set(used)]
    other = "; ".join(dict.fromkeys(others))
    if not found:
        linear = None if judged else _linear(graph, sizes, heads or 1)
        return (() if linear is None else (linear,)), other
    sizes = replace(sizes, t=None) if loops else sizes
    return tuple(replace(_described(pair, sizes, module), loops=loops) for pair in found), other


def _described(pair: Pair, sizes: Sizes, module: nn.Module) -> Attention:
    both = roles(pair)
    seen = None if both is None else what_attends(both, pair, sizes)
    if seen is None:
        raise FamilyError("wrap: the products of an attention cannot be read. Pass swap=False.")
    causal, found = is_masked_causally(pair, seen), describe(pair, seen)
    if sizes.t is not None and seen.t is None:  # over steps and tokens together
        value, out = (re.sub(r"\bn\b", "(t n)", layout) for layout in (found.value_layout, found.out_layout))
        found = replace(found, value_layout=value, out_layout=out)
    return replace(found, windows=seen.w, causal=causal, softmax=has_softmax(pair, module))


def _linear(graph: fx.Graph, sizes: Sizes, heads: int) -> Attention | None:
    for node in graph.nodes:
        if not multiplies_entries(node):
            continue
        pair: list[Any] = operands(node)
        for gated, gate in (pair, pair[::-1]):
            found = _sum_behind(gate)
            if found is None or gated.meta[VALUE].shape != node.meta[VALUE].shape:
                continue
            total, neuron = found
            source = total
            if operation(total) != "einsum":
                source = _strip(total.all_input_nodes[0], lambda n: operation(n) in INDEXING)
            multiplies = operation(source) in ("mul", "einsum")
            inner: list[Any] = [n for n in source.args if is_activation(n)] if multiplies else []
            value = gated if not inner else max(inner, key=_comes_from_v)
            layout, h, channels = sized_layout(value.meta[VALUE].shape, sizes, heads)
            out_layout, _, _ = sized_layout(node.meta[VALUE].shape, sizes, heads)
            return Attention("linear", value, node, neuron, layout, out_layout, h, channels)
    return None


_SCALING = frozenset(["mul", "div", "truediv", "add", "sub", "float", "to"])


def _sum_behind(node: Any) -> tuple[fx.Node, fx.Node] | None:
    neuron = None
    while isinstance(node, fx.Node):
        if operation(node) in ("sum", "mean", "einsum") and node.op != "call_module":
            return (node, neuron) if neuron is not None else None
        if node.op == "call_module" and neuron is None:
            neuron = node
        elif operation(node) not in INDEXING | _SCALING or node.op == "call_module":
            return None
        inputs = [n for n in node.all_input_nodes if is_activation(n)]
        node = inputs[0] if len(inputs) == 1 else None
    return None


def _strip(node: fx.Node, when: Callable[[fx.Node], bool]) -> fx.Node:
    while when(node):
        node = next(n for n in node.all_input_nodes if is_activation(n) or isinstance(n.meta[VALUE], (tuple, list)))
    return node


def _comes_from_v(node: fx.Node) -> bool:
    source = _strip(node, lambda n: n.op != "call_module")
    return str(source.target).rpartition(".")[2].startswith("v")
