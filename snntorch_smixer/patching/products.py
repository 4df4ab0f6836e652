"""Spiking self-attention in a traced forward: two chained matrix products of activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.patching.trace import VALUE, holds_tensors, run_node

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
        w: windows that the tokens are cut into; y and x are those of one.
    """

    t: int | None
    b: int
    y: int
    x: int
    w: int = 1

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
        loops: True where the forward loops over its steps, and this is the attention of one of them.
        windows: how many the tokens were cut into; 1 where all attend to all.
        causal: True where no token reads those behind it.
        softmax: True where one lies between the products.
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
    loops: bool = False
    windows: int = 1
    causal: bool = False
    softmax: bool = False


@dataclass(frozen=True, eq=False)
class Pair:
    """Two chained products of activations, attention or not.

    Attributes:
        first: the product that runs first.
        second: the one that takes what it gives.
        side: operand of ``second`` that comes from ``first``, 0 or 1.
        between: nodes from ``first`` to that operand, in order of execution.
    """

    first: fx.Node
    second: fx.Node
    side: int
    between: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Roles:
    """Axes of a matrix product by label.

    Attributes:
        contracted: the axis that is summed over.
        free: the axes that only one operand has, in the order of the operands.
        sizes: of all axes.
    """

    contracted: str
    free: tuple[str, str]
    sizes: Mapping[str, int]


def operation(node: fx.Node) -> str:
    """Plain name of what a node does: "matmul" for ``@``, ``torch.matmul`` and ``Tensor.matmul`` alike."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return "call_module" if node.op == "call_module" else str(name).strip("_")


def is_activation(node: Any) -> bool:
    """True for a node whose tensor depends on the input of the forward."""
    return isinstance(node, fx.Node) and torch.is_tensor(node.meta[VALUE]) and depends(node)


_AS_ANOTHER = frozenset(["to", "type_as", "expand_as", "view_as", "reshape_as"])
_LIKE = frozenset(["zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full"])


def depends(node: fx.Node) -> bool:
    """True for a node that holds data of the input: activations or a tuple of them, no size, type or device."""
    if not holds_tensors(node.meta[VALUE]):
        return False
    if node.op in ("placeholder", "get_attr"):
        return node.op == "placeholder"
    if node.op != "call_module" and operation(node) in _LIKE:
        return False
    inputs = node.all_input_nodes
    if node.op != "call_module" and operation(node) in _AS_ANOTHER:
        inputs = [source for source in node.args[:1] if isinstance(source, fx.Node)]
    return any(depends(other) for other in inputs)


def pairs(graph: fx.Graph) -> Iterator[Pair]:
    """Every pair of products in ``graph`` of which the second takes what the first gives, through no third."""
    products = [n for n in graph.nodes if _is_product(n)]
    for second in products:
        for side in (0, 1):
            reached = _upstream(operands(second)[side], set(products))
            for first in (node for node in reached if node in products):
                yield _pair(first, second, side, reached)


def _upstream(node: fx.Node, stops: set[fx.Node]) -> dict[fx.Node, None]:
    """Nodes of data that ``node`` comes from and ``node``, in order of execution, up to ``stops``."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += [] if one in stops else [n for n in one.all_input_nodes if depends(n)]
    return {one: None for one in node.graph.nodes if one in found}


def _pair(first: fx.Node, second: fx.Node, side: int, reached: Mapping[fx.Node, None]) -> Pair:
    between: dict[fx.Node, None] = {}
    for node in reached:
        if node is not first and any(n is first or n in between for n in node.all_input_nodes):
            between[node] = None
    return Pair(first, second, side, tuple(between))


def _is_product(node: fx.Node) -> bool:
    if operation(node) not in _MATMULS or node.op == "placeholder" or multiplies_entries(node):
        return False
    factors = operands(node)
    return len(factors) == 2 and all(is_activation(factor) for factor in factors)


def multiplies_entries(node: fx.Node) -> bool:
    """True for a product entry by entry of two activations, spelled ``a * b`` or as an einsum that sums nothing."""
    if node.op in ("placeholder", "call_module") or operation(node) not in ("mul", "einsum"):
        return False
    if len([factor for factor in operands(node) if is_activation(factor)]) != 2:
        return False
    if operation(node) == "mul":
        return True
    inputs, _, out = str(node.args[0]).replace(" ", "").partition("->")
    return inputs.count(",") == 1 and "." not in inputs and {*inputs} - {","} <= {*out}


def operands(node: fx.Node) -> list[fx.Node]:
    """Both factors of a product."""
    args = node.args[1:] if operation(node) == "einsum" else node.args
    named = [v for k, v in node.kwargs.items() if isinstance(v, fx.Node) and k != "equation"]
    if len(args) == 1 and isinstance(args[0], (list, tuple)):
        args = tuple(args[0])
    return [a for a in (*args, *named) if isinstance(a, fx.Node)]


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


def roles(pair: Pair) -> tuple[Roles, Roles] | None:
    """Axes of both products by what happens to them, None where they are no plain matrix products.

    In the second, the first of ``free`` is the axis that the pair's first product gives.
    """
    first, second = _roles(pair.first), _roles(pair.second)
    if first is None or second is None or operands(pair.second)[pair.side].meta[VALUE].dim() < 2:
        return None
    left, right = second.free
    return first, replace(second, free=(right, left) if pair.side else (left, right))


