"""Look into an attention on copies, and prepare what takes its place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, fx, nn

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.patching.attention import find_attention
from snntorch_smixer.patching.behaviour import levels_of
from snntorch_smixer.patching.fused import Fused, find_fused
from snntorch_smixer.patching.observe import first_tensor, without_hooks
from snntorch_smixer.patching.products import Attention, Sizes, is_activation
from snntorch_smixer.patching.rewrite import copied_graph, erase_unused, put_mixer, rewrite
from snntorch_smixer.patching.swap import Swap
from snntorch_smixer.patching.trace import (
    CALL,
    VALUE,
    example_arguments,
    frozen_arguments,
    function_calls,
    given_to,
    trace,
)
from snntorch_smixer.patching.verify import (
    checked_axes,
    follows_tokens,
    only_products_read,
    refuse_fixed,
    still_gives_value,
)

STORED_STEPS = ("T", "step")
"""Attributes in which modules store T."""
RESERVED = ("mixer", "programs", "removed", "replaced", "resets", "has_w_m", "frozen")
"""Attributes of `SwappedAttention`."""


def prepare(module: nn.Module, x: Tensor, sizes: Sizes, layout: str) -> tuple[Swap | None, str]:
    """How to swap ``module``, None where it does not attend; and what else it multiplies that is no attention.

    Args:
        module: an attention; it is copied, not touched.
        x: an input of it.
        sizes: of ``x``, all different.
        layout: of ``x``.

    Raises:
        FamilyError: its forward cannot be followed, or its products cannot be understood.
    """
    found = _traced(module, x, sizes, layout=layout)
    if isinstance(found, str):
        return None, found
    frozen = frozen_arguments(module)
    taken = [name for name in RESERVED if hasattr(module, name)]
    if taken:
        raise FamilyError(f"wrap: an attention has {taken[0]!r} already, which its swap needs. Rename it.")
    graph, attentions, functions, other = found
    fresh = partial(with_steps, module, sizes.t, functions)
    name = next(iter(example_arguments(module, x)))
    value_layout, out_layout = checked_axes(fresh, attentions[0], x, layout=layout, name=name, sizes=sizes)
    attentions = tuple(replace(one, value_layout=value_layout, out_layout=out_layout) for one in attentions)
    attention = attentions[0]
    if attention.stride > 1 and not follows_tokens(fresh, attention, x, layout=layout, name=name, sizes=sizes):
        return None, "its products sum over no axis of its tokens, as with weights made from data"
    height = _spike_height(module, attention.value)
    cut, kept_whole = _sliced_value(attentions, sizes, module, fresh)
    swap = rewrite(module, graph, attentions, cut, kept_whole)
    swap = replace(swap, functions=functions, frozen=frozen, height=height, resets=_resets_itself(fresh(), x))
    swap = replace(swap, layout=layout, given=given_to(module))
    return _with_training(swap, module, x, sizes, layout), other


def _traced(
    module: nn.Module, x: Tensor, sizes: Sizes, *, layout: str, training: bool = False
) -> tuple[fx.Graph, tuple[Attention, ...], dict[str, nn.Module], str] | str:
    """Graph, attentions, added children and what else is multiplied; that alone where nothing attends."""
    twin = with_steps(module, sizes.t).train(training)
    heads = next((h for n in ("num_heads", "num_head", "heads") if type(h := getattr(module, n, None)) is int), None)
    graph = trace(twin, arguments := example_arguments(twin, x))
    name = next(iter(arguments))
    _read_stored_steps(graph, module, x, sizes)
    functions = function_calls(graph, twin)
    check = partial(
        refuse_fixed, partial(with_steps, module, functions=functions), graph, (name, x), layout=layout, sizes=sizes
    )
    try:
        attentions, other = find_attention(graph, sizes, twin, heads)
    except FamilyError:
        check()
        raise
    if not attentions:
        return other
    if not training:
        check(loops=attentions[0].loops)
    return graph, attentions, functions, other


def _with_training(swap: Swap, module: nn.Module, x: Tensor, sizes: Sizes, layout: str) -> Swap:
    """Add the forward of training mode where that differs, as with dropout by a function."""
    found = _traced(module, x, sizes, layout=layout, training=True)
    if isinstance(found, str):
        return swap
    graph, attentions, functions, _ = found
    cut = [_fused(one, sizes, module) for one in attentions] if swap.fused is not None else []
    other = rewrite(module, graph, attentions, [one for one in cut if one is not None], swap.kept_whole)
    if graph.python_code("self").src == swap.graph.python_code("self").src:
        return swap
    return replace(swap, train_graph=other.graph, functions={**swap.functions, **functions})


def with_steps(module: nn.Module, steps: int | None, functions: Mapping[str, nn.Module] | None = None) -> nn.Module:
    """A copy in evaluation mode whose stored step counts, if there are any, say ``steps``.

    Args:
        module: an attention.
        steps: T.
        functions: further children, see `function_calls`.
    """
    twin = without_hooks(copy.deepcopy(module).eval())
    for part in twin.modules() if steps is not None else ():
        for name in STORED_STEPS:
            if type(getattr(part, name, None)) is int:
                setattr(part, name, steps)
    for name, child in (functions or {}).items():
        twin.add_module(name, child)
    return twin


def _read_stored_steps(graph: fx.Graph, module: nn.Module, x: Tensor, sizes: Sizes) -> None:
    """Let code that stores T read it when it runs: in a trace it is a plain number, the one that follows T."""
    name = next((n for n in STORED_STEPS if type(getattr(module, n, None)) is int), None)
    if name is None or sizes.t is None:
        return
    rows = x.shape[0] // sizes.t
    longer = with_steps(module, sizes.t + 1)
    second = trace(longer, example_arguments(longer, torch.cat([x, x[:rows]])))
    for node, other in zip(list(graph.nodes), list(second.nodes), strict=True):
        if node.op not in ("call_function", "call_method"):
            continue
        args = []
        for mine, theirs in zip(node.args, other.args, strict=True):
            follows = type(mine) is int and mine == sizes.t and theirs == sizes.t + 1
            args.append(_stored(graph, node, name, sizes.t) if follows else mine)
        node.args = tuple(args)


def _stored(graph: fx.Graph, before: fx.Node, name: str, steps: int) -> fx.Node:
    with graph.inserting_before(before):
        node = graph.get_attr(name)
    node.meta[VALUE] = steps
    return node


def _spike_height(module: nn.Module, value: fx.Node) -> float:
    """What one spike of V counts, where an integer neuron gives V: SDT-V3's gives quarters."""
    node: fx.Node | None = value
    while node is not None and node.op != "call_module":
        node = next((n for n in node.all_input_nodes if is_activation(n)), None)
    if node is None or str(node.target).endswith(CALL):
        return 1.0
    found = levels_of(module.get_submodule(str(node.target)))
    return 1.0 if found is None else found[0]


