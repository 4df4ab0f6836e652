"""One run of a model on a batch, as exact counts."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from snntorch_smixer.cost.counting import axes as ax
from snntorch_smixer.cost.counting.guess import Guess
from snntorch_smixer.cost.counting.notes import Note, Role, write
from snntorch_smixer.cost.counting.recorder import Recorder
from snntorch_smixer.cost.counting.refusals import check_inputs, check_model
from snntorch_smixer.cost.counting.states import at_rest
from snntorch_smixer.cost.counting.transfer import Clock
from snntorch_smixer.cost.counting.values import Scratch, classify
from snntorch_smixer.cost.records import Records, joined
from snntorch_smixer.errors import MeasureError
from snntorch_smixer.modes import in_mode, undisturbed


def measure(
    model: nn.Module,
    batch: Tensor | Sequence[Tensor] | Iterable[Any],
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

    Over a ``DataLoader``, or any iterable of batches that is no list of tensors, the runs are added up, with a progress
    bar where there is a terminal. A batch is a tensor or ``(input, ..., target)``; whole numbers, one per sample, are
    the classes of `Records.classes`.

    Args:
        model: the model.
        batch: its input; several tensors are passed as several arguments; or batches.
        run: what to run instead of ``model(batch)``, called with the same arguments: a loop over time steps, for
            example ``lambda x: [net(step) for step in x]``.
        axes: leading axes of the batch: "b", "t b", "b t", or merged "(t b)", "(b t)". Default: "t b" for five axes,
            else "b", with a warning where the model does what does not fit. Totals do not depend on it, only what is
            told per step and per sample.
        steps: T, where it is neither an axis of the batch nor seen when a static image is repeated.
        strict: refuse a model that runs operations which nothing counts.

    Raises:
        MeasureError: a scripted, uninitialised or multi-device model; a batch that is empty, not dense or not finite;
            modules that run in threads; a guess of the axes that cannot be; or with ``strict`` uncounted operations.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist"), torch.rand(2, 1, 28, 28)
        >>> records = cost.measure(net, x)
        >>> records.samples, records.steps, records.coverage
        (2, 4, 1.0)
    """
    check_model(model)
    if not isinstance(batch, Tensor) and _is_stream(batch):
        return _over(batch, lambda inputs: _run(model, inputs, run=run, axes=axes, steps=steps, strict=strict))
    inputs = [batch] if isinstance(batch, Tensor) else list(batch)
    return _run(model, inputs, run=run, axes=axes, steps=steps, strict=strict)


def _is_stream(batch: Iterable[Any]) -> bool:
    """True for batches one after the other, False for the inputs of one batch."""
    return not isinstance(batch, list | tuple) or any(isinstance(entry, list | tuple) for entry in batch)


def _over(batches: Iterable[Any], run: Callable[[list[Tensor]], Records]) -> Records:
    """All batches as one run."""
    runs = []
    for batch in tqdm(batches, desc="measure", unit="batch", disable=None):
        inputs, target = _parted(batch)
        records = run(inputs)
        known = target is not None and len(target) == records.samples
        runs.append(replace(records, classes=tuple(target.tolist())) if target is not None and known else records)
    if not runs:
        raise MeasureError("measure: got no batch, expected at least one. Check the data, or rewind what yields it.")
    return joined(runs)


def _parted(batch: Any) -> tuple[list[Tensor], Tensor | None]:
    """(inputs, classes) of one batch of a loader: the last of several tensors is a target and no input."""
    if isinstance(batch, Tensor):
        return [batch], None
    if not isinstance(batch, list | tuple) or not batch or not isinstance(batch[0], Tensor):
        raise MeasureError(
            f"measure: a batch is a {type(batch).__name__}, expected a tensor or (input, target). Pass an iterable "
            "that yields these."
        )
    if len(batch) == 1:
        return list(batch), None
    target = batch[-1]
    whole = isinstance(target, Tensor) and target.dim() == 1 and not target.is_floating_point()
    return [x for x in batch[:-1] if isinstance(x, Tensor)], target if whole else None


def _run(
    model: nn.Module,
    inputs: list[Tensor],
    *,
    run: Callable[..., Any] | None,
    axes: str | None,
    steps: int | None,
    strict: bool,
) -> Records:
    """One batch; see `measure`."""
    check_inputs(inputs)
    letters = axes or ("t b" if inputs[0].dim() == 5 else "b")
    samples, clock = _extent(inputs[0], letters, steps)
    with ExitStack() as stack:
        stack.enter_context(undisturbed())
        for context in (in_mode(model, training=False), at_rest(model), torch.inference_mode(), _plain(model)):
            stack.enter_context(context)
        guess = Guess(letters, inputs[0].shape, clock) if axes is None else None
        recorder = Recorder(model, samples, clock, guess)
        copies = [_noted(x, letters, steps, main=x is inputs[0]) for x in inputs]
        with recorder.stack.followed(), recorder:
            recorder.ended((run or model)(*copies))
        recorder.stack.settle()
        recorder.counted()
        records = recorder.books.closed(type(model).__name__, clock.steps or _calls(recorder))
    if guess is not None and guess.doubt:
        warnings.warn(guess.warning, stacklevel=2)
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
    note = Note(Role.DATA, axes, raw=True, static=_repeats(copy, axes))
    if copy.is_floating_point():
        classify(copy, note, Scratch(), "the model")
    write(copy, note)
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
