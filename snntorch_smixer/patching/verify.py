"""Try out, on copies, what was concluded from a trace: which axis is which, and whether V can be had alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.layouts import Layout
from snntorch_smixer.patching.fused import Fused, sliced
from snntorch_smixer.patching.observe import first_tensor
from snntorch_smixer.patching.products import Attention, Sizes, is_activation, operation
from snntorch_smixer.patching.swap import MIXER
from snntorch_smixer.patching.trace import FIXED, VALUE, example_arguments, run_node


@torch.no_grad()
def evaluate(twin: nn.Module, node: fx.Node, inputs: Mapping[str, Any]) -> Any:
    """What ``node`` holds for other inputs than those that were traced; neurons of ``twin`` start at rest."""
    values: dict[fx.Node, Any] = {}
    for other in node.graph.nodes:
        if other.op == "placeholder":
            values[other] = inputs.get(str(other.target), other.meta[VALUE])
        elif other.op != "output":
            values[other] = run_node(twin, other, values.__getitem__)
        if other is node:
            break
    return values[node]


def refuse_fixed(
    fresh: Callable[[int | None], nn.Module],
    graph: fx.Graph,
    named: tuple[str, Tensor],
    *,
    layout: str,
    sizes: Sizes,
    loops: bool = False,
) -> None:
    """Raise `FamilyError` where plain Python took a size, and the graph is wrong for other steps, samples or tokens.

    Args:
        fresh: makes a copy of what was traced, at rest, for that many steps.
        graph: from `trace`.
        named: the input that was traced, behind the name of the parameter that takes it.
        layout: of the input.
        sizes: of the input.
        loops: it loops over its steps, so there is a graph for each number of them.
    """
    fixed = [node for node in graph.nodes if FIXED in node.meta]
    if not fixed:
        return
    name, x = named
    tokens = Layout(layout).to_tokens(x, {"t": sizes.t or 1})
    fewer = {"tokens": tokens[:, :, : (sizes.y - 1) * sizes.x], "samples": tokens[:, :2]}
    fewer |= {} if sizes.t is None or loops else {"time steps": tokens[:1]}
    for what, part in fewer.items():
        grid = {"y": sizes.y - (what == "tokens"), "x": sizes.x}
        inputs = {name: Layout(layout).from_tokens(part, grid)}
        make = partial(fresh, 1 if what == "time steps" else sizes.t)
        if not _follows(make, graph, inputs):
            how = sorted({str(node.meta[FIXED]) for node in fixed})
            raise FamilyError(
                f"wrap: the forward of an attention {' and '.join(how)} a size that follows the number of {what}, so "
                "its graph would hold for one number alone. Write it with tensor operations, or pass swap=False."
            )


@torch.no_grad()
def _follows(make: Callable[[], nn.Module], graph: fx.Graph, inputs: dict[str, Any]) -> bool:
    """True where ``graph`` gives what the module gives, and where that takes no such input."""
    twin = make()
    try:
        want = first_tensor(twin(**{**example_arguments(twin, inputs[next(iter(inputs))]), **inputs}))
    except Exception:  # noqa: BLE001 - foreign code may refuse sizes
        return True
    (end,) = [n for n in graph.nodes if n.op == "output"]
    try:
        got = [evaluate(make(), node, inputs) for node in end.all_input_nodes if is_activation(node)][:1]
    except Exception:  # noqa: BLE001 - sizes that were fixed do not fit
        return False
    return want is None or not got or (got[0].shape == want.shape and torch.equal(got[0], want))


def checked_axes(
    fresh: Callable[[], nn.Module], attention: Attention, x: Tensor, *, layout: str, name: str, sizes: Sizes
) -> tuple[str, str]:
    """Layouts of V and of the product with the order of merged axes found out: change one sample, then one step.

    Args:
        fresh: makes a copy of the attention, at rest.
        attention: as its shapes say.
        x: the input that was traced.
        layout: of ``x``.
        name: of the parameter that takes ``x``.
        sizes: of ``x``.

    Raises:
        FamilyError: V of one sample depends on another, so no order holds.
    """
    tokens = Layout(layout).to_tokens(x, {"t": sizes.t or 1})
    probes, steps = [], 1 if attention.loops else sizes.t or 1
    for axis, place in (("b", 1), *([] if attention.loops else [("t", steps - 1)])):
        changed = tokens.clone()
        part = changed[:, place] if axis == "b" else changed[place]
        part.copy_(torch.rand_like(part) * 4)
        grid = {"y": sizes.y, "x": sizes.x}
        value = evaluate(fresh(), attention.value, {name: Layout(layout).from_tokens(changed, grid)})
        probes.append((axis, place, value))
    before = attention.value.meta[VALUE]
    known = {"t": steps, "b": sizes.b, "g": attention.heads}
    if "w" not in Layout(attention.value_layout):
        known["b"] *= attention.windows
    for value_layout, out_layout in _orders(attention):
        read = Layout(value_layout)
        if all(_only_at(read, before, value, known, (axis, place, sizes)) for axis, place, value in probes):
            return value_layout, out_layout
    raise FamilyError("wrap: the value of an attention mixes samples or steps. Pass swap=False.")


def follows_tokens(
    fresh: Callable[[], nn.Module], attention: Attention, x: Tensor, *, layout: str, name: str, sizes: Sizes
) -> bool:
    """True where a change of the first token of ``x`` leaves some tokens of V as they are; arguments as above."""
    tokens = Layout(layout).to_tokens(x, {"t": sizes.t or 1}).clone()
    tokens[:, :, 0] = torch.rand_like(tokens[:, :, 0]) * 4
    changed = Layout(layout).from_tokens(tokens, {"y": sizes.y, "x": sizes.x})
    after, before = evaluate(fresh(), attention.value, {name: changed}), attention.value.meta[VALUE]
    read, known = Layout(attention.value_layout), {"t": sizes.t or 1, "b": sizes.b, "g": attention.heads}
    moved = read.to_tokens(before, known) != read.to_tokens(after, known)
    return not bool(moved.any(3).any(1).any(0).all())


def _orders(attention: Attention) -> Iterator[tuple[str, str]]:
    groups = [group for group in Layout(attention.value_layout).groups if len(group) > 1]
    for orders in itertools.product(*(itertools.permutations(group) for group in groups)):
        value_layout, out_layout = attention.value_layout, attention.out_layout
        for group, order in zip(groups, orders, strict=True):
            old, new = f"({' '.join(group)})", f"({' '.join(order)})"
            value_layout, out_layout = value_layout.replace(old, new), out_layout.replace(old, new)
        yield value_layout, out_layout


def _only_at(
    layout: Layout, before: Tensor, after: Tensor, known: dict[str, int], where: tuple[str, int, Sizes]
) -> bool:
    axis, place, sizes = where
    changed = layout.to_tokens(before, known) != layout.to_tokens(after, known)
    others = changed.any(3).any(2)
    places = others.any(0) if axis == "b" else others.any(1)
    if axis == "b" and len(places) > sizes.b:  # windows lie behind their sample
        places = places.unflatten(0, (sizes.b, -1)).any(1)
    return not bool(places[torch.arange(len(places)) != place].any())


def only_products_read(
    attentions: Sequence[Attention], cut: Sequence[Fused], whole: fx.Graph, places: Mapping[fx.Node, fx.Node]
) -> bool:
    """True when nothing but the ways to V reads fused projections, in the new forward that keeps them whole.

    Args:
        attentions: in the traced graph: one, or one for each step of its loop.
        cut: in the traced graph, for each of them.
        whole: the new forward, unused nodes erased.
        places: nodes of the traced graph to those of ``whole``.
    """
    ways = [attention_path(*one) for one in zip(attentions, cut, strict=True)]
    path, alive = {places[node] for way in ways for node in way}, set(whole.nodes)
    return all(_stays_inside(user, path, alive) for node in path for user in node.users)


def _stays_inside(user: fx.Node, path: set[fx.Node], alive: set[fx.Node]) -> bool:
    """True for a reader on a way to V, and for the membrane that one step of a loop leaves to the next."""
    if user in path or user not in alive or user.target == MIXER:
        return True
    if user.op == "output" or not _holds_data(user.meta.get(VALUE)):
        return user.op != "output"
    return operation(user) == "getitem" and all(other in path for other in user.users)


def _holds_data(value: Any) -> bool:
    """True for tensors and for parts of them; a shape or a size is none."""
    return torch.is_tensor(value) or (isinstance(value, (tuple, list)) and not isinstance(value, torch.Size))


def attention_path(attention: Attention, fused: Fused) -> list[fx.Node]:
    """Nodes from the fused projection to V."""
    path, node = [attention.value], attention.value
    while node is not fused.path[0]:
        node = next(n for n in node.all_input_nodes if n in fused.path or _leads_to(n, fused.path[0]))
        path.insert(0, node)
    return path


def _leads_to(node: fx.Node, source: fx.Node) -> bool:
    if node is source:
        return True
    if isinstance(node.meta[VALUE], (int, torch.Size)):
        return False
    return any(_leads_to(other, source) for other in node.all_input_nodes)


def still_gives_value(attention: Attention, fused: Fused, twin: nn.Module) -> bool:
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
