"""One module's forward as a graph, with its children as opaque calls, found by running it once."""

from __future__ import annotations

import dis
import inspect
import itertools
import math
import operator
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import fx, nn

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.patching import written_out

_ALONE = threading.Lock()
"""Held while a forward is followed: torch.fx patches classes of torch for all threads."""

VALUE = "value"
"""Key in ``node.meta`` of what the node held while it was traced."""

FIXED = "fixed"
"""Key in ``node.meta`` of what plain Python took or branched on: the graph holds for inputs that give the same there.
It is "loops or indexes by", "takes a plain number from" or "branches on"."""

CALL = "_function_call"
"""End of the name of a child that a trace adds for an ``autograd.Function``."""


def trace(module: nn.Module, inputs: Mapping[str, Any]) -> fx.Graph:
    """Graph of ``module.forward`` for the control flow that ``inputs`` take.

    Children become ``call_module`` nodes, sizes stay symbolic, so that the graph holds for other steps, batches and
    token counts. Every node carries what it held in ``meta["value"]``. Neurons are run and change state: pass a copy.

    Args:
        module: the module to trace, in the mode whose control flow is wanted.
        inputs: values of parameters of ``forward`` by name; parameters that are left out keep their default.

    Raises:
        FamilyError: the forward does what no graph can hold, or fails on these inputs.
    """
    before = set(vars(module))
    try:
        with _ALONE, torch.no_grad(), _patched(), _followed_numbers(module):
            graph = _Tracer(dict(inputs)).trace(module)
        _refuse_stored(module)
        _name_constants(graph, module, before)
        return graph
    except FamilyError:
        raise
    except Exception as error:
        name = type(module).__name__
        if isinstance(error, TypeError) and "integer" in str(error):
            raise FamilyError(
                f"wrap: the forward of {name} loops over, or counts by, a size of its input, as over its time steps, "
                "which no graph can hold. Use tensor operations on all of them; pass swap=False to keep its attention."
            ) from error
        raise FamilyError(
            f"wrap: the forward of {name} cannot be followed: {type(error).__name__}: {error}. Expected tensor "
            "operations and calls of child modules; pass swap=False to keep its attention."
        ) from error


def _refuse_stored(module: nn.Module) -> None:
    """Raise where the forward left something in its module, as a membrane: no graph would keep it."""
    for path, part in module.named_modules():
        held = {**vars(part), **part._buffers}
        name = next((name for name, value in held.items() if isinstance(value, fx.Proxy)), "")
        if name:
            raise FamilyError(
                f"wrap: the forward of {type(module).__name__} stores its {'.'.join(filter(None, (path, name)))} from "
                "call to call, which no graph can hold. Let a neuron hold it (init_hidden=True), or pass it as an "
                "argument and return it; pass swap=False to keep its attention."
            )


def _name_constants(graph: fx.Graph, module: nn.Module, before: set[str]) -> None:
    """Tensors that the forward made of nothing, as empty membranes, become children without parameters."""
    for node in graph.nodes:
        name = str(node.target)
        if node.op == "get_attr" and name.startswith("_tensor_constant") and name not in before:
            child = name + CALL
            if not hasattr(module, child):
                module.add_module(child, Constant(node.meta[VALUE]))
            node.op, node.target = "call_module", child