def _resets_itself(twin: nn.Module, x: Tensor) -> bool:
    """True where two calls give the same although there are neurons with a state to reset (BrainCog)."""
    if not any(callable(getattr(m, name, None)) for m in twin.modules() for name in ("reset", "reset_mem")):
        return False
    with torch.no_grad():
        first, second = (first_tensor(twin(**example_arguments(twin, x))) for _ in range(2))
    return first is not None and second is not None and torch.equal(first, second)


def _fused(attention: Attention, sizes: Sizes, module: nn.Module) -> Fused | None:
    """As `find_fused`, on all tokens or on those of windows, and in one step where the attention is that of a loop."""
    sizes = replace(sizes, t=None) if attention.loops else sizes
    found, cut = find_fused(attention, sizes, module), attention.windows
    if found is None and cut > 1:
        return find_fused(attention, replace(sizes, b=sizes.b * cut, y=sizes.n // cut, x=1), module)
    return found


def _sliced_value(
    attentions: Sequence[Attention], sizes: Sizes, module: nn.Module, fresh: Callable[[], nn.Module]
) -> tuple[tuple[Fused, ...], str]:
    """The fused projections to slice, or why there are none although it is fused."""
    try:
        cut = [_fused(one, sizes, module) for one in attentions]
    except FamilyError as error:
        return (), str(error)
    fused = tuple(one for one in cut if one is not None)
    if len(fused) < len(attentions):
        return (), ""
    whole, places = copied_graph(attentions[0].value.graph)
    for one in attentions:
        put_mixer(whole, one, places)
    erase_unused(whole)
    if not only_products_read(attentions, fused, whole, places):
        return (), "more than the products read it"
    if not still_gives_value(attentions[0], fused[0], fresh()):
        return (), "its forward counts on the channels of Q and K"
    return fused, ""
