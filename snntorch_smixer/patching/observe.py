"""Run a copy of a module once and write down what its parts were given, and which operations they used."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.rest import reset_all


@dataclass(eq=False)
class Call:
    """One call of a child.

    Attributes:
        path: dotted name.
        parent: dotted name of the module that called it, "" for the root.
        x: first tensor that went in.
        out: first tensor that came out, None while it runs.
        start: running number of the call.
        end: running number of its return.
        returned: all that came out.
        given: all arguments and keyword arguments.
    """

    path: str
    parent: str
    x: Tensor | None
    start: int
    out: Tensor | None = None
    end: int = -1
    returned: Any = None
    given: tuple[Any, Any] = ((), {})


@dataclass(eq=False)
class Observation:
    """What happened during one forward.

    Attributes:
        out: what the module returned.
        calls: in order of their start.
        products: (number, path of the innermost module) of each matrix product of two activations.
        sums: the same for sums over an axis.
        spatial: the same for operations that look at neighbours: convolutions with a kernel, poolings, resizing.
        opaque: (path, layer) of each attention that is one call of a function of torch, outside of its layers.
        gates: paths of elementwise products of two activations of one rank.
        own: rows and columns of the token grid where they were those of a run, because no others fit.
    """

    out: Any = None
    calls: list[Call] = field(default_factory=list)
    products: list[tuple[int, str]] = field(default_factory=list)
    sums: list[tuple[int, str]] = field(default_factory=list)
    spatial: list[tuple[int, str]] = field(default_factory=list)
    opaque: list[tuple[str, str]] = field(default_factory=list)
    gates: list[str] = field(default_factory=list)
    own: tuple[int, int] | None = None

    def first_call(self, path: str) -> Call | None:
        """The first call of a module."""
        return next((call for call in self.calls if call.path == path), None)


def given_in(seen: Observation, path: str) -> dict[str, tuple[Any, Any]]:
    """What ``path`` and its parts were given at their first calls, by dotted name within it."""
    found: dict[str, tuple[Any, Any]] = {}
    for call in seen.calls:
        if call.path == path or call.path.startswith(f"{path}."):
            found.setdefault(call.path.removeprefix(path).removeprefix("."), call.given)
    return found


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor of an argument list or of a result."""
    return next(tensors(value), None)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of an argument list or of a result, in their order."""
    if isinstance(value, Tensor):
        yield value
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    for item in items:
        yield from tensors(item)


def copied(module: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode with its neurons reset and without hooks; the original stays as it is.

    Raises:
        FamilyError: it cannot be copied.
    """
    return without_hooks(reset_copy(module))


