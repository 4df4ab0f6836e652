"""One run of a model on a batch, as exact counts."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy
from tqdm import tqdm

from snntorch_smixer.cost.count import axes as ax
from snntorch_smixer.cost.count.ops import Call, Clock
from snntorch_smixer.cost.count.recorder import Recorder
from snntorch_smixer.cost.count.values import Note, Role, Scratch, classify, erase, write
from snntorch_smixer.cost.records import Records, joined
from snntorch_smixer.errors import MeasureError
from snntorch_smixer.modes import in_mode, undisturbed
from snntorch_smixer.neurons import reset


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
        return _over(batch, lambda inputs: _run(model, inputs, run, axes, steps, strict))
    return _run(model, [batch] if isinstance(batch, Tensor) else list(batch), run, axes, steps, strict)


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
        got = f"measure: a batch is a {type(batch).__name__}, expected a tensor or (input, target)"
        raise MeasureError(f"{got}. Pass an iterable that yields these.")
    if len(batch) == 1:
        return list(batch), None
    target = batch[-1]
    whole = isinstance(target, Tensor) and target.dim() == 1 and not target.is_floating_point()
    return [x for x in batch[:-1] if isinstance(x, Tensor)], target if whole else None


def _run(
    model: nn.Module,
    inputs: list[Tensor],
    run: Callable[..., Any] | None,
    axes: str | None,
    steps: int | None,
    strict: bool,
) -> Records:
    """One batch; see `measure`."""
    check_inputs(inputs)
    letters = axes or ("t b" if inputs[0].dim() == 5 else "b")
    sizes = dict(factor for axis in ax.of_batch(inputs[0].shape, letters, steps) for factor in axis)
    clock = Clock(sizes.get("t", 1) if "t" in letters else steps)
    with ExitStack() as stack:
        stack.enter_context(undisturbed())
        for context in (in_mode(model, training=False), at_rest(model), torch.inference_mode(), _plain(model)):
            stack.enter_context(context)
        guess = Guess(letters, inputs[0].shape, clock) if axes is None else None
        recorder = Recorder(model, sizes.get("b", 1), clock, guess)
        copies = [_noted(x, letters, steps, main=x is inputs[0]) for x in inputs]
        with recorder.stack.followed(), recorder:
            recorder.ended((run or model)(*copies))
        recorder.stack.settle()
        recorder.queue.count()
        records = recorder.books.closed(type(model).__name__, clock.steps or _calls(recorder))
    if guess is not None and guess.doubt:
        warnings.warn(guess.warning, stacklevel=2)
    if strict and records.uncounted:
        names = ", ".join(f"{entry.op} in {entry.layer or 'the model'}" for entry in records.uncounted)
        raise MeasureError(
            f"measure: {names} ran and nothing counts it (coverage {records.coverage:.1%}). Pass strict=False to list "
            "it in the report, or add it to cost/count/ops.py."
        )
    return records


def _noted(x: Tensor, letters: str, steps: int | None, *, main: bool) -> Tensor:
    """A copy of an input that carries a note; the user's tensor stays as it is."""
    copy = x.detach().clone()
    fits = main or copy.dim() >= len(letters.strip("()").split())
    axes = ax.of_batch(copy.shape, letters, steps) if fits else ax.unknown(copy.shape)
    at = next((i for i, axis in enumerate(axes) if axis and axis[0][0] == "t" and len(axis) == 1), None)
    repeats = at is not None and torch.equal(copy, copy.narrow(at, 0, 1).expand_as(copy))
    note = Note(Role.DATA, axes, raw=True, static=repeats)
    if copy.is_floating_point():
        classify(copy, note, Scratch(), "the model")
    write(copy, note)
    return copy


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


def check_model(model: nn.Module) -> None:
    """Refuse modules whose operations or weights cannot be seen."""
    for name, module in model.named_modules():
        where = f"measure: {name or 'the model'} is a {type(module).__name__}"
        if isinstance(module, torch.jit.ScriptModule):
            raise MeasureError(
                f"{where}, scripted or traced code, expected a Python module: TorchScript fuses operations and hides "
                "its layers. Pass the module that it was made from."
            )
        if any(map(is_lazy, chain(module.parameters(recurse=False), module.buffers(recurse=False)))):
            raise MeasureError(
                f"{where} whose parameters are uninitialised, expected weights of a known shape. Run the model once on "
                "a batch first."
            )
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise MeasureError(
                f"{where} over {len(module.device_ids)} devices, expected one: it runs copies in threads of their own, "
                "which are not seen. Pass its .module."
            )


