"""Trace an attention on a copy, and write the forward in which ``W_M V`` takes the place of its products."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.layouts import Layout
from snntorch_smixer.patching.attention import find_attention
from snntorch_smixer.patching.fused import Fused, find_fused, keep_value_rows, sliced
from snntorch_smixer.patching.observe import first_tensor
from snntorch_smixer.patching.products import Attention, Sizes, is_activation, operation
from snntorch_smixer.patching.standins import TAP
from snntorch_smixer.patching.swap import MIXER, Swap, kept_parameters
from snntorch_smixer.patching.trace import VALUE, example_arguments, function_calls, run_node, trace

STORED_STEPS = ("T", "step")
"""Attributes in which modules store T."""


def prepare(module: nn.Module, x: Tensor, sizes: Sizes) -> Swap | None:
    """How to swap ``module``, or None where it does not attend.

    Args:
        module: an attention; it is copied, not touched.
        x: an input of it.
        sizes: of ``x``, all different.

    Raises:
        FamilyError: its forward cannot be followed, or its products cannot be understood.
    """
    twin = with_steps(module, sizes.t)
    heads = next(
        (h for n in ("num_heads", "num_head", "heads") if isinstance(h := getattr(module, n, None), int)), None
    )
    graph = trace(twin, example_arguments(twin, x))
    _read_stored_steps(graph, twin, sizes.t)
    attention = find_attention(graph, sizes, heads)
    if attention is None:
        return None
    fused, kept_whole = _sliced_value(attention, sizes, module)
    functions = function_calls(graph, twin)
    swap = _rewrite(module, graph, attention, fused, kept_whole)
    return replace(swap, functions=functions, resets=_resets_itself(with_steps(module, sizes.t), x))


def with_steps(module: nn.Module, steps: int | None) -> nn.Module:
    """A copy in evaluation mode whose stored step counts, if there are any, say ``steps``."""
    twin = copy.deepcopy(module).eval()
    for part in twin.modules() if steps is not None else ():
        for name in STORED_STEPS:
            if type(getattr(part, name, None)) is int:
                setattr(part, name, steps)
    return twin


def _read_stored_steps(graph: fx.Graph, twin: nn.Module, steps: int | None) -> None:
    """Let code that stores T read it when it runs: in a trace it is a plain number."""
    name = next((n for n in STORED_STEPS if type(getattr(twin, n, None)) is int), None)
    if name is None or steps is None:
        return
    for node in list(graph.nodes):
        if node.op not in ("call_function", "call_method") or not any(type(a) is int and a == steps for a in node.args):
            continue
        with graph.inserting_before(node):
            stored = graph.get_attr(name)
        stored.meta[VALUE] = steps
        node.args = tuple(stored if type(a) is int and a == steps else a for a in node.args)


def _resets_itself(twin: nn.Module, x: Tensor) -> bool:
    """True where two calls give the same although there are neurons with a state to reset (BrainCog)."""
    if not any(callable(getattr(m, "reset", None)) for m in twin.modules()):
        return False
    with torch.no_grad():
        first, second = (first_tensor(twin(**example_arguments(twin, x))) for _ in range(2))
    return first is not None and second is not None and torch.equal(first, second)


def _sliced_value(attention: Attention, sizes: Sizes, module: nn.Module) -> tuple[Fused | None, str]:
    try:
        fused = find_fused(attention, sizes, module)
        if fused is not None and not _still_gives_value(attention, fused, with_steps(module, sizes.t)):
            return None, "its forward counts on the channels of Q and K"
    except FamilyError as error:
        return None, str(error)
    return fused, ""


def _still_gives_value(attention: Attention, fused: Fused, twin: nn.Module) -> bool:
    """True when the sliced projection gives V, tried out on a copy at rest."""
    values: dict[fx.Node, Any] = {}
    for node in attention.value.graph.nodes:
        if node.op == "get_attr" and str(node.target) in fused.targets:
            values[node] = sliced(run_node(twin, node, values.get), fused.rows, fused.width)
        elif node in fused.path and node.op == "call_module":
            part = sliced(twin.get_submodule(str(node.target)), fused.rows, fused.width)
            try:
                values[node] = part(*fx.node.map_arg(node.args, values.get))
            except (RuntimeError, ValueError):
                return False
        elif node in fused.path:
            try:
                values[node] = run_node(twin, node, values.get)
            except (RuntimeError, ValueError):
                return False
        else:
            values[node] = _value_or_run(twin, node, values)
        if node is fused.end:
            break
    sizes = {"g": attention.heads, "t": 1}
    want = Layout(attention.value_layout).to_tokens(attention.value.meta[VALUE], sizes)
    got = values[fused.end]
    if not torch.is_tensor(got):
        return False
    got = Layout(fused.layout).to_tokens(got, sizes)
    return got.shape == want.shape and float((got == want).float().mean()) > 0.999


def _value_or_run(twin: nn.Module, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    # Everything before the projection is as it was traced; sizes read from sliced tensors are read anew.
    if node.op == "placeholder" or not all(other in values for other in node.all_input_nodes):
        return node.meta[VALUE]
    if node.op in ("call_function", "call_method") and not is_activation(node):
        try:
            return run_node(twin, node, values.get)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return node.meta[VALUE]
    return node.meta[VALUE]


def _rewrite(module: nn.Module, graph: fx.Graph, attention: Attention, fused: Fused | None, kept_whole: str) -> Swap:
    plain, _ = _copy(graph)
    reshapes = _restore_shape(plain)
    tapped = _tap(graph, attention)
    _restore_shape(graph)
    source = attention.value
    if fused is not None:
        keep_value_rows(graph, fused)
        source = fused.end
    out = _without_scale(attention.out)
    with graph.inserting_before(attention.out):
        mixed = graph.call_module(MIXER, (source,))
        if attention.gate is not None:
            mixed = graph.call_module(str(attention.gate.target), (mixed,))
    out.replace_all_uses_with(mixed)
    _erase_unused(graph)
    before = sum(p.numel() for p in module.parameters())
    return Swap(
        kind=attention.kind,
        graph=graph,
        value_layout=attention.value_layout if fused is None else fused.layout,
        out_layout=attention.out_layout,
        heads=attention.heads,
        channels=attention.channels,
        stride=attention.stride,
        fused=fused,
        kept_whole=kept_whole,
        dropped=before - kept_parameters(module, graph, fused),
        plain=plain,
        reshapes=reshapes,
        tapped=tapped,
        tap_layout=attention.value_layout,
    )


def _copy(graph: fx.Graph) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    twin = fx.Graph()
    places: dict[fx.Node, fx.Node] = {}
    twin.output(twin.graph_copy(graph, places))
    (end,) = [n for n in graph.nodes if n.op == "output"]
    next(n for n in twin.nodes if n.op == "output").meta.update(end.meta)
    return twin, places


def _tap(graph: fx.Graph, attention: Attention) -> fx.Graph:
    twin, places = _copy(graph)
    value, out = places[attention.value], places[_without_scale(attention.out)]
    after = out.next
    with twin.inserting_before(after):
        tapped = twin.call_module(TAP, (value, out))
    out.replace_all_uses_with(tapped, delete_user_cb=lambda user: user is not tapped)
    return twin


def _restore_shape(graph: fx.Graph) -> bool:
    """Give the first output the shape of the input where the forward calls rows columns, as QKFormer's SSA does."""
    (end,) = [n for n in graph.nodes if n.op == "output"]
    x = next(n for n in graph.nodes if n.op == "placeholder")
    out = next((n for n in end.all_input_nodes if is_activation(n)), None)
    value, given = x.meta[VALUE], None if out is None else out.meta[VALUE]
    if given is None or given.shape == value.shape or given.numel() != value.numel():
        return False
    with graph.inserting_before(end):
        same = graph.call_function(torch.reshape, (out, graph.call_function(getattr, (x, "shape"))))
    end.replace_input_with(out, same)
    return True


def _erase_unused(graph: fx.Graph) -> None:
    # Not Graph.eliminate_dead_code, which asks every child whether it is pure.
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


def _without_scale(node: fx.Node) -> fx.Node:
    """The last of the multiplications by plain numbers behind a product: ``W_M`` needs no scale."""
    while len(node.users) == 1:
        (user,) = node.users
        others = [a for a in user.all_input_nodes if a is not node]
        scales = operation(user) in ("mul", "truediv", "div") and not any(is_activation(other) for other in others)
        if not scales or (user.args[0] is not node and operation(user) != "mul"):
            break
        node = user
    return node