def reset_copy(module: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode with its neurons reset, whatever they hold of earlier forwards.

    Raises:
        FamilyError: it cannot be copied.
    """
    try:
        with ByValue():
            twin = copy.deepcopy(module).eval()
    except (RuntimeError, TypeError) as error:
        raise FamilyError(
            f"wrap: {_not_copied(module)} cannot be copied to be looked at: {error}. Expected a model that "
            "copy.deepcopy takes."
        ) from error
    reset_all(twin)
    return twin


def _not_copied(module: nn.Module) -> str:
    """The innermost part of ``module`` that cannot be copied, in words."""
    for path, part in reversed(list(module.named_modules())):
        try:
            with ByValue():
                copy.deepcopy(part)
        except (RuntimeError, TypeError):
            return f"{path}, a {type(part).__name__}," if path else f"this {type(part).__name__}"
    return f"this {type(module).__name__}"


class ByValue(TorchFunctionMode):
    """Lets deepcopy take membranes that are nodes of a graph, which it refuses: their values are copied."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """A detached copy of such a tensor; everything else as it is."""
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))


HOOKS = (
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs"),
    *("_forward_hooks_always_called", "_backward_pre_hooks", "_backward_hooks"),
)
"""Where a module keeps its hooks."""


def without_hooks(twin: nn.Module) -> nn.Module:
    """``twin``, a copy, without the hooks that a user put on: they are for real data."""
    for module in twin.modules():
        for table in HOOKS:
            getattr(module, table).clear()
    return twin


def observe(
    twin: nn.Module, inputs: tuple[Any, ...] | Mapping[str, Any], *, seen: Observation | None = None
) -> Observation:
    """Run ``twin``, a copy that may change, without gradients and with the state of torch's generators kept.

    Args:
        twin: the copy.
        inputs: of its forward.
        seen: is filled as far as the forward gets, which tells how far where it fails.
    """
    seen = Observation() if seen is None else seen
    recorder = _Recorder(seen)
    hooks: list[Any] = []
    fast = torch.backends.mha.get_fastpath_enabled()  # in one piece there would be no layers to see
    for path, module in twin.named_modules():
        if path:
            hooks.append(module.register_forward_pre_hook(_Enter(path, recorder), with_kwargs=True))
            hooks.append(module.register_forward_hook(_Leave(recorder)))
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.random.fork_rng(devices=[]), torch.no_grad(), recorder:
            seen.out = twin(**inputs) if isinstance(inputs, Mapping) else twin(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    return seen


class _Enter:
    def __init__(self, path: str, recorder: _Recorder) -> None:
        self.path, self.recorder = path, recorder

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.recorder.enter(self.path, module, (args, kwargs))


class _Leave:
    def __init__(self, recorder: _Recorder) -> None:
        self.recorder = recorder

    def __call__(self, _module: nn.Module, _args: Any, out: Any) -> None:
        self.recorder.leave(out)


_PRODUCTS = frozenset(
    ("matmul", "bmm", "einsum", "__matmul__", "__rmatmul__", "scaled_dot_product_attention", "baddbmm")
)
_WHOLE = {
    "multi_head_attention_forward": "nn.MultiheadAttention",
    "_native_multi_head_attention": "nn.MultiheadAttention",
    "_transformer_encoder_layer_fwd": "nn.TransformerEncoderLayer",
}
"""Functions of torch that hide an attention, by the name of their layer."""
_RESIZING = ("max_pool", "avg_pool", "interpolate", "unfold", "pixel_shuffle", "grid_sample", "upsample")


class _Recorder(TorchFunctionMode):
    """Notes operations by the module that runs them."""

    def __init__(self, seen: Observation) -> None:
        super().__init__()
        self.seen, self.running, self.number = seen, [Call("", "", None, 0)], 0
        self.layers: set[str] = set()

    def enter(self, path: str, module: nn.Module, given: tuple[Any, Any]) -> None:
        if isinstance(module, nn.MultiheadAttention):  # written out where its caller is traced
            self.seen.products += [(self.number, self.running[-1].path)] * 2
            self.layers.add(path)
        self.number += 1
        call = Call(path, self.running[-1].path, first_tensor(given), self.number, given=given)
        self.seen.calls.append(call)
        self.running.append(call)

    def leave(self, out: Any) -> None:
        self.number += 1
        call = self.running.pop()
        call.out, call.end, call.returned = first_tensor(out), self.number, out

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        here = (self.number, self.running[-1].path)
        if here[1] in self.layers:
            return func(*args, **kwargs)
        if name in _WHOLE:
            self.seen.opaque.append((here[1], _WHOLE[name]))
        if name in _PRODUCTS and _activations(args, kwargs) > 1:
            both = 2 if name == "scaled_dot_product_attention" else 1
            self.seen.products += [here] * both
        elif name in ("mul", "__mul__", "__rmul__") and _activations(args, kwargs) > 1:
            self.seen.gates.append(here[1])
        elif name in ("sum", "mean"):
            self.seen.sums.append(here)
        elif _looks_around(name, args, kwargs):
            self.seen.spatial.append(here)
        return func(*args, **kwargs)


def _looks_around(name: str, args: Any, kwargs: Any) -> bool:
    if name.startswith("conv"):
        return _kernel(args, kwargs) > 1
    return name.startswith(_RESIZING) and "adaptive" not in name


def _activations(args: Any, kwargs: Any) -> int:
    flat = [a for arg in (*args, *kwargs.values()) for a in (arg if isinstance(arg, (tuple, list)) else (arg,))]
    return sum(isinstance(a, Tensor) and not isinstance(a, nn.Parameter) and a.dim() > 2 for a in flat)


def _kernel(args: Any, kwargs: Any) -> int:
    weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
    return max(weight.shape[2:], default=1) if isinstance(weight, Tensor) and weight.dim() > 2 else 1
