"""Spiking self-attention in a traced forward: two chained matrix products of activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.layouts import parse_layout
from snntorch_smixer.patching.trace import VALUE, run_node

INDEXING = frozenset(
    (
        *("reshape", "view", "flatten", "unflatten", "permute", "transpose", "swapaxes", "movedim", "moveaxis", "t"),
        *("chunk", "split", "tensor_split", "getitem", "unbind", "narrow", "select", "getattr"),
        *("unsqueeze", "squeeze", "contiguous", "clone", "rearrange"),
    )
)
"""Operations that move numbers and change none."""
_MATMULS = frozenset(["matmul", "bmm", "einsum"])


@dataclass(frozen=True)
class Sizes:
    """Sizes of the axes of a fabricated input, pairwise different so that they tell axes apart.

    Attributes:
        t: steps; None where the layout has no time axis.
        b: samples.
        y: rows of the token grid.
        x: columns of the token grid.
    """

    t: int | None
    b: int
    y: int
    x: int

    @property
    def n(self) -> int:
        """Tokens."""
        return self.y * self.x


@dataclass(frozen=True, eq=False)
class Attention:
    """Where a traced forward attends.

    Attributes:
        kind: "ssa" for two chained matrix products, "linear" for a product of one map with a sum of another.
        value: the node that holds V.
        out: the node that ``W_M V`` replaces.
        gate: for "linear", the neuron call between the sum and ``out``; it becomes the SN of ``SN(W_M X)``.
        value_layout: axes of ``value``, see `snntorch_smixer.shapes`.
        out_layout: axes of ``out``.
        heads: h.
        channels: C_v, channels of V over all heads.
        stride: tokens of the input per token of V; above 1, ``W_M`` is not square.
    """

    kind: str
    value: fx.Node
    out: fx.Node
    gate: fx.Node | None
    value_layout: str
    out_layout: str
    heads: int
    channels: int
    stride: int = 1


def operation(node: fx.Node) -> str:
    """Plain name of what a node does: "matmul" for ``@``, ``torch.matmul`` and ``Tensor.matmul`` alike."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return "call_module" if node.op == "call_module" else str(name).strip("_")


def is_activation(node: Any) -> bool:
    """True for a node whose tensor depends on the input of the forward."""
    if not isinstance(node, fx.Node) or not torch.is_tensor(node.meta[VALUE]):
        return False
    if node.op in ("placeholder", "get_attr"):
        return node.op == "placeholder"
    return any(_depends(other) for other in node.all_input_nodes)


def _depends(node: fx.Node) -> bool:
    value = node.meta[VALUE]
    if value is None or isinstance(value, (bool, int, float, str, torch.Size)):
        return False  # a size carries no activations
    if node.op in ("placeholder", "get_attr"):
        return node.op == "placeholder"
    return any(_depends(other) for other in node.all_input_nodes)


def quadratic(graph: fx.Graph, sizes: Sizes) -> Iterator[Attention]:
    """Every pair of chained products in ``graph``, traced on an input of ``sizes``."""
    products = [n for n in graph.nodes if _is_product(n)]
    for second in products:
        for side in (0, 1):
            first, chain = _back_to_product(_operands(second)[side], products)
            if first is not None:
                yield _describe(first, chain, second, side, sizes)


def _is_product(node: fx.Node) -> bool:
    if operation(node) not in _MATMULS or node.op == "placeholder":
        return False
    operands = _operands(node)
    return len(operands) == 2 and all(is_activation(operand) for operand in operands)


def _operands(node: fx.Node) -> list[fx.Node]:
    args = node.args[1:] if operation(node) == "einsum" else node.args
    named = [v for k, v in node.kwargs.items() if isinstance(v, fx.Node) and k != "equation"]
    if len(args) == 1 and isinstance(args[0], (list, tuple)):
        args = tuple(args[0])
    return [a for a in (*args, *named) if isinstance(a, fx.Node)]


def _back_to_product(node: fx.Node, products: list[fx.Node]) -> tuple[fx.Node | None, list[fx.Node]]:
    """The product that ``node`` comes from through unary steps, and those steps in order of execution."""
    chain: list[fx.Node] = []
    while node not in products:
        inputs = [n for n in node.all_input_nodes if is_activation(n)]
        if len(inputs) != 1:
            return None, []
        chain.insert(0, node)
        node = inputs[0]
    return node, chain


def _labels(node: fx.Node) -> tuple[list[str], list[str], list[str]]:
    """Axis labels of both operands and of the result of a product."""
    if operation(node) == "einsum":
        equation = node.args[0] if node.args and isinstance(node.args[0], str) else node.kwargs["equation"]
        inputs, _, out = str(equation).replace(" ", "").partition("->")
        left, right = inputs.split(",")
        if "." in str(equation) or not out:
            raise FamilyError(f"wrap: einsum {equation!r} in an attention cannot be read. Pass swap=False.")
        return list(left), list(right), list(out)
    batch = [f"batch{i}" for i in range(node.meta[VALUE].dim() - 2)]
    return [*batch, "i", "k"], [*batch, "k", "j"], [*batch, "i", "j"]


