"""Which operations of a model an asynchronous chip can run event by event, must fold, or cannot run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode

from snntorch_smixer.cost import measure
from snntorch_smixer.cost.count import ops
from snntorch_smixer.cost.count.neurons import is_neuron
from snntorch_smixer.cost.count.values import Role, read
from snntorch_smixer.cost.records import Record, Records

REASONS = {
    "product": "multiplies two activations: the weight of an event is not known before the event arrives",
    "max_pool": "the maximum depends on which events have arrived; a later one cannot take an earlier one back",
    "softmax": "every output needs all inputs before it can be computed",
    "norm": "mean and variance are of all the inputs of a sample, so it waits for all of them",
    "sort": "ranks all tokens or steps, so it waits for the last event of the window",
    "special": "divides by or takes a nonlinear function of activations outside a neuron",
    "analog_input": "multiplies real-valued inputs; encode them as spikes outside the chip",
    "membrane": "reads real values that no neuron has turned into spikes, as a mean over membranes does",
}
"""Why an asynchronous chip cannot run it, by the kind of a hit."""

_FOLDS = {
    "batch_norm": "scale and shift fold into weights and bias of the linear layer before it",
    "linear": "linear layers in a row without a neuron in between are one linear layer",
}


def _of(kind: ops.Kind) -> frozenset[str]:
    return frozenset(name for name, op in ops.OPS.items() if op.kind is kind)


_SHAPES: dict[str, frozenset[str]] = {
    "max_pool": _of(ops.Kind.POOLING) | {"max", "amax"},
    "softmax": frozenset({"softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax"}),
    "norm": frozenset(
        {"layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "rms_norm", "instance_norm"}
    ),
    "sort": _of(ops.Kind.SORTING),
}
_PRICED = {"softmax", "norm"}  # their inner operations are the "special" counts of the same module


@dataclass(frozen=True)
class Hit:
    """One operation that an asynchronous chip cannot run.

    Attributes:
        kind: a key of `REASONS`.
        module: dotted path of the module that runs it; "" is the model itself.
        reason: why not.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import events, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist").eval(), torch.rand(2, 1, 28, 28)
        >>> events.audit(net, x).hits[0].module
        'stem.units.0.linear'
    """

    kind: str
    module: str
    reason: str


@dataclass(frozen=True)
class Operation:
    """One operation and whether an asynchronous chip runs it.

    Attributes:
        module: dotted path of the module that runs it.
        op: what it is: a name of `cost.Record`, or the kind of a hit.
        verdict: "runs", "folds", "cannot" or "unknown".
        reason: why; empty where it runs.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import events, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist").eval(), torch.rand(2, 1, 28, 28)
        >>> events.audit(net, x).operations[1].verdict
        'folds'
    """

    module: str
    op: str
    verdict: str
    reason: str = ""


@dataclass(frozen=True)
class Audit:
    """What `audit` found. ``print`` shows a table.

    Attributes:
        model: class name of the model.
        operations: all of them, in the order of the run, those that cannot run behind.
        hits: those that an asynchronous chip cannot run.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import events, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist").eval(), torch.rand(2, 1, 28, 28)
        >>> events.audit(net, x).event_driven
        False
    """

    model: str
    operations: tuple[Operation, ...]
    hits: tuple[Hit, ...]

    @property
    def event_driven(self) -> bool:
        """True where everything runs or folds, and nothing is unknown."""
        return all(entry.verdict in ("runs", "folds") for entry in self.operations)

    def __str__(self) -> str:
        rows = [(e.module or "(model)", e.op, e.verdict, e.reason) for e in self.operations if e.verdict != "runs"]
        runs = sum(entry.verdict == "runs" for entry in self.operations)
        head = f"{self.model}: {runs} operations run event by event, {len(self.hits)} cannot"
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:3]
        lines = ["  ".join([*map(str.ljust, row, widths), row[3]]) for row in rows]
        return "\n".join([head, *lines])


@dataclass
class _Watch(TorchDispatchMode):
    """Sees the operations that counts alone do not tell apart, outside neurons."""

    model: nn.Module
    found: dict[tuple[str, str], None] = field(default_factory=dict)
    running: list[nn.Module] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.names = {module: name for name, module in self.model.named_modules()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = ops.name_of(func)
        kind = next((kind for kind, names in _SHAPES.items() if name in names), None)
        if kind is not None and not any(map(is_neuron, self.running)) and _is_data(args):
            self.found[kind, self._place()] = None
        return func(*args, **(kwargs or {}))

    def _place(self) -> str:
        return next((self.names[module] for module in reversed(self.running) if module in self.names), "")

    def run(self, *inputs: Tensor) -> Any:
        """The model's output, watched."""
        with ExitStack() as stack:
            handles = (
                hooks.register_module_forward_pre_hook(lambda module, _: self.running.append(module)),
                hooks.register_module_forward_hook(lambda module, *_: self._left(module), always_call=True),
            )
            for handle in handles:
                stack.callback(handle.remove)
            with self:
                return self.model(*inputs)

    def _left(self, module: nn.Module) -> None:
        if self.running and self.running[-1] is module:
            self.running.pop()