def _roles(node: fx.Node) -> Roles | None:
    left, right, out = _labels(node)
    shapes = [operand.meta[VALUE].shape for operand in operands(node)]
    contracted = [label for label in left if label in right and label not in out]
    free = [[label for label in mine if label in out and label not in other] for mine, other in _both(left, right)]
    lengths = (len(left), len(right)) == (len(shapes[0]), len(shapes[1]))
    if not lengths or [len(contracted), len(free[0]), len(free[1])] != [1, 1, 1]:
        return None
    sizes = {**dict(zip(left, shapes[0], strict=True)), **dict(zip(right, shapes[1], strict=True))}
    return Roles(contracted[0], (free[0][0], free[1][0]), sizes)


def _both(left: list[str], right: list[str]) -> tuple[tuple[list[str], list[str]], ...]:
    return (left, right), (right, left)


def spans(both: tuple[Roles, Roles]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(queries, keys) where the pair is ``(Q K^T) V``, and where it is ``Q (K^T V)``."""
    first, second = both
    mine, other = (second.sizes[label] for label in second.free)
    return (mine, second.sizes[second.contracted]), (other, first.sizes[first.contracted])


def describe(pair: Pair, sizes: Sizes) -> Attention:
    """The attention that ``pair`` is, traced on an input of ``sizes``.

    Raises:
        FamilyError: its axes do not tell.
    """
    both = roles(pair)
    if both is None:
        raise FamilyError("wrap: the products of an attention cannot be read. Pass swap=False.")
    (first, second), out = both, _labels(pair.second)[2]
    mine, other = second.free
    if spans(both)[0][0] == sizes.n:
        value, axes = operands(pair.second)[1 - pair.side], _labels(pair.second)[1 - pair.side]
        return _finish(pair.second, value, axes, out, {mine: "n", second.contracted: "n", other: "d"}, sizes)
    labels = _labels(pair.second)[pair.side]
    which, depth = _value_of_inner(pair, first, labels.index(mine))
    batch = [label for label in _labels(pair.first)[2] if label != depth]
    shared = dict(zip(batch, [label for label in labels if label != mine], strict=False))
    own = (first.contracted, depth)
    axes = [label if label in own else shared.get(label, label) for label in _labels(pair.first)[which]]
    letters = {first.contracted: "n", depth: "d", mine: "d", other: "n"}
    return _finish(pair.second, operands(pair.first)[which], axes, out, letters, sizes)


def _value_of_inner(pair: Pair, first: Roles, axis: int) -> tuple[int, str]:
    """In ``K^T V``, which operand is V and its own axis: the one that becomes ``axis`` behind the steps between."""
    for which, depth in enumerate(first.free):
        if axis in carried(pair, depth):
            return which, depth
    raise FamilyError("wrap: the value of an attention could not be told from its key. Pass swap=False.")


def carried(pair: Pair, label: str, upto: fx.Node | None = None) -> list[int]:
    """Axes on which ``label`` of the first product lies in what enters the second, or in what enters ``upto``."""
    tags = _ramp(pair.first.meta[VALUE].shape, _labels(pair.first)[2].index(label))
    for node in pair.between:
        if node is upto:
            break
        tags = propagate(node, tags)
    return [i for i, size in enumerate(tags.shape) if size > 1 and bool((tags.diff(dim=i) != 0).any())]


def query_label(pair: Pair, both: tuple[Roles, Roles]) -> str:
    """In ``(Q K^T) V``, the axis of the first product that the second keeps."""
    place = _labels(pair.second)[pair.side].index(both[1].contracted)
    first = both[0].free
    return first[1] if place in carried(pair, first[0]) else first[0]


def batch_size(pair: Pair) -> int:
    """Entries of the second product per entry of its two own axes: steps, samples, heads, windows."""
    (_, second), shape = roles(pair), pair.second.meta[VALUE].shape  # type: ignore[misc]
    return prod(shape) // prod(second.sizes[label] for label in second.free)


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
    batch = [size for label, size in zip(axes, shape, strict=True) if label not in letters]
    if any(size % (sizes.b * sizes.w) == 0 for size in batch):  # no axis of their own
        sizes = replace(sizes, b=sizes.b * sizes.w, w=1)
    for label, size in zip(axes, shape, strict=True):
        letter = _batch_letters(size, sizes)
        if letter == "w" and "w" in letters.values():
            letter = "g"  # as many heads as windows: windows are cut first
        letters.setdefault(label, letter)
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
    if sizes.n % tokens:
        raise FamilyError(f"wrap: keys of {tokens} tokens for {sizes.n} fit no whole stride. Pass swap=False.")
    return Attention("ssa", value, out, None, value_layout, out_layout, heads, heads * depth, sizes.n // tokens)


def _batch_letters(size: int, sizes: Sizes) -> str:
    t = sizes.t or 1
    whole = {sizes.b: "b"} | ({sizes.w: "w"} if sizes.w > 1 else {})
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
    known = {sizes.y: "y", sizes.x: "x"} if sizes.x > 1 else {}
    known |= {sizes.n: "n", sizes.b: "b"}
    if sizes.t is not None:
        known |= {sizes.t: "t", sizes.t * sizes.b: "(t b)"}
    letters = [known.get(size, "") for size in shape]
    rest = [size for size, letter in zip(shape, letters, strict=True) if not letter]
    names = {1: ["c"], 2: ["g", "d"]}.get(len(rest), [])
    if len(names) != len(rest) or not {"b", "(t b)"} & set(letters):
        raise FamilyError(f"wrap: the axes of a value of shape {tuple(shape)} cannot be told apart.")
    layout = " ".join(letter or names.pop(0) for letter in letters)
    return layout, (rest[0] if len(rest) == 2 else heads), prod(rest)
