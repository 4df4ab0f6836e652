"""Neurons that keep what they are given, and run again in the backward pass for all that lies between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from snntorch_smixer.layers.memory import has_hooks
from snntorch_smixer.memory import KeepsLess
from snntorch_smixer.patching.behaviour import has_few_levels
from snntorch_smixer.patching.hooks import CapLevels
from snntorch_smixer.patching.state import State, put_back_values

Forward = Callable[[Tensor], Any]
Record = tuple[str, str]


def may_be_neuron(module: nn.Module) -> bool:
    """True where it is worth to look at what ``module`` does: foreign, without weights or normalisation."""
    if type(module).__module__.startswith("torch.") or isinstance(module, (torch.jit.ScriptModule, KeepsLess)):
        return False
    if any(isinstance(p, UninitializedParameter) or p.dim() > 1 for p in module.parameters()):
        return False
    return not any(isinstance(m, _BatchNorm) for m in module.modules())


def keep_input(module: nn.Module, forward: Forward, x: Tensor) -> Any:
    """``forward(x)`` that keeps ``x`` alone: the backward pass runs it again, from the state of now.

    Its result carries the graph of ``forward`` itself, and so does the state that it leaves behind.

    Args:
        module: whose state ``forward`` reads and writes.
        forward: of ``module``.
        x: its input.

    Raises:
        RuntimeError: in the backward pass, when a parameter or state of ``module`` was written into since.
    """
    # To stop early, torch raises inside the forward, which a scripted function turns into a plain RuntimeError.
    with set_checkpoint_early_stop(False):
        return checkpoint(_Again(module, forward), x, use_reentrant=False)


class _Again:
    """Runs a module; when it is called again, from the same state, and without leaving a trace."""

    def __init__(self, module: nn.Module, forward: Forward) -> None:
        self.module, self.forward, self.start, self.has_run = module, forward, State(module), False

    def __call__(self, x: Tensor) -> Any:
        if not self.has_run:
            self.has_run = True
            return self.forward(x)
        if self.start.is_overwritten():
            raise RuntimeError(
                f"wrapped model: a parameter or state of {type(self.module).__name__} was changed by an inplace "
                "operation before the backward pass ran it again. Call backward() before optimizer.step() and resets."
            )
        now = State(self.module)
        self.start.put_back()
        try:
            return self.forward(x)
        finally:
            now.put_back()


def why_not(module: nn.Module, forward: Forward, x: Tensor) -> str | None:
    """Try a neuron out: "" where running it again gives the same spikes and gradients, else why it does not.

    None where it is no neuron. Nothing that ``module`` remembers changes, nor do torch's generators.

    Args:
        module: see `may_be_neuron`.
        forward: of ``module``.
        x: an input that it gets.
    """
    if any(_is_watched(part) for part in module.modules() if part is not module):
        return "something hooks into a part of it"
    start = State(module)
    values = start.values()
    try:
        with torch.random.fork_rng(devices=_devices(x)):
            noise = torch.rand_like(x, requires_grad=False) * 8 - 2
        if not has_few_levels(_trial(forward, noise)[0], x):
            return None
        start.put_back()
        plain = _trial(forward, x)
        if start.is_overwritten():
            return "it writes into its state in place"
        start.put_back()
        again = _trial(lambda probe: keep_input(module, forward, probe), x)
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything
        return f"it cannot be tried out: {type(error).__name__}: {error}".splitlines()[0]
    finally:
        start.put_back()
        put_back_values(values)
    same = all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    return "" if same else "it gives something else when it runs again"


def records(module: nn.Module, forward: Forward, x: Tensor) -> tuple[Record, ...]:
    """Where a neuron keeps something of all steps for whoever asks, as SpikingJelly's ``v_seq``: (part, name).

    The next call gives the same without it. Nothing that ``module`` remembers changes, nor do torch's generators.

    Args:
        module: a neuron that runs again, see `why_not`.
        forward: of ``module``.
        x: an input that it gets.
    """
    start = State(module)
    values = start.values()
    try:
        _trial(forward, x)
        held = [(path, name) for path, part in module.named_modules() for name in _of_all_steps(part, x)]
        plain = _trial(forward, x)
        dropped = []
        for record in held:
            start.put_back()
            _trial(forward, x)
            drop(module, (record,))
            if all(torch.equal(a, b) for a, b in zip(plain, _trial(forward, x), strict=True)):
                dropped.append(record)
    except Exception:  # noqa: BLE001 - foreign code may need what was dropped
        return ()
    finally:
        start.put_back()
        put_back_values(values)
    return tuple(dropped)


def drop(module: nn.Module, held: tuple[Record, ...]) -> None:
    """Let the records of `records` be None until the next call."""
    for path, name in held:
        for table in _tables(module.get_submodule(path)):
            if name in table:
                table[name] = None


def _of_all_steps(part: nn.Module, x: Tensor) -> list[str]:
    tables = _tables(part)
    return [
        name
        for table in tables
        for name, value in table.items()
        if isinstance(value, Tensor) and value.shape == x.shape
    ]


def _tables(part: nn.Module) -> list[dict[str, Any]]:
    """Attributes of a module, and the dictionary in which SpikingJelly's neurons keep theirs."""
    memories = vars(part).get("_memories")
    return [vars(part), memories] if isinstance(memories, dict) else [vars(part)]


def _is_watched(part: nn.Module) -> bool:
    # A hook of a user runs once in a forward. The cap on levels is part of the forward.
    return has_hooks(part) and not all(isinstance(hook, CapLevels) for hook in part._forward_hooks.values())


def _devices(x: Tensor) -> list[torch.device]:
    return [x.device] if x.device.type == "cuda" else []


def _trial(forward: Forward, x: Tensor) -> tuple[Tensor, Tensor]:
    probe = x.detach().requires_grad_()
    keep_all = torch.autograd.graph.saved_tensors_hooks(_same, _same)
    with torch.random.fork_rng(devices=_devices(x)), torch.enable_grad(), keep_all:
        given = probe.clone()
        out = forward(given)
        if not isinstance(out, Tensor) or out.shape != x.shape:
            return x.new_zeros(0), x.new_zeros(0)
        if given._version:
            raise RuntimeError("it writes into its input")
        weights = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=out.dtype).view(out.shape)
        (grad,) = torch.autograd.grad(out, probe, weights)
    return out.detach(), grad


def _same(x: Tensor) -> Tensor:
    return x