def _is_data(args: Sequence[Any]) -> bool:
    """True where the first argument is a tensor that depends on the input."""
    note = read(args[0]) if args and isinstance(args[0], Tensor) else None
    return note is not None and note.role == Role.DATA


def audit(model: nn.Module, example: Tensor, *, axes: str | None = None, steps: int | None = None) -> Audit:
    """Which operations an asynchronous chip can run, must fold, or cannot run.

    It can run what adds a weight that is known before the event arrives: linear layers, convolutions, token mixers,
    sums of spikes, and spiking neurons. The model runs once as `cost.measure` runs it: in evaluation mode, from rest;
    modes, buffers and states are afterwards what they were. A product that the example never reaches is not seen.

    Args:
        model: any model of torch, snnTorch or SpikingJelly, wrapped or not.
        example: an input of the model.
        axes: leading axes of the example, as for `cost.measure`.
        steps: T, as for `cost.measure`.

    Raises:
        MeasureError: as `cost.measure`.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import events, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist"), torch.rand(2, 1, 28, 28)
        >>> [hit.kind for hit in events.audit(net, x).hits if hit.kind == "product"]
        []
    """
    watch = _Watch(model)
    run: Callable[..., Any] = watch.run
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="measure: the batch of shape")  # verdicts do not depend on the axes
        records = measure(model, example, run=run, axes=axes, steps=steps)
    operations = [*_of_records(records, watch), *_of_watch(watch)]
    hits = tuple(Hit(entry.op, entry.module, entry.reason) for entry in operations if entry.verdict == "cannot")
    return Audit(type(model).__name__, tuple(operations), hits)


def _of_records(records: Records, watch: _Watch) -> list[Operation]:
    """Verdicts on what was counted."""
    priced = {module for kind, module in watch.found if kind in _PRICED}
    folded = {i for folding in records.foldings for i in folding.members[1:]}
    out = [_verdict(record, i in folded, record.layer in priced) for i, record in enumerate(records.layers)]
    unknown = [Operation(e.layer, e.op, "unknown", "no rule says what it costs") for e in records.uncounted]
    return [entry for entry in out if entry is not None] + unknown


def _verdict(record: Record, folds: bool, priced: bool) -> Operation | None:
    """Whether one record can run; None where it is only the inside of an operation that is told by itself."""
    kind = None
    if record.op.startswith("act_act") or record["gates"]:
        kind = "product"
    elif record["special"] and record.op != "neuron":
        if priced:
            return None
        kind = "special"
    elif folds:
        return Operation(record.layer, record.op, "folds", _FOLDS["linear"])
    elif "analog" in record.operand:
        kind = "membrane" if record.sources else "analog_input"
    elif record["batch_norm"]:
        return Operation(record.layer, "batch_norm", "folds", _FOLDS["batch_norm"])
    if kind is None:
        return Operation(record.layer, record.op, "runs")
    return Operation(record.layer, kind, "cannot", REASONS[kind])


def _of_watch(watch: _Watch) -> list[Operation]:
    return [Operation(module, kind, "cannot", REASONS[kind]) for kind, module in watch.found]