def example_arguments(module: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """``x`` as the first parameter of ``module.forward``, and further ones as the module was `given` them.

    Without that None, for parameters without a default.
    """
    parameters = [p for p in inspect.signature(module.forward).parameters.values() if p.kind not in _VARIADIC]
    if not parameters:
        raise FamilyError(f"wrap: the forward of {type(module).__name__} takes no input.")
    required = {p.name: None for p in parameters[1:] if p.default is inspect.Parameter.empty}
    shape, others = given_to(module)
    others = {name: map_tensors(value, lambda t: _like(t, x, shape)) for name, value in others.items()}
    return {parameters[0].name: x, **required, **others}


_GIVEN = "_given_arguments"


def remember_given(module: nn.Module, args: Any, kwargs: Any) -> None:
    """Note on ``module``, a copy, what else than its first argument it was given: membranes, for `example_arguments`.

    Only what holds tensors is noted; all else keeps its default.
    """
    parameters = [p for p in inspect.signature(module.forward).parameters.values() if p.kind not in _VARIADIC]
    named = {**dict(zip((p.name for p in parameters), args, strict=False)), **kwargs}
    x = named.pop(parameters[0].name, None) if parameters else None
    others = {name: value for name, value in named.items() if holds_tensors(value)}
    if others and torch.is_tensor(x):
        vars(module)[_GIVEN] = (tuple(x.shape), others)


Given = tuple[tuple[int, ...], dict[str, Any]]
"""Shape of the first argument, and further arguments that hold tensors."""


def given_to(module: nn.Module) -> Given:
    """What `remember_given` noted."""
    return vars(module).get(_GIVEN, ((), {}))


def remember(module: nn.Module, given: Given) -> None:
    """Note again what `given_to` read from another copy."""
    vars(module)[_GIVEN] = given


def carries_state(module: nn.Module, out: Any) -> bool:
    """True where ``module`` was `given` tensors besides its first, as membranes, and ``out`` gives some back."""
    return _GIVEN in vars(module) and isinstance(out, (tuple, list)) and any(map(holds_tensors, out[1:]))


def holds_tensors(value: Any) -> bool:
    """True for a tensor, and for lists, tuples and dictionaries with one."""
    if isinstance(value, Mapping):
        return any(map(holds_tensors, value.values()))
    return any(map(holds_tensors, value)) if isinstance(value, (list, tuple)) else torch.is_tensor(value)


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """``value`` with every tensor in its lists, tuples and dictionaries changed."""
    if isinstance(value, Mapping):
        return {key: map_tensors(one, change) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([map_tensors(one, change) for one in value])
    return change(value) if torch.is_tensor(value) else value


def _like(given: torch.Tensor, x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A membrane of the stream in the shape of ``x``, all else as it was."""
    return torch.zeros_like(x) if tuple(given.shape) == shape else given.detach().clone()


def frozen_arguments(module: nn.Module) -> dict[str, Any]:
    """Parameters of ``module.forward`` behind the first that it reads, with the values that a trace gives them."""
    parameters = [p for p in inspect.signature(module.forward).parameters.values() if p.kind not in _VARIADIC]
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    read = set() if code is None else {i.argval for i in dis.get_instructions(code) if i.opname.startswith("LOAD_")}
    values = {p.name: None if p.default is inspect.Parameter.empty else p.default for p in parameters[1:]}
    followed = given_to(module)[1]
    return {name: value for name, value in values.items() if name in read and name not in followed}


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class FunctionCall(nn.Module):
    """Calls an ``autograd.Function``, so that its own gradient survives in a graph; no parameters."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        """What ``function.apply`` gives."""
        return self.function.apply(*args)

    def extra_repr(self) -> str:
        """Name of the function."""
        return self.function.__name__


class Constant(nn.Module):
    """Gives a tensor that a forward made of nothing; no parameters."""

    value: torch.Tensor

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value.detach().clone(), persistent=False)

    def forward(self) -> torch.Tensor:
        """The tensor."""
        return self.value


class _Tracer(fx.Tracer):
    """Runs every node when it is made, so that shapes and branches are known and children stay opaque."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        wrapped = tuple(f for f in (_einops("rearrange"), _einops("repeat"), _einops("einsum")) if f is not None)
        super().__init__(autowrap_functions=wrapped)
        self.inputs, self.running, self.thread = inputs, False, threading.get_ident()
        self.proxy_buffer_attributes = True
        self._states: set[int] = set()
        self._at_start: set[int] = set()

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        for owner in root.modules():
            self._at_start |= {id(value) for value in (*owner._buffers.values(), *vars(owner).values())}
            self._states |= {id(owner._buffers[name]) for name in owner._non_persistent_buffers_set}
        return super().trace(root, concrete_args)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:  # noqa: ARG002
        args: list[Any] = [self.root]
        for parameter in list(inspect.signature(root_fn).parameters.values())[1:]:
            stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
            name = stars.get(parameter.kind, "") + parameter.name
            default = () if parameter.default is inspect.Parameter.empty else (parameter.default,)
            proxy = self.create_proxy("placeholder", name, default, {})
            value = self.inputs.get(parameter.name, *default[:1])
            if parameter.kind not in _VARIADIC:
                args.append(proxy if holds_tensors(value) else value)
        return root_fn, args

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return True

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        elsewhere = threading.get_ident() != self.thread  # another model runs there meanwhile
        if elsewhere or self.running or self._is_product(m, args):
            return forward(*args, **kwargs)
        if isinstance(m, nn.MultiheadAttention):
            return written_out.multihead(m, *args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    @staticmethod
    def _is_product(m: nn.Module, args: Any) -> bool:
        """True for a module that only combines activations: its products are looked at, not hidden.

        A neuron that takes its membrane too has a decay or a threshold among its buffers.
        """
        activations = [a for a in args if isinstance(a, fx.Proxy) and torch.is_tensor(a.node.meta[VALUE])]
        return len(activations) > 1 and not any(True for _ in itertools.chain(m.parameters(), m.buffers()))

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.running or threading.get_ident() != self.thread or self._is_state(attr_val):
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def _is_state(self, value: Any) -> bool:
        """True for a membrane: a buffer that is not saved, which a neuron sets anew."""
        return isinstance(value, torch.Tensor) and id(value) in self._states

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> fx.Proxy:
        if target is torch.nn.functional.scaled_dot_product_attention:
            return written_out.dot_product(*args, **kwargs)
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        proxy.node.meta[VALUE] = self._run(proxy.node)
        return proxy

    def create_arg(self, a: Any) -> Any:
        # What a reset in the forward made is where each call starts, no membrane of the call before.
        if isinstance(a, torch.Tensor) and not isinstance(a, nn.Parameter) and id(a) not in self._at_start:
            a = a.clone()
        return super().create_arg(a)

    def create_node(self, kind: str, target: Any, *rest: Any, **named: Any) -> fx.Node:
        node = super().create_node(kind, target, *rest, **named)
        if kind == "get_attr":  # a tensor that the forward made has no proxy
            node.meta[VALUE] = self._run(node)
        return node

    def _run(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.inputs.get(str(node.target).strip("*"), node.args[0] if node.args else None)
        before, self.running = self.running, True
        try:
            return run_node(self.root, node, lambda other: other.meta[VALUE])
        finally:
            self.running = before

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Sized(node, self)

    def to_bool(self, obj: Any) -> bool:
        obj.node.meta[FIXED] = "branches on"
        return bool(obj.node.meta[VALUE])

    def iter(self, obj: Any) -> Iterator[Any]:
        return iter([obj[i] for i in range(len(obj.node.meta[VALUE]))])

    def record_function(self, function: type, args: tuple[Any, ...]) -> fx.Proxy:
        """A node for ``function.apply(*args)``, as a call of a child module without parameters."""
        name = function.__name__.lower() + CALL
        if not hasattr(self.root, name):
            self.root.add_module(name, FunctionCall(function))
        return self.create_proxy("call_module", name, args, {})


class _Sized(fx.Proxy):
    """A proxy that knows its length, for ``len(x.shape)``, and whose sizes stay sizes in plain Python."""

    def __len__(self) -> int:
        return len(self.node.meta[VALUE])

    def __getattr__(self, k: str) -> fx.proxy.Attribute:
        return _SizedAttribute(self, k)

    def __round__(self, *digits: int) -> fx.Proxy:
        return self._call(round, self, *digits)

    def __divmod__(self, other: Any) -> fx.Proxy:
        return self._call(divmod, self, other)

    def __rdivmod__(self, other: Any) -> fx.Proxy:
        return self._call(divmod, other, self)

    def __abs__(self) -> fx.Proxy:
        return self._call(abs, self)

    def __floor__(self) -> fx.Proxy:
        return self._call(math.floor, self)

    def __ceil__(self) -> fx.Proxy:
        return self._call(math.ceil, self)

    def __trunc__(self) -> fx.Proxy:
        return self._call(math.trunc, self)

    # Python demands real numbers of these: for range(), for an index into a list, for code of another file.
    def __index__(self) -> int:
        return operator.index(self._fixed("loops or indexes by"))

    def __int__(self) -> int:
        return int(self._fixed("takes a plain number from"))

    def __float__(self) -> float:
        return float(self._fixed("takes a plain number from"))

    def _call(self, function: Callable[..., Any], *args: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, args, {})

    def _fixed(self, how: str) -> Any:
        if torch.is_tensor(self.node.meta[VALUE]):
            raise TypeError("a number is taken out of a tensor, which no graph can hold")
        self.node.meta[FIXED] = how
        return self.node.meta[VALUE]


class _SizedAttribute(_Sized, fx.proxy.Attribute):
    """An attribute that is read, such as a shape."""


class _Follows(type):
    """Stands for the type ``int`` or ``float`` in the code that is traced: its calls on sizes are nodes."""

    plain: type

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], _Sized) and not torch.is_tensor(args[0].node.meta[VALUE]):
            return args[0]._call(cls.plain, *args)
        return cls.plain(*args, **kwargs)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value.node.meta[VALUE] if isinstance(value, _Sized) else value, cls.plain)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, cls.plain)


class _Int(int, metaclass=_Follows):
    plain = int


class _Float(float, metaclass=_Follows):
    plain = float


class _Picks:
    """Stands for ``max`` or ``min`` in the code that is traced: that of sizes is a node, and no branch."""

    def __init__(self, plain: Callable[..., Any]) -> None:
        self.plain = plain

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        size = next((arg for arg in args if isinstance(arg, _Sized)), None)
        if size is None or kwargs or torch.is_tensor(size.node.meta[VALUE]):
            return self.plain(*args, **kwargs)
        return size._call(self.plain, *args)


FACTORIES = ("ones", "zeros", "full", "empty", "eye", "arange", "linspace", "rand", "randn")
"""Functions of torch that take sizes and no tensor, so that torch does not ask a proxy for them."""


class _Makes:
    """Stands for a function of torch that makes a tensor: where a size is given it is a node."""

    def __init__(self, plain: Callable[..., Any]) -> None:
        self.plain = plain

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        flat = [one for arg in (*args, *kwargs.values()) for one in (arg if isinstance(arg, (tuple, list)) else (arg,))]
        size = next((one for one in flat if isinstance(one, _Sized)), None)
        if size is None:
            return self.plain(*args, **kwargs)
        return size.tracer.create_proxy("call_function", self.plain, args, kwargs)


def run_node(root: Any, node: fx.Node, value_of: Callable[[fx.Node], Any]) -> Any:
    """Execute one node of a graph, reading its inputs through ``value_of``."""
    args = fx.node.map_arg(node.args, value_of)
    kwargs = fx.node.map_arg(node.kwargs, value_of)
    if node.op == "call_module":
        return root.get_submodule(node.target)(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        return getattr(root.get_submodule(path), name)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def function_calls(graph: fx.Graph, module: nn.Module) -> dict[str, nn.Module]:
    """The children that `trace` added to ``module``, the copy that was traced."""
    names = {str(node.target) for node in graph.nodes if node.op == "call_module" and str(node.target).endswith(CALL)}
    return {name: module.get_submodule(name) for name in names}


@contextmanager
def _patched() -> Iterator[None]:
    """Record autograd functions, and leave no patch of torch.fx behind, whose own undoing Ctrl-C can end midway."""
    # torch.fx looks through autograd.Function.apply and would lose its surrogate gradient.
    plain, call, attribute = torch.autograd.Function.__dict__["apply"], nn.Module.__call__, nn.Module.__getattr__

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        proxies = [a for a in args if isinstance(a, fx.Proxy)]
        if proxies:
            return cast(_Tracer, proxies[0].tracer).record_function(cls, args)
        return plain.__func__(cls, *args, **kwargs)

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[method-assign, assignment]
    factories = {name: getattr(torch, name) for name in FACTORIES}
    try:
        for name, factory in factories.items():
            setattr(torch, name, _Makes(factory))
        yield
    finally:
        for name, factory in factories.items():
            setattr(torch, name, factory)
        torch.autograd.Function.apply = plain  # type: ignore[method-assign]
        nn.Module.__call__, nn.Module.__getattr__ = call, attribute  # type: ignore[method-assign]


@contextmanager
def _followed_numbers(module: nn.Module) -> Iterator[None]:
    # int(x) and float(x) must return plain numbers, whatever x is, so in the files of the module they mean another.
    kinds = [kind for kind in type(module).__mro__ if not kind.__module__.startswith("torch.")]
    scopes = [getattr(inspect.unwrap(f), "__globals__", None) for kind in kinds for f in vars(kind).values()]
    names = {"int": _Int, "float": _Float, "max": _Picks(max), "min": _Picks(min)}
    with ExitStack() as stack:
        for scope, name in itertools.product({id(scope): scope for scope in scopes if scope}.values(), names):
            if name not in scope:
                scope[name] = names[name]
                stack.callback(scope.pop, name)
        yield


def _einops(name: str) -> Callable[..., Any] | None:
    return getattr(sys.modules.get("einops"), name, None)
