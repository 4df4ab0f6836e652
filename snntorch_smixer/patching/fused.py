"""Keep only V of a projection that makes Q, K and V at once."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.layouts import Layout
from snntorch_smixer.patching.products import Attention, Sizes, is_activation, operation, propagate, sized_layout
from snntorch_smixer.patching.trace import CALL, VALUE


@dataclass(frozen=True, eq=False)
class Fused:
    """A projection that makes more channels than V has.

    Attributes:
        targets: modules and parameters to slice, old dotted name to new one.
        rows: output channels that are V, in the order of V's heads and channels.
        width: output channels before.
        layout: of ``end``.
        end: last node in which the channels are one axis; it holds V alone once the targets are sliced.
        path: nodes from the projection to ``end``.
    """

    targets: dict[str, str]
    rows: Tensor
    width: int
    layout: str
    end: fx.Node
    path: tuple[fx.Node, ...]


def find_fused(attention: Attention, sizes: Sizes, module: nn.Module) -> Fused | None:
    """The fused projection behind V, or None where V has one of its own.

    Raises:
        FamilyError: there is one, but which of its channels are V cannot be told.
    """
    path = _path_to_projection(attention.value, module)
    layouts = [(node, *_single_channel_axis(node, sizes)) for node in path]
    known = [entry for entry in layouts if entry[1]]
    if not known or known[0][2] == attention.channels:
        return None
    width = known[0][2]
    end, layout, _ = [entry for entry in known if entry[2] == width][-1]
    rows = _rows(attention, end, layout, path)
    if rows is None:
        raise FamilyError("its value is a mixture of channels")
    used = path[: path.index(end) + 1]
    names = [str(node.target) for node in used if node.op == "call_module"]
    held = [other for node in used for other in node.all_input_nodes if other.op == "get_attr"]
    names += [str(other.target) for other in held if width in other.meta[VALUE].shape[:1]]
    return Fused({name: _value_name(name, module) for name in names}, rows, width, layout, end, used)


def _path_to_projection(value: fx.Node, module: nn.Module) -> tuple[fx.Node, ...]:
    path = [value]
    while not _is_projection(path[0], module):
        inputs = [n for n in path[0].all_input_nodes if not isinstance(n.meta[VALUE], (int, torch.Size))]
        inputs = [n for n in inputs if n.op != "get_attr" and _is_data(n)]
        if path[0].op == "call_module" and path[0].args[:1] == tuple(inputs[:1]):
            inputs = inputs[:1]  # a neuron takes its membrane too
        if len(inputs) != 1 or inputs[0].op == "placeholder":
            break
        path.insert(0, inputs[0])
    return tuple(path)


def _is_data(node: fx.Node) -> bool:
    return is_activation(node) or isinstance(node.meta[VALUE], (tuple, list))


def _is_projection(node: fx.Node, module: nn.Module) -> bool:
    if node.op == "call_module":
        path = str(node.target)
        return not path.endswith(CALL) and any(p.dim() > 1 for p in module.get_submodule(path).parameters())
    return operation(node) in ("linear", "conv1d", "conv2d")


def _single_channel_axis(node: fx.Node, sizes: Sizes) -> tuple[str, int]:
    if not torch.is_tensor(node.meta[VALUE]):
        return "", 0
    try:
        layout, _, channels = sized_layout(node.meta[VALUE].shape, sizes, 1)
    except FamilyError:
        return "", 0
    return (layout, channels) if "c" in layout.split() else ("", 0)


def _rows(attention: Attention, end: fx.Node, layout: str, path: tuple[fx.Node, ...]) -> Tensor | None:
    shape = end.meta[VALUE].shape
    axis = Layout(layout).groups.index(("c",))
    view = [1] * len(shape)
    view[axis] = shape[axis]
    tags: Any = torch.arange(shape[axis]).view(view).expand(shape)
    for node in path[path.index(end) + 1 :]:
        tags = propagate(node, tags)
    grouped = Layout(attention.value_layout)
    tokens = grouped.to_tokens(tags, {"g": attention.heads, "t": 1})
    rows = tokens[0, 0, 0]
    return rows if bool((tokens == rows).all()) and len(rows.unique()) == len(rows) else None


def _value_name(name: str, module: nn.Module) -> str:
    new = _shorter_name(name)
    owner = module.get_submodule(new.rpartition(".")[0])
    while hasattr(owner, new.rpartition(".")[2]):
        new += "_value"
    return new


def _shorter_name(name: str) -> str:
    *parents, last = name.split(".")
    for prefix in ("qkv", "qk", "kv"):
        if last.startswith(prefix):
            return ".".join([*parents, "v" + last[len(prefix) :]])
    return ".".join([*parents, f"value_{last}"]) if not last.isdigit() else ".".join([*parents, f"{last}_value"])


def full_shape(x: Tensor, axis: int, width: int) -> tuple[int, ...]:
    """Shape of ``x`` as if Q and K were still there: code behind the projection computes sizes from it."""
    return (*x.shape[:axis], width, *x.shape[axis + 1 :])


def keep_value_rows(graph: fx.Graph, fused: Fused) -> None:
    """Rename the sliced parts in ``graph``, and let other code see the shapes that it expects."""
    groups = Layout(fused.layout).groups
    axis = groups.index(("c",))
    for node in fused.path:
        if node.op == "call_module":
            node.target = fused.targets.get(str(node.target), node.target)
        for other in node.all_input_nodes:
            if other.op == "get_attr":
                other.target = fused.targets.get(str(other.target), other.target)
        for user in [u for u in node.users if operation(u) in ("getattr", "size") and u.args[1:2] != ("ndim",)]:
            outside = [u for u in user.users if not _feeds(u, fused.path)]
            if not torch.is_tensor(node.meta[VALUE]) or not outside:
                continue
            if node.meta[VALUE].dim() != len(groups):
                continue
            with graph.inserting_after(user):
                shape = graph.call_function(full_shape, (node, axis, fused.width))
                shape.meta[VALUE] = torch.Size(full_shape(node.meta[VALUE], axis, fused.width))
            for reader in outside:
                reader.replace_input_with(user, shape)


def _feeds(node: fx.Node, path: tuple[fx.Node, ...]) -> bool:
    return node in path or any(_feeds(user, path) for user in node.users if not torch.is_tensor(node.meta[VALUE]))


@dataclass(frozen=True, eq=False)
class Slice:
    """One sliced part and where it came from, for `unwrap`."""

    part: nn.Module | nn.Parameter | Tensor
    whole: nn.Module | nn.Parameter | Tensor
    rows: Tensor
    width: int
    old_name: str

    @torch.no_grad()
    def give_back(self) -> None:
        """Write what V learnt into the fused projection."""
        if isinstance(self.whole, Tensor):
            self.whole[self.rows.to(self.whole.device)] = self.part  # type: ignore[assignment]
            return
        mine, theirs = _tensors(self.part), _tensors(self.whole)
        for name, tensor in theirs.items():
            if tensor.dim() and tensor.shape[0] == self.width:
                tensor[self.rows.to(tensor.device)] = mine[name]
            else:
                tensor.copy_(mine[name])


def part_names(part: Slice, owner: nn.Module, path: str) -> dict[str, str]:
    """State-dict keys of a slice: in the wrapped model, to that of the projection in the model before."""
    if isinstance(part.part, Tensor):
        new = next(name for name, tensor in owner.state_dict(keep_vars=True).items() if tensor is part.part)
        return {f"{path}.{new}": f"{path}.{part.old_name}"}
    new = next(name for name, module in owner.named_modules() if module is part.part)
    return {f"{path}.{new}.{k}": f"{path}.{part.old_name}.{k}" for k in part.part.state_dict()}


def _tensors(module: Any) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


_WIDTHS = ("out_channels", "out_features", "num_features")


def sliced(whole: Any, rows: Tensor, width: int) -> Any:
    """``whole`` with only the output channels ``rows``: a parameter, or a module; a neuron is shared, not copied.

    Raises:
        FamilyError: a module keeps something per output channel that is no linear map or normalisation.
    """
    if isinstance(whole, Tensor):
        part = whole.detach()[rows].clone()
        return nn.Parameter(part, whole.requires_grad) if isinstance(whole, nn.Parameter) else part
    if not any(tensor.dim() and tensor.shape[0] == width for tensor in _tensors(whole).values()):
        return whole
    part = copy.deepcopy(whole)
    for module in part.modules():
        own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        if not any(t.dim() and t.shape[0] == width for t in own.values()):
            continue
        attribute = next((a for a in _WIDTHS if getattr(module, a, None) == width), None)
        if attribute is None or getattr(module, "groups", 1) != 1:
            raise FamilyError(f"wrap: {type(module).__name__} cannot be reduced to the channels of V.")
        setattr(module, attribute, len(rows))
        for name, tensor in own.items():
            if tensor.dim() and tensor.shape[0] == width:
                setattr(module, name, sliced(tensor, rows, width))
    return part