def check_inputs(inputs: Sequence[Tensor]) -> None:
    """Refuse a batch that holds nothing to count."""
    if not inputs or not all(isinstance(x, Tensor) for x in inputs):
        raise MeasureError(
            f"measure: the batch holds {', '.join(type(x).__name__ for x in inputs) or 'nothing'}, expected tensors. "
            "Pass the input tensor, or several in the order of the model's arguments."
        )
    for x in inputs:
        _check_layout(x)
        if not x.numel():
            raise MeasureError(
                f"measure: the batch is empty, shape {tuple(x.shape)}. Pass at least one sample: events are counted on "
                "real data."
            )
        if (x.is_floating_point() or x.is_complex()) and not bool(torch.isfinite(x).all()):
            raise MeasureError(
                "measure: the batch holds values that are not finite. Check how it was loaded and normalised."
            )


def _check_layout(x: Tensor) -> None:
    if x.is_nested:
        found, remedy = "nested", "Pad it with .to_padded_tensor(0.0)"
    elif x.is_quantized:
        found, remedy = "quantised", "Pass .dequantize() of it"
    elif x.layout is not torch.strided:
        found, remedy = str(x.layout).removeprefix("torch."), "Pass .to_dense() of it"
    elif x.device.type == "meta":
        found, remedy = "without data (device meta)", "Pass real samples"
    else:
        return
    raise MeasureError(f"measure: the batch holds a tensor that is {found}, expected a dense one. {remedy}.")


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Neurons start at rest; afterwards buffers, states and attributes of every module are what they were.

    Knows snnTorch's ``reset_mem``, and ``reset`` or ``n_reset`` without arguments as SpikingJelly's ``reset_net`` does.
    """
    held = [(m, _held(m)) for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    values = [x for _, parts in held for part in parts.values() for x in part.values()]
    found = {id(x): x for x in values if isinstance(x, Tensor) and not isinstance(x, nn.Parameter)}
    tensors = [(x, x.detach().clone(), None if x.is_inference() else x._version) for x in found.values()]
    lists = [(x, list(x)) for x in values if type(x) is list]
    try:
        reset(model)
        for module in model.modules():
            _reset(module)
        yield
    finally:
        for module, parts in held:
            for name, part in parts.items():
                live = module.__dict__[name] if name else module.__dict__
                live.clear()
                live.update(part)
        for items, content in lists:
            items[:] = content
        # Only what was written into: a write cuts a graph that holds a membrane.
        for x, value in ((x, value) for x, value, version in tensors if version is None or x._version != version):
            x.detach().copy_(value)
        for x in (*found.values(), *model.parameters()):
            erase(x)


def _reset(module: nn.Module) -> None:
    """Reset SpikingJelly's modules, and others without weights: a reset of those with weights could draw them anew."""
    library = any(c.__module__.startswith("spikingjelly") for c in type(module).__mro__)
    if not library and next(module.parameters(), None) is not None:
        return
    for name in ("reset", "n_reset"):
        method = getattr(module, name, None)
        if callable(method) and all(p.default is not p.empty for p in inspect.signature(method).parameters.values()):
            method()