def _describe(first: fx.Node, chain: list[fx.Node], second: fx.Node, side: int, sizes: Sizes) -> Attention:
    labels = _labels(second)
    mine, other, out = labels[side], labels[1 - side], labels[2]
    contracted = next(label for label in mine if label in other and label not in out)
    if sizes.n in first.meta[VALUE].shape[-2:] or sizes.n in _free_sizes(first):
        value, letters = _operands(second)[1 - side], {contracted: "n"}
        axes = other
        (depth,) = [label for label in other if label in out and label not in mine]
        (token,) = [label for label in mine if label in out and label not in other]
    else:
        (depth,) = [label for label in mine if label in out and label not in other]
        (token,) = [label for label in other if label in out and label not in mine]
        axis = mine.index(depth)
        which, inner_token, inner_depth = _value_of_inner(first, chain, axis)
        value, axes = _operands(first)[which], list(_labels(first)[which])
        batch_in = [label for label in _labels(first)[2] if label not in (inner_depth,)]
        shared = dict(zip(batch_in, [label for label in mine if label != depth], strict=False))
        axes = [shared.get(label, label) if label not in (inner_token, inner_depth) else label for label in axes]
        letters = {inner_token: "n", inner_depth: "d"}
    letters |= {depth: "d", token: "n"}
    return _finish(second, value, axes, out, letters, sizes)


def _free_sizes(node: fx.Node) -> list[int]:
    out = _labels(node)[2]
    return [node.meta[VALUE].shape[i] for i, label in enumerate(out) if not label.startswith("batch")]


def _value_of_inner(first: fx.Node, chain: list[fx.Node], axis: int) -> tuple[int, str, str]:
    """In ``K^T V``, which operand is V: the one whose free axis becomes ``axis`` behind the chain."""
    left, right, out = _labels(first)
    token = next(label for label in left if label in right and label not in out)
    for which, labels in enumerate((left, right)):
        others = (right, left)[which]
        (depth,) = [label for label in labels if label in out and label not in others]
        tags = _ramp(first.meta[VALUE].shape, out.index(depth))
        for node in chain:
            tags = propagate(node, tags)
        if tags.shape[axis] > 1 and bool((tags.diff(dim=axis) != 0).any()):
            return which, token, depth
    raise FamilyError("wrap: the value of an attention could not be told from its key. Pass swap=False.")


def _ramp(shape: torch.Size, axis: int) -> Tensor:
    view = [1] * len(shape)
    view[axis] = shape[axis]
    return torch.arange(shape[axis]).view(view).expand(shape)


def propagate(node: fx.Node, tags: Any) -> Any:
    """Tags behind one unary step: moved by indexing, untouched by everything elementwise."""
    if operation(node) in INDEXING and node.op != "call_module":
        source = next(n for n in node.all_input_nodes if not isinstance(n.meta[VALUE], (int, torch.Size)))
        return run_node(None, node, lambda other: tags if other is source else other.meta[VALUE])
    return tags


def _finish(
    out: fx.Node, value: fx.Node, axes: list[str], out_axes: list[str], letters: dict[str, str], sizes: Sizes
) -> Attention:
    shape = value.meta[VALUE].shape
    for label, size in zip(axes, shape, strict=True):
        letters.setdefault(label, _batch_letters(size, sizes))
    value_layout = " ".join(letters[label] for label in axes)
    out_layout = " ".join(letters[label] for label in out_axes)
    depth = shape[[letters[label] for label in axes].index("d")]
    grouped = [size for label, size in zip(axes, shape, strict=True) if "g" in letters[label]]
    heads = 1
    if grouped:
        known = {"t": sizes.t or 1, "b": sizes.b}
        merged = next(letters[label] for label in axes if "g" in letters[label])
        heads = grouped[0] // prod(known.get(letter, 1) for letter in merged if letter in known)
    tokens = shape[[letters[label] for label in axes].index("n")]
    attended = out.meta[VALUE].shape[out_layout_axis(out_layout, "n")]
    if attended != sizes.n:
        raise FamilyError(
            f"wrap: an attention gives {attended} tokens for {sizes.n}, as one over windows does. Expected one over "
            "all tokens; pass swap=False."
        )
    if sizes.n % tokens:
        raise FamilyError(f"wrap: keys of {tokens} tokens for {sizes.n} fit no whole stride. Pass swap=False.")
    return Attention("ssa", value, out, None, value_layout, out_layout, heads, heads * depth, sizes.n // tokens)


def out_layout_axis(layout: str, letter: str) -> int:
    """Position of the axis that holds ``letter``."""
    return next(i for i, group in enumerate(parse_layout(layout)) if letter in group)


def _batch_letters(size: int, sizes: Sizes) -> str:
    t = sizes.t or 1
    whole = {sizes.b: "b"}
    if sizes.t is not None:
        whole |= {sizes.t: "t", t * sizes.b: "(t b)"}
    if size in whole:
        return whole[size]
    if size % (t * sizes.b) == 0:
        return "(t b g)" if sizes.t is not None else "(b g)"
    return "(b g)" if size % sizes.b == 0 else "g"


def sized_layout(shape: torch.Size, sizes: Sizes, heads: int) -> tuple[str, int, int]:
    """Layout, heads and channels of a tensor by the sizes of its axes.

    Raises:
        FamilyError: the sizes do not tell.
    """
    known = {sizes.n: "n", sizes.y: "y", sizes.x: "x", sizes.b: "b"}
    if sizes.t is not None:
        known |= {sizes.t: "t", sizes.t * sizes.b: "(t b)"}
    letters = [known.get(size, "") for size in shape]
    rest = [size for size, letter in zip(shape, letters, strict=True) if not letter]
    names = {1: ["c"], 2: ["g", "d"]}.get(len(rest), [])
    if len(names) != len(rest) or not {"b", "(t b)"} & set(letters):
        raise FamilyError(f"wrap: the axes of a value of shape {tuple(shape)} cannot be told apart.")
    layout = " ".join(letter or names.pop(0) for letter in letters)
    return layout, (rest[0] if len(rest) == 2 else heads), prod(rest)
