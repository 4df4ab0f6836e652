"""Memory modes of a wrapped model: its forward stays as it is, and what autograd keeps of it is kept smaller."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from snntorch_smixer.modes import innermost_saved
from snntorch_smixer.patching.rebuild import Call, Kept, Remembered, View
from snntorch_smixer.patching.record import Found
from snntorch_smixer.patching.rerun import drop, keep_input, may_be_neuron, records, why_not

# What moves values, or takes a few of them: cheaper to do again than to keep.
MOVES = frozenset(
    (
        *(Tensor.contiguous, Tensor.reshape, torch.reshape, Tensor.flatten, torch.flatten, Tensor.clone, torch.clone),
        *(F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d),
        *(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    )
)
_NORM = inspect.signature(F.batch_norm)
_SMALL = ("running_mean", "running_var", "weight", "bias")  # a few numbers per channel
MAPS = frozenset((F.linear, F.conv1d, F.conv2d, F.conv3d))


def why_nothing(model: nn.Module) -> str:
    """Why a forward of ``model`` saves all that it would without a memory mode, "" where it need not."""
    if innermost_saved() is not None:
        return "other hooks on saved tensors are active, such as save_on_cpu or a checkpoint around the model"
    if not torch._C._autograd._saved_tensors_hooks_is_enabled():  # type: ignore[attr-defined]
        return "hooks on saved tensors are switched off, as inside torch.func.grad"
    if any(m._compiled_call_impl is not None or "_orig_mod" in m._modules for m in model.modules()):
        return "a part of it is compiled, which decides by itself what it keeps"
    return ""


class Lean(TorchFunctionMode):
    """One forward pass that keeps less.

    Args:
        model: the root.
        mode: "fused" or "recompute".
        found: is told what is found.
    """

    def __init__(self, model: nn.Module, mode: str, found: Found) -> None:
        super().__init__()
        self.model, self.mode, self.found = model, mode, found
        self.remembered = Remembered()
        self.pack = self.remembered.pack
        self.look = (mode, sum(p.requires_grad for p in model.parameters()))
        self.checks = self.look not in found.looked
        self.names = _names(model) if self.checks or found.refused else {}
        self.in_neuron = False
        self.stack = ExitStack()

    def start(self, inputs: Any) -> None:
        """From here on."""
        self.found.elsewhere.clear()
        hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, self.remembered.unpack)
        for x in inputs:
            if isinstance(x, Tensor) and not x.is_inference():
                self.remembered.put(x, None)  # the caller has it
        for path, module in self._neurons():
            self.stack.enter_context(_Instead(module, Neuron(self, path, module)))
        self.stack.callback(self._switch_off)
        hooks.__enter__()
        self.__enter__()

    def _neurons(self) -> list[tuple[str, nn.Module]]:
        if self.checks:
            return [(path, m) for path, m in self.model.named_modules() if path and may_be_neuron(m)]
        return [(path, self.model.get_submodule(path)) for path in self.found.neurons]

    def _switch_off(self) -> None:
        # Only what is on: Ctrl-C may have come while torch had switched a mode off for a moment.
        depth = torch._C._len_torch_function_stack()
        if depth and torch._C._get_function_stack_at(depth - 1) is self:
            self.__exit__(None, None, None)
        if innermost_saved() == self.pack:
            torch._C._autograd._pop_saved_tensors_default_hooks()

    def stop(self, *, done: bool) -> None:
        """To here."""
        self.stack.close()
        self.remembered.clear()
        if done:
            self.found.looked.add(self.look)

    def is_in_force(self) -> bool:
        """True where what autograd saves now comes here: no gradient is off, no checkpoint of the model is inside."""
        return torch.is_grad_enabled() and innermost_saved() == self.pack

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a call, and remember how where it can be made again."""
        out = func(*args, **(kwargs or {}))
        if func is F.batch_norm or func in MOVES or (func in MAPS and self.mode == "recompute"):
            if not self.in_neuron and isinstance(out, Tensor) and out.requires_grad and self.is_in_force():
                self._remember(func, args, kwargs or {}, out)
        elif func in MAPS and isinstance(out, Tensor) and not self.in_neuron and self.is_in_force():
            self.remembered.put(out, None)  # real values: nobody need look at them
        return out

    def _remember(self, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
        if self.remembered.find(out)[0]:  # a view of something known
            return
        name = self._name(func, args, kwargs)
        if name in self.found.refused:
            return
        call = self._call(func, args, kwargs, name)
        if call is None:
            return
        if self.checks and not _same(call.whole(), out):
            self.found.refused.add(name)
            return
        if self.checks and func in MAPS:
            self.found.maps.add(name)
        self.remembered.put(out, call)

    def _call(self, func: Any, args: Any, kwargs: Any, name: str) -> Call | None:
        keep = self.remembered.keep
        if func is F.batch_norm:
            x, *constants = _norm_arguments(args, kwargs)
            return Call(name, F.batch_norm, (keep(x), *constants), {}, x)
        if any(isinstance(value, Tensor) for value in kwargs.values()):
            return None
        x, kept = args[0], keep(args[0])
        if not isinstance(kept, View):
            return None  # it would keep a second real-valued tensor
        rest = tuple(Kept(arg) if isinstance(arg, Tensor) else arg for arg in args[1:])
        return Call(name, func, (kept, *rest), kwargs, x)

    def _name(self, func: Any, args: Any, kwargs: Any) -> str:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        named = [self.names[id(tensor)] for tensor in tensors if id(tensor) in self.names]
        return named[0] if named else str(getattr(func, "__name__", func))

    def norm_before(self, x: Tensor) -> str:
        """Name of the BatchNorm that ``x`` comes from, "" for none."""
        source = self.remembered.find(x)[1]
        while isinstance(source, Call):
            if source.function is F.batch_norm:
                return source.name
            source = source.args[0].source if isinstance(source.args[0], View) else None
        return ""


class Neuron:
    """Stands for the forward of a neuron while a `Lean` runs."""

    def __init__(self, lean: Lean, path: str, module: nn.Module) -> None:
        self.lean, self.path, self.module, self.forward = lean, path, module, module.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the neuron gives."""
        lean = self.lean
        alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and args[0].is_floating_point()
        if lean.in_neuron or not alone or not (args[0].requires_grad and torch.is_grad_enabled()):
            return self.forward(*args, **kwargs)
        if not lean.is_in_force():
            lean.found.elsewhere.add(self.path)
            return self.forward(*args)
        reason = self._verdict(args[0])
        if reason is None:  # no neuron, but one may be inside
            return self.forward(*args)
        lean.in_neuron = True
        try:
            if reason:
                return self.forward(*args)
            out = keep_input(self.module, self.forward, args[0])
            drop(self.module, lean.found.records.get(self.path, ()))
            return out
        finally:
            lean.in_neuron = False

    def _verdict(self, x: Tensor) -> str | None:
        found = self.lean.found
        if self.lean.checks and self.path not in found.neurons:
            self.lean.in_neuron = True
            try:
                reason = why_not(self.module, self.forward, x)
                held = records(self.module, self.forward, x) if reason == "" else ()
            finally:
                self.lean.in_neuron = False
            if reason is not None:
                found.neurons[self.path] = reason
                found.pairs[self.path] = self.lean.norm_before(x)
                found.records |= {self.path: held} if held else {}
        return found.neurons.get(self.path)


class _Instead:
    """Another forward of one module, inside ``with``."""

    def __init__(self, module: nn.Module, forward: Any) -> None:
        self.attributes, self.forward = vars(module), forward

    def __enter__(self) -> None:
        self.before = self.attributes.get("forward")
        self.attributes["forward"] = self.forward

    def __exit__(self, *_: object) -> None:
        if self.before is None:
            self.attributes.pop("forward", None)
        else:
            self.attributes["forward"] = self.before


def _names(model: nn.Module) -> dict[int, str]:
    """Dotted names of modules by their parameters, and of each BatchNorm by its statistics too."""
    names: dict[int, str] = {}
    for path, module in model.named_modules():
        owned = [*module._parameters.values(), *(module._buffers.values() if isinstance(module, _BatchNorm) else ())]
        names |= {id(tensor): path for tensor in owned if tensor is not None}
    return names


def _norm_arguments(args: Any, kwargs: Any) -> tuple[Any, ...]:
    """Arguments with which ``F.batch_norm`` normalises alike and updates nothing."""
    call = _NORM.bind(*args, **kwargs)
    call.apply_defaults()
    given = call.arguments
    if given["training"]:  # by the batch
        given["running_mean"] = given["running_var"] = None
    copies = {name: given[name].detach().clone() for name in _SMALL if given[name] is not None}
    return tuple({**given, **copies, "momentum": 0.0}.values())


def _same(a: Tensor, b: Tensor) -> bool:
    alike = a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype
    return alike and a.storage_offset() == b.storage_offset() and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
