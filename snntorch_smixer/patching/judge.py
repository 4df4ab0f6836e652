"""Whether two chained products are an attention over the tokens, and what ties its tokens to their places."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.patching.products import (
    INDEXING,
    Pair,
    Roles,
    Sizes,
    batch_size,
    carried,
    depends,
    operands,
    operation,
    query_label,
    roles,
    spans,
)
from snntorch_smixer.patching.trace import CALL, VALUE

ROUTING = frozenset(
    (
        *("argmax", "argmin", "topk", "kthvalue", "sort", "argsort", "msort", "searchsorted", "bucketize", "nonzero"),
        *("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_put", "index_select", "gather"),
        *("take", "take_along_dim", "one_hot", "multinomial", "bernoulli", "gumbel_softmax", "bincount", "unique"),
        *("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "embedding", "grid_sample"),
    )
)
"""Operations that pick, place or count: what they give says where values go."""
_SOFTMAX = frozenset(["softmax", "log_softmax", "softmin"])
_ELEMENTWISE = frozenset(
    (
        *("mul", "add", "sub", "rsub", "div", "truediv", "true_divide", "neg", "abs", "pow", "sqrt", "rsqrt", "exp"),
        *("log", "square", "reciprocal", "clamp", "clip", "clamp_min", "clamp_max", "maximum", "minimum", "where"),
        *("relu", "sigmoid", "tanh", "gelu", "silu", "elu", "leaky_relu", "softplus", "hardtanh", "relu6", "sign"),
        *("dropout", "round", "floor", "ceil", "heaviside", "gt", "ge", "lt", "le", "eq", "ne", "masked_fill", "lerp"),
        *("float", "double", "half", "bfloat16", "to", "type_as", "detach", "nan_to_num", "expand", "expand_as"),
        *(
            "tril",
            "triu",
            "forget_later",
            "join_mask",
            "sum",
            "mean",
            "amax",
            "amin",
            "norm",
            "normalize",
            "div_",
            "mul_",
            "add_",
            "sub_",
            "exp_",
        ),
    )
)
"""Operations that leave an entry of the scores where it is, and sums that normalise them."""
_SILENCING = frozenset(["mul", "mul_", "masked_fill", "masked_fill_", "where", "logical_and", "bitwise_and"])


class PlacesError(FamilyError):
    """An attention whose tokens are tied to their places, by a mask or by windows.

    Args:
        why: what ties them, a clause.
        causal: True where no token reads those behind it.
    """

    def __init__(self, why: str, *, causal: bool = False) -> None:
        super().__init__(f"wrap: {why}, to which a W_M over all tokens would not keep. Pass swap=False, ps=0, t=None.")
        self.why, self.causal = why, causal


def why_none(pair: Pair, sizes: Sizes, module: nn.Module) -> str:
    """Why ``pair`` is no attention over the tokens, "" where it is one.

    Args:
        pair: from a trace on an input of ``sizes``.
        sizes: of that input.
        module: what was traced, or a copy.

    """
    both = roles(pair)
    if both is None:
        return "its products share or keep more axes than one each, as the dispatch of tokens to experts does"
    routing = next((operation(node) for node in pair.between if operation(node) in ROUTING), "")
    if routing:
        return f"{routing} lies between its two products"
    for node in pair.between:
        if reason := _between(node, pair, module, sizes):
            return f"{reason} lies between its two products"
    for factor in (*operands(pair.first), operands(pair.second)[1 - pair.side]):
        name = _routing(factor, pair.first, module)
        if name:
            return f"{name} makes what its products multiply, as a router does"
    return _tokens(both, pair, sizes)


def _between(node: fx.Node, pair: Pair, module: nn.Module, sizes: Sizes) -> str:
    """What is wrong with a step between the products, "" where it keeps the scores what they are."""
    if node.op == "call_module":
        return _between_module(node, pair, module, sizes)
    name = operation(node)
    if name in _SOFTMAX:
        dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else -1)
        return _normalised(node, pair, dim, sizes)
    return "" if name in _ELEMENTWISE or name in INDEXING else name


def _between_module(node: fx.Node, pair: Pair, module: nn.Module, sizes: Sizes) -> str:
    name, part = str(node.target), module.get_submodule(str(node.target))
    if isinstance(part, (nn.Softmax, nn.Softmin, nn.LogSoftmax)):
        return _normalised(node, pair, part.dim, sizes)
    weights = [p for p in part.parameters() if p.dim() > 1]
    if weights or any(isinstance(m, _BatchNorm) for m in part.modules()):
        return f"the learned layer {name}"
    x = next((n.meta[VALUE] for n in node.all_input_nodes if torch.is_tensor(n.meta[VALUE])), None)
    alike = name.endswith(CALL) or (x is not None and _elementwise(part, x))
    return "" if alike else f"{name}, a {type(part).__name__},"


def _normalised(node: fx.Node, pair: Pair, dim: object, sizes: Sizes) -> str:
    """What a softmax is, "" for one over the keys of each query."""
    both = roles(pair)
    seen = None if both is None else what_attends(both, pair, sizes)
    if both is None or seen is None or spans(both)[0][0] != seen.n:
        return "a softmax over channels, as in channel attention,"
    queries = carried(pair, query_label(pair, both), node)
    over_queries = isinstance(dim, int) and dim % node.meta[VALUE].dim() in queries
    return "a softmax over the queries, as for slots," if over_queries else ""


def _elementwise(part: nn.Module, x: Tensor) -> bool:
    """True where a change of the first entries of the last two axes changes nothing elsewhere."""
    for axis in (-1, -2):
        changed = x.clone()
        changed.select(axis, 0).add_(3.0)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                before, after = copy.deepcopy(part)(x), copy.deepcopy(part)(changed)
        except Exception:  # noqa: BLE001 - third-party code may raise anything
            return False
        if not torch.is_tensor(before) or before.shape != x.shape:
            return False
        if not torch.equal(before.narrow(axis, 1, x.shape[axis] - 1), after.narrow(axis, 1, x.shape[axis] - 1)):
            return False
    return True


def _routing(factor: fx.Node, stop: fx.Node, module: nn.Module) -> str:
    """A step that picks or places, between the layers and a factor; "" where there is none."""
    waiting, seen = [factor], {stop}
    while waiting:
        node = waiting.pop()
        if node in seen or not depends(node):
            continue
        seen.add(node)
        name = operation(node)
        if name in ROUTING or name in _SOFTMAX:
            return name
        if node.op == "call_module":
            part = module.get_submodule(str(node.target))
            if isinstance(part, (nn.Softmax, nn.LogSoftmax)):
                return type(part).__name__
            if any(p.dim() > 1 for p in part.parameters()):
                continue
        if name not in ("linear", "conv1d", "conv2d", "matmul", "einsum", "bmm"):
            waiting += node.all_input_nodes
    return ""


def _tokens(both: tuple[Roles, Roles], pair: Pair, sizes: Sizes) -> str:
    """Why the tokens of the input are not what is attended, "" where they are."""
    if what_attends(both, pair, sizes) is not None:
        return ""
    return "its products sum over no axis of its tokens, as with weights made from data"


def what_attends(both: tuple[Roles, Roles], pair: Pair, sizes: Sizes) -> Sizes | None:
    """``sizes`` as the products see them: as they are, of one window, or of all steps and tokens as one; None else."""
    for queries, keys in spans(both):
        if queries == sizes.n and sizes.n % keys == 0:
            return sizes
    for queries, keys in spans(both):
        if sizes.t is not None and sizes.t * sizes.n == queries == keys:
            return replace(sizes, t=None, y=queries, x=1)
    for queries, keys in spans(both):
        whole = sizes.n // queries if sizes.n % queries == 0 else 0
        if whole > 1 and queries % keys == 0 and batch_size(pair) % ((sizes.t or 1) * sizes.b * whole) == 0:
            return replace(sizes, y=queries, x=1, w=whole)
    return None


def is_masked_causally(pair: Pair, sizes: Sizes) -> bool:
    """True where a mask between the products hides from each token those behind it.

    A learned bias that is added is no mask: ``W_M`` learns one entry for each pair of places as well.

    Raises:
        PlacesError: what lies between them ties the tokens to their places in another way.
    """
    both, causal = roles(pair), False
    if both is None:
        return False
    own = {both[0].sizes[label] for label in both[0].free}
    for node in pair.between:
        others = [n for n in node.all_input_nodes if n is not pair.first and n not in pair.between]
        what = operation(node)
        if any(depends(other) and torch.is_tensor(other.meta[VALUE]) for other in others):
            raise PlacesError(f"other data joins its scores ({what}), as a padding mask does")
        learned = any(map(_learned, others))
        if what in ("tril", "triu", "forget_later") or (not learned and any(map(_is_triangle, others))):
            causal = True
        elif any(_varies(other, own) for other in others) and not (learned and what in ("add", "iadd", "add_")):
            kind = "learned factor" if learned else "mask or bias"
            raise PlacesError(f"its attention has a {kind} between its products ({what})")
    for factor in operands(pair.first):
        if what := _token_mask(factor, sizes):
            raise PlacesError(f"its attention has a mask over its keys or queries ({what}), some of which are zero")
    return causal


def has_softmax(pair: Pair, module: nn.Module) -> bool:
    """True where the scores are normalised over the keys."""
    layers = (nn.Softmax, nn.Softmin, nn.LogSoftmax)
    return any(
        isinstance(module.get_submodule(str(node.target)), layers)
        if node.op == "call_module"
        else operation(node) in _SOFTMAX
        for node in pair.between
    )


def _is_triangle(node: fx.Node) -> bool:
    """True for a square table with one value above its diagonal, or below it, and others elsewhere."""
    value = node.meta[VALUE]
    if not torch.is_tensor(value) or value.dim() < 2 or value.shape[-1] != value.shape[-2] or value.shape[-1] < 2:
        return False
    rows, columns = torch.triu_indices(value.shape[-2], value.shape[-1], 1)
    for one, other in ((value, value.mT), (value.mT, value)):
        above, below = one[..., rows, columns].flatten(), other[..., rows, columns].flatten()
        if bool((above == above[0]).all()) and bool((below != above[0]).any()):
            return True
    return False


def _learned(node: fx.Node) -> bool:
    """True for a parameter and for what is made of one."""
    value = node.meta[VALUE]
    return isinstance(value, nn.Parameter) or any(_learned(other) for other in node.all_input_nodes)


def _varies(node: fx.Node, own: set[int]) -> bool:
    """True for a tensor that differs along an axis of the scores; a learned one may come to."""
    value = node.meta[VALUE]
    if not torch.is_tensor(value):
        return False
    axes = [axis for axis, size in enumerate(value.shape) if size in own and size > 1]
    return any(_learned(node) or bool((value != value.narrow(axis, 0, 1)).any()) for axis in axes)


def _token_mask(factor: fx.Node, sizes: Sizes) -> str:
    """The operation by which a constant silences some tokens of a factor; "" for none."""
    waiting, seen = [factor], set()
    while waiting:
        node = waiting.pop()
        if node in seen or not depends(node):
            continue
        seen.add(node)
        for other in node.all_input_nodes:
            if operation(node) in _SILENCING and not depends(other) and _zero_at_some(other.meta[VALUE], sizes.n):
                return operation(node)
        waiting += node.all_input_nodes
    return ""


def _zero_at_some(value: object, tokens: int) -> bool:
    if not torch.is_tensor(value) or tokens not in value.shape:
        return False
    axis = value.shape.index(tokens)
    holds = (value != 0).movedim(axis, 0).flatten(1).any(1)
    return bool(holds.any()) and not bool(holds.all())
