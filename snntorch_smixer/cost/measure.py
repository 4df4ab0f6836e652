"""One run of a model on a batch, as exact counts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from snntorch_smixer.cost.counting import axes as ax
from snntorch_smixer.cost.counting.notes import Note, Role, write
from snntorch_smixer.cost.counting.recorder import Recorder
from snntorch_smixer.cost.counting.refusals import check_inputs, check_model
from snntorch_smixer.cost.counting.states import at_rest
from snntorch_smixer.cost.counting.transfer import Clock
from snntorch_smixer.cost.records import Records
from snntorch_smixer.errors import MeasureError
from snntorch_smixer.modes import in_mode


def measure(
    model: nn.Module,
    batch: Tensor | Sequence[Tensor],
    *,
    run: Callable[..., Any] | None = None,
    axes: str | None = None,
    steps: int | None = None,
    strict: bool = False,
) -> Records:
    """Run a model once and count what it does, layer by layer.

    Works on any model of torch, snnTorch or SpikingJelly, wrapped or not. It runs in evaluation mode, from rest and
    without gradients; modes, buffers and the states of neurons are afterwards what they were. Counts are of the whole
    batch; ``records.per_sample(name)`` divides.

    Args:
        model: the model.
        batch: its input; several tensors are passed as several arguments.
        run: what to run instead of ``model(batch)``, called with the same arguments: a loop over time steps, for
            example ``lambda x: [net(step) for step in x]``.
        axes: leading axes of the batch: "b", "t b", "b t", or merged "(t b)", "(b t)". Default: "t b" for five axes,
            else "b". Totals do not depend on it, only what is told per step and per sample.
        steps: T, where it is neither an axis of the batch nor seen when a static image is repeated.
        strict: refuse a model that runs operations which nothing counts.

    Raises:
        MeasureError: a scripted, uninitialised or multi-device model; a batch that is empty, not dense or not finite;
            modules that run in threads; or with ``strict`` uncounted operations.
    """
    inputs = [batch] if isinstance(batch, Tensor) else list(batch)
    check_model(model)
    check_inputs(inputs)
    letters = axes or ("t b" if inputs[0].dim() == 5 else "b")
    samples, clock = _extent(inputs[0], letters, steps)
    with ExitStack() as stack:
        for context in (in_mode(model, training=False), at_rest(model), torch.inference_mode(), _plain(model)):
            stack.enter_context(context)
        recorder = Recorder(model, samples, clock)
        copies = [_noted(x, letters, steps, main=x is inputs[0]) for x in inputs]
        with recorder.stack.followed(), recorder:
            (run or model)(*copies)
        recorder.stack.settle()
        records = recorder.books.closed(type(model).__name__, clock.steps or _calls(recorder))
    if strict and records.uncounted:
        names = ", ".join(f"{entry.op} in {entry.layer or 'the model'}" for entry in records.uncounted)
        raise MeasureError(
            f"measure: {names} ran and nothing counts it (coverage {records.coverage:.1%}). Pass strict=False to list "
            "it in the report, or add it to cost/counting/rules.py."
        )
    return records


def _extent(x: Tensor, letters: str, steps: int | None) -> tuple[int, Clock]:
    """B and what is known of T."""
    sizes = {"t": 1, "b": 1} | {
        label: size for axis in ax.of_batch(x.shape, letters, steps) for label, size in axis if label
    }
    timed = "t" in letters
    return sizes["b"], Clock(sizes["t"] if timed else steps)


def _noted(x: Tensor, letters: str, steps: int | None, *, main: bool) -> Tensor:
    """A copy of an input that carries a note; the user's tensor stays as it is."""
    copy = x.detach().clone()
    fits = main or copy.dim() >= len(letters.strip("()").split())
    axes = ax.of_batch(copy.shape, letters, steps) if fits else tuple(map(ax.plain, copy.shape))
    write(copy, Note(Role.DATA, axes, raw=True, static=_repeats(copy, axes)))
    return copy


def _repeats(x: Tensor, axes: ax.Axes) -> bool:
    """True where every time step holds the same: a static image that was repeated."""
    at = next((i for i, axis in enumerate(axes) if axis and axis[0][0] == "t" and len(axis) == 1), None)
    return at is not None and torch.equal(x, x.narrow(at, 0, 1).expand_as(x))


def _calls(recorder: Recorder) -> int:
    """T of a loop that calls the model step by step: the most calls of one neuron.

    Neurons written out in ``run`` share one name, and so count only where no layer and no other neuron runs in a loop.
    """
    entries = recorder.books.entries.items()
    calls = {layer: entry.calls for (layer, op), entry in entries if op == "neuron"}
    shared = calls.pop("", 1) if recorder.stack.outside else 1
    if recorder.stack.outside:
        calls |= {f"{layer} ": entry.calls for (layer, _), entry in entries if entry.weight_bytes}
    most = max([1, *calls.values()])
    return most if most > 1 else shared


@contextmanager
def _plain(model: nn.Module) -> Iterator[None]:
    """Models run plain code: nothing compiled or fused, LSTMs and attention as their products, no stale autocast."""
    mkldnn: Any = torch.backends.mkldnn
    fused, recurrent = mkldnn.enabled, any(isinstance(module, nn.LSTM) for module in model.modules())
    torch.clear_autocast_cache()
    # Without torch._dynamo in memory nothing is compiled, and importing it takes seconds.
    stance = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with stance, sdpa_kernel(SDPBackend.MATH):
        mkldnn.enabled = fused and not recurrent
        fast = torch.backends.mha.get_fastpath_enabled()  # hides a whole attention in one operation
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            mkldnn.enabled = fused
            torch.backends.mha.set_fastpath_enabled(fast)
    torch.clear_autocast_cache()
