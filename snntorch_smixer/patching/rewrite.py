"""Graph surgery: the products of a traced attention make way for ``W_M V``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import fx, nn

from snntorch_smixer.patching.fused import Fused, keep_value_rows
from snntorch_smixer.patching.products import INDEXING, Attention, is_activation, operation
from snntorch_smixer.patching.standins import TAP
from snntorch_smixer.patching.swap import MIXER, Swap, kept_parameters
from snntorch_smixer.patching.trace import VALUE


def rewrite(
    module: nn.Module, graph: fx.Graph, attentions: Sequence[Attention], cut: Sequence[Fused], kept_whole: str
) -> Swap:
    """The swap of ``module``, whose forward is ``graph``; ``graph`` becomes the new forward.

    Args:
        module: the attention in the model.
        graph: from `trace`, on a copy.
        attentions: found in ``graph``: one, or one for each step of its loop.
        cut: for each the projection to slice, or empty.
        kept_whole: why a fused projection is not sliced, or "".
    """
    attention, fused = attentions[0], cut[0] if cut else None
    plain, _ = copied_graph(graph)
    reshapes = _restore_shape(plain)
    tapped, factor = _tap(graph, attentions), _factor(_scales(attention.out))
    _restore_shape(graph)
    for one in cut:
        keep_value_rows(graph, one)
    for number, each in enumerate(attentions):
        put_mixer(graph, each, {}, cut[number] if cut else None)
    erase_unused(graph)
    _pass_states_by(graph)
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
        factor=factor,
        loops=attention.loops,
        windows=attention.windows,
        causal=attention.causal,
        softmax=attention.softmax,
    )


def put_mixer(
    graph: fx.Graph, attention: Attention, places: Mapping[fx.Node, fx.Node], fused: Fused | None = None
) -> None:
    """Let everything that reads the product read ``mixer(V)``, and the neuron behind it for linear attention.

    Args:
        graph: the traced one, or a copy.
        attention: in the traced graph.
        places: nodes of the traced graph to those of ``graph``, empty where it is the traced one.
        fused: read V at the end of this, sliced projection.
    """
    source = attention.value if fused is None else fused.end
    source, out = places.get(source, source), places.get(attention.out, attention.out)
    scales = _scales(out)
    with graph.inserting_before(out):
        mixed = graph.call_module(MIXER, (source,))
        mixed.meta[VALUE] = attention.out.meta[VALUE]
        if attention.gate is not None:
            mixed = graph.call_module(str(attention.gate.target), (mixed,))
            mixed.meta[VALUE] = attention.out.meta[VALUE]
    out.replace_all_uses_with(mixed)
    for node in scales:
        node.replace_all_uses_with(next(n for n in node.all_input_nodes if is_activation(n)))


def copied_graph(graph: fx.Graph) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A copy, and where its nodes come from."""
    twin = fx.Graph()
    places: dict[fx.Node, fx.Node] = {}
    twin.output(twin.graph_copy(graph, places))
    (end,) = [n for n in graph.nodes if n.op == "output"]
    next(n for n in twin.nodes if n.op == "output").meta.update(end.meta)
    return twin, places


def _tap(graph: fx.Graph, attentions: Sequence[Attention]) -> fx.Graph:
    twin, places = copied_graph(graph)
    for attention in attentions:
        value, out = places[attention.value], places[attention.out]
        with twin.inserting_before(out.next):
            tapped = twin.call_module(TAP, (value, out))
        out.replace_all_uses_with(tapped, delete_user_cb=partial(_is_not, tapped))
    return twin


def _is_not(one: fx.Node, other: fx.Node) -> bool:
    return one is not other


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


def _pass_states_by(graph: fx.Graph) -> None:
    """Give membranes of Q and K back as they came, where nothing reads their spikes any more: they need not run."""
    for node in reversed(list(graph.nodes)):
        parts = list(node.users)
        takes = [a for a in node.args if isinstance(a, fx.Node)]
        if node.op != "call_module" or len(takes) != 2 or not parts or node.kwargs:
            continue
        if all(operation(part) == "getitem" and part.args[1] == 1 for part in parts):
            for part in parts:
                part.replace_all_uses_with(takes[1])
    erase_unused(graph)


def erase_unused(graph: fx.Graph) -> None:
    """Erase what no output needs."""
    # Not Graph.eliminate_dead_code, which asks every child whether it is pure.
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


def _scales(out: fx.Node) -> list[fx.Node]:
    """Multiplications of a product by plain numbers, up to its next real use: ``W_M`` needs no scale.

    What is learnt stays: it has a gradient, and may scale channels, which ``W_M`` cannot.
    """
    found, node = [], out
    while len(node.users) == 1:
        (user,) = node.users
        name = operation(user)
        if name in ("mul", "truediv", "div") and (user.args[0] is node or name == "mul"):
            if not all(_is_number(a) for a in (*user.args, *user.kwargs.values()) if a is not node):
                break
            found.append(user)
        elif name not in INDEXING or user.op == "call_module":
            break
        node = user
    return found


def _is_number(value: object) -> bool:
    if not isinstance(value, fx.Node):
        return isinstance(value, (int, float))
    held = value.meta[VALUE]
    if not torch.is_tensor(held):
        return isinstance(held, (int, float))
    return held.numel() == 1 and not isinstance(held, nn.Parameter) and not is_activation(value)


def _factor(scales: list[fx.Node]) -> float:
    factor = 1.0
    for node in scales:
        number = next(a for a in node.args if not is_activation(a))
        value = float(number.meta[VALUE] if isinstance(number, fx.Node) else number)  # type: ignore[arg-type]
        factor = factor * value if operation(node) == "mul" else factor / value
    return factor
