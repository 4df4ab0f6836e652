"""Replace the products of an attention by ``W_M V`` in its own forward."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import fx, nn

from snntorch_smixer.patching.fused import Fused, Slice, sliced
from snntorch_smixer.patching.modules import Current, TokenMixing, token_matrix
from snntorch_smixer.patching.program import Program
from snntorch_smixer.patching.standins import Removed, SwappedAttention, Tap
from snntorch_smixer.patching.trace import CALL, Given
from snntorch_smixer.patching.unrolled import Unrolled

MIXER = "mixer"
"""Name of the new child: ``attn.mixer.w_m.weight`` is the only new key of a state dict."""


@dataclass(frozen=True, eq=False)
class Swap:
    """How to swap one attention; made on a copy, the model is not touched.

    Attributes:
        kind: "ssa", "linear", "mixer" for matrices that are there already, "as_is" to keep the products.
        graph: the new forward.
        value_layout: of what enters ``mixer``.
        out_layout: of what leaves it.
        heads: h.
        channels: C_v.
        stride: tokens of the input per token of V, 1 unless keys and values are strided.
        fused: the projection to slice, or None.
        kept_whole: why a fused projection was left whole, or "".
        dropped: parameters that go.
        resets: True where the forward puts its own neurons at rest first, which no graph records.
        plain: the original forward, its first output in the shape of its input.
        reshapes: True where the original gives it another shape.
        tapped: the original forward with V and its product passed through a child ``tap``; None without products.
        tap_layout: of V there.
        functions: children of the forward that are no children of the original, see `FunctionCall`.
        train_graph: the new forward of training mode, None where it is the same.
        factor: numbers behind the product that ``W_M`` takes over.
        frozen: arguments that the new forward holds at the values of the trace.
        height: what one spike of V counts; 1 unless an integer neuron divides its levels.
        loops: True where the forwards hold for the steps of the trace alone, because they loop over them.
        layout: of the input.
        windows: how many the tokens of the trace were cut into; ``W_M`` is that of one and serves all.
        causal: True where ``W_M`` is lower triangular.
        softmax: True where the products had one between them.
        given: further arguments with which it was traced.
        grid: rows and columns of its tokens where it takes no others.
        again: prepares it for another number of steps, where it loops over them.
    """

    kind: str
    graph: fx.Graph
    value_layout: str
    out_layout: str
    heads: int
    channels: int
    stride: int
    fused: Fused | None
    kept_whole: str
    dropped: int
    plain: fx.Graph
    resets: bool = False
    reshapes: bool = False
    tapped: fx.Graph | None = None
    tap_layout: str = ""
    functions: Mapping[str, nn.Module] = field(default_factory=dict)
    train_graph: fx.Graph | None = None
    factor: float = 1.0
    frozen: Mapping[str, Any] = field(default_factory=dict)
    height: float = 1.0
    loops: bool = False
    layout: str = ""
    windows: int = 1
    causal: bool = False
    softmax: bool = False
    given: Given = ((), {})
    grid: tuple[int, int] | None = None
    again: Callable[..., Swap | None] | None = None

    def new_name(self, path: str) -> str | None:
        """Name of a child after the swap, None where it is gone."""
        name = self.fused.targets.get(path, path) if self.fused is not None else path
        targets = [str(node.target) for node in self.graph.nodes if node.op == "call_module"]
        return name if any(f"{name}.".startswith(f"{target}.") for target in targets) else None

    def as_is(self) -> Swap:
        """Keep the products, and only give the output the shape of the input."""
        return replace(
            self, kind="as_is", graph=self.plain, fused=None, kept_whole="", dropped=0, tapped=None, train_graph=None
        )


def matrices(module: nn.Module, layout: str) -> Swap:
    """How to swap a module that is a mixer already: ``linear_mix``, one bias-free ``nn.Linear(N, N)`` per head.

    Source: STMixer_demo, models/STMixer.py, STM: heads are contiguous groups of channels, y = W x over tokens.
    """
    linears: nn.ModuleList = module.linear_mix  # type: ignore[assignment]
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_module(MIXER, (x,)))
    return Swap(
        kind="mixer",
        graph=graph,
        value_layout=layout,
        out_layout=layout,
        heads=len(linears),
        channels=0,
        stride=1,
        fused=None,
        kept_whole="",
        dropped=sum(p.numel() for p in module.parameters()),
        plain=graph,
    )


@dataclass(frozen=True, eq=False)
class Matrices:
    """The matrices of a module that was a mixer already, for `unwrap`."""

    mixer: TokenMixing
    linears: nn.ModuleList

    def take(self) -> None:
        """Use them as ``W_M``."""
        with torch.no_grad():
            self.mixer.matrix.copy_(torch.stack([linear.weight for linear in self.linears]))  # type: ignore[misc]

    @torch.no_grad()
    def give_back(self) -> None:
        """Write what ``W_M`` learnt into them, with what an adapter around it adds."""
        for linear, mine in zip(self.linears, self.mixer.matrix, strict=True):
            linear.weight.copy_(mine)  # type: ignore[operator]


def parts_of(module: nn.Module, graphs: Sequence[fx.Graph], fused: Fused | None) -> tuple[dict[str, Any], list[Slice]]:
    """What the new forwards need of ``module``, by dotted name, and the slices among it."""
    origin = {new: old for old, new in fused.targets.items()} if fused is not None else {}
    parts: dict[str, Any] = {}
    slices: list[Slice] = []
    for node in (node for graph in graphs for node in graph.nodes):
        name = str(node.target)
        if node.op not in ("call_module", "get_attr") or name in parts or name == MIXER:
            continue
        old = origin.get(name, name)
        if old.endswith(CALL):
            continue
        whole = operator.attrgetter(old)(module)
        parts[name] = whole
        if name in origin and fused is not None:
            parts[name] = sliced(whole, fused.rows, fused.width)
            if parts[name] is not whole:
                slices.append(Slice(parts[name], whole, fused.rows, fused.width, origin[name]))
    return parts, slices


def kept_parameters(module: nn.Module, graph: fx.Graph, fused: Fused | None) -> int:
    """Parameters that the new forward shares with ``module`` or cuts out of it."""
    parts = parts_of(module, [graph], fused)[0]
    found: dict[int, int] = {}
    for part in parts.values():
        tensors = [part] if isinstance(part, nn.Parameter) else part.parameters() if isinstance(part, nn.Module) else []
        found |= {id(p): p.numel() for p in tensors}
    return sum(found.values())


def build(swap: Swap, module: nn.Module, current: Current, tokens: int | None) -> SwappedAttention:
    """The module that stands in for ``module``; neither it nor its model is touched.

    Args:
        swap: from `prepare`.
        module: the attention in the model.
        current: shared by the patched modules of the model.
        tokens: N, None when not known yet.
    """
    parts, slices = parts_of(module, [g for g in (swap.graph, swap.train_graph) if g is not None], swap.fused)
    parts |= swap.functions
    evaluation = Program(swap.graph)
    programs = (evaluation, evaluation if swap.train_graph is None else Program(swap.train_graph))
    if swap.loops:
        programs = Unrolled(
            swap.layout, swap.given, partial(cast(Callable[..., Any], swap.again), grid=swap.grid)
        ).pair()
    if swap.kind == "as_is":
        return SwappedAttention(programs, parts, Removed(module), resets=swap.resets, frozen=swap.frozen)
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    tokens = None if swap.windows > 1 else tokens
    w_m = token_matrix(swap.heads, tokens, swap.stride, height=swap.height, causal=swap.causal)
    if weight is not None:
        w_m = w_m.to(device=weight.device, dtype=weight.dtype)
    mixer = TokenMixing(w_m, value_layout=swap.value_layout, out_layout=swap.out_layout, current=current)
    mixer.in_windows = swap.windows > 1
    mixer.train(module.training)
    tap = (
        None
        if swap.tapped is None
        else Tap(Program(swap.tapped), swap.tap_layout, swap.out_layout, swap.functions, swap.factor)
    )
    backs: list[Slice | Matrices] = list(slices)
    if swap.kind == "mixer":
        matrices_of = Matrices(mixer, cast(nn.ModuleList, module.linear_mix))
        matrices_of.take()
        backs = [matrices_of]
    removed = Removed(module, backs, tap)
    return SwappedAttention(programs, {**parts, MIXER: mixer}, removed, resets=swap.resets, frozen=swap.frozen)
