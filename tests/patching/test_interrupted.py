"""Ctrl-C at many points: the model is as it was, and nothing of the process stays switched on."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from snntorch_smixer import cost, dstsp, set_memory
from snntorch_smixer.bench.peak import peak_bytes
from snntorch_smixer.modes import innermost_saved
from tests.fakes.stateless import Stateless, pictures

X = pictures(1)


class CtrlC:
    """A profile function that raises KeyboardInterrupt at one call of a Python function, and counts them."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.calls = at, 0

    def __call__(self, frame: Any, event: str, _: Any) -> None:
        # Python drops what is raised while it closes a generator.
        is_call = event == "call" and not frame.f_code.co_flags & inspect.CO_GENERATOR
        self.calls += is_call
        if is_call and self.calls == self.at:
            raise KeyboardInterrupt

    def during(self, action: Callable[[], Any]) -> None:
        sys.setprofile(self)
        try:
            action()
        finally:
            sys.setprofile(None)


def switched_on() -> tuple[Any, ...]:
    """Modes and hooks of the process."""
    return (
        *(torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack(), innermost_saved()),
        *(torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.backends.mha.get_fastpath_enabled()),
        *(nn.Module.__call__, nn.Module.__getattr__, torch.autograd.Function.__dict__["apply"]),
        *(len(nn.modules.module._global_forward_hooks), len(nn.modules.module._global_forward_pre_hooks)),
    )


def seen(model: nn.Module) -> tuple[Any, ...]:
    """Modules, modes, hooks and attributes by identity, and the values of buffers and of the state dict."""
    parts = [
        (name, type(m), {k: _values(v) if k == "_buffers" else _ids(v) for k, v in vars(m).items()})
        for name, m in model.named_modules()
    ]
    return parts, {name: value.tolist() for name, value in model.state_dict().items()}


def _values(buffers: dict[str, Any]) -> Any:
    return {k: None if v is None else v.tolist() for k, v in buffers.items()}


def _ids(value: Any) -> Any:
    return {k: id(v) for k, v in value.items()} if isinstance(value, dict) else id(value)


def wrapped(mode: str = "reference") -> nn.Module:
    model = dstsp.wrap(Stateless(1), example_input=X)
    set_memory(model, mode)
    return model


ACTIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Any], int]] = {
    "wrap": (lambda: Stateless(1), lambda net: dstsp.wrap(net, example_input=X, calibrate=[X]), 8),
    "plan": (lambda: Stateless(1), lambda net: dstsp.plan(net, example_input=X), 3),
    "fit": (wrapped, lambda net: dstsp.fit(net, [X]), 12),
    "unwrap": (wrapped, dstsp.unwrap, 12),
    "forward": (wrapped, lambda net: net(X), 12),
    "saving less": (lambda: wrapped("recompute"), lambda net: net(X), 16),
    "measure": (wrapped, lambda net: cost.measure(net, X), 6),
    "bench": (wrapped, lambda net: peak_bytes(net, X), 6),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_ctrl_c_leaves_the_model_and_the_process_as_they_were(name):
    make, act, points = ACTIONS[name]
    counter = CtrlC()
    act(make())  # fills caches
    model = make()
    counter.during(lambda: act(model))
    model, process = make(), switched_on()
    before = seen(model)
    for point in range(points):
        at = 1 + counter.calls * (2 * point + 1) // (2 * points)
        with pytest.raises(KeyboardInterrupt):
            CtrlC(at).during(lambda: act(model))
        assert switched_on() == process, f"Ctrl-C at call {at} of {counter.calls}"
        assert seen(model) == before, f"Ctrl-C at call {at} of {counter.calls}"