def _held(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Buffers, memories and attributes of one module, as they are."""
    names = [name for name in ("_buffers", "_memories") if name in module.__dict__]
    return {"": dict(module.__dict__)} | {name: dict(module.__dict__[name]) for name in names}


_APART = frozenset({"unbind", "select", "slice", "narrow", "split", "split_with_sizes", "unsafe_split", "chunk"})
_REDUCING = frozenset({"sum", "mean", "amax", "amin", "max", "min", "argmax", "cumsum"})
_RESHAPING = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})
_PRODUCTS = frozenset({"mm", "bmm", "addmm", "baddbmm"})


class Guess:
    """Axes that nobody named, and the first thing a model did that does not fit them.

    A model that makes an axis of time from its batch, as ``clock`` says, has none in it.
    """

    def __init__(self, letters: str, shape: Sequence[int], clock: Clock) -> None:
        self.letters, self.shape, self.clock, self.doubt = letters, tuple(shape), clock, ""
        self._seen: set[int] = set()

    def look(self, call: Call) -> None:
        """Look at one call, and refuse a convolution that takes samples for channels."""
        if self._settled or not call.notes or call.notes[0].role != Role.DATA:
            return
        name, axes = call.name, call.notes[0].axes
        if name in ("convolution", "_convolution"):
            self._check_channels(call.tensors[0], axes)
        elif name in _APART and self._takes_apart(call, axes):
            self.doubt = "takes samples apart one by one"
        elif name in _REDUCING and _sums_up(call, axes):
            self.doubt = "sums over samples"
        elif name in _RESHAPING and axes and _only(axes[0], "b") and 1 < call.out[0].shape[0] < ax.size_of(axes[0]):
            self.doubt = "cuts the first axis in two"
        elif name in _PRODUCTS and any(map(_contracts, call.notes[-2:], (-1, -2))):
            self.doubt = "has weights between samples"

    def look_at_neuron(self, module: nn.Module, axes: ax.Axes) -> None:
        """Look at what drives a neuron, which takes the first axis for time if it is one of several steps."""
        if not self._settled and getattr(module, "step_mode", "") == "m" and axes and _only(axes[0], "b"):
            self.doubt = f"has a {type(module).__name__} of several steps, which takes samples for time"

    @property
    def _settled(self) -> bool:
        return bool(self.doubt) or (self.letters == "b" and self.clock.steps is not None)

    @property
    def warning(self) -> str:
        """What to say of it."""
        sizes = ax.count(ax.of_batch(self.shape, self.letters, None), "b")
        return (
            f"measure: the batch of shape {self.shape} is read as axes={self.letters!r}, {sizes} samples, but the "
            f"model {self.doubt}. What is told per sample and per step may be wrong. Pass axes='t b' or 'b t' if one "
            f"of them is time, axes={self.letters!r} if not."
        )

    def _check_channels(self, x: Tensor, axes: ax.Axes) -> None:
        labelled = len(axes) > 1 and any(label for label, _ in axes[1])
        volumes = self.letters == "t b" and x.dim() == 5 and _only(axes[0], "t")
        if labelled or volumes:
            raise MeasureError(
                f"measure: the batch of shape {self.shape} is read as axes={self.letters!r}, and a convolution over "
                f"{x.dim() - 2} axes takes its second axis for channels. Pass axes='b' if the first axis is samples."
            )

    def _takes_apart(self, call: Call, axes: ax.Axes) -> bool:
        """True where an axis of samples falls into entries, all at once or one after the other."""
        at, place = _axis_and_place(call)
        if not axes or not _only(axes[at % len(axes)], "b"):
            return False
        if len(call.out) > 1:
            return call.name == "unbind" or all(x.shape[at] == 1 for x in call.out)
        if call.name == "select" or call.out[0].shape[at] == 1:
            self._seen.add(place % ax.size_of(axes[at % len(axes)]))
        return len(self._seen) > 1


def _axis_and_place(call: Call) -> tuple[int, int]:
    """The axis that is taken apart, and the first entry that is taken."""
    plain = [arg for arg in call.args[1:] if isinstance(arg, int)]
    if call.name in ("unbind", "select", "slice", "narrow"):
        return (*plain, 0, 0)[0], (*plain, 0, 0)[1]
    last: Any = call.args[2] if len(call.args) > 2 else 0
    return int(last), 0


def _sums_up(call: Call, axes: ax.Axes) -> bool:
    dims = call.args[1] if len(call.args) > 1 else None
    dims = [dims] if isinstance(dims, int) else dims
    if not isinstance(dims, list | tuple) or not dims or len(dims) == len(axes):
        return False
    return any(_only(axes[i % len(axes)], "b") for i in dims)


def _contracts(note: Note, at: int) -> bool:
    return note.role == Role.DATA and len(note.axes) >= -at and any(label == "b" for label, _ in note.axes[at])


def _only(axis: ax.Axis, label: str) -> bool:
    return len(axis) == 1 and axis[0][0] == label
