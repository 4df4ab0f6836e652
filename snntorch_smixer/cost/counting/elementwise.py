"""Counts of operations that are no products: elementwise arithmetic, sums, pooling, comparisons, normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snntorch_smixer.cost.counting import rules
from snntorch_smixer.cost.counting.notes import Call, Note, Role
from snntorch_smixer.cost.counting.values import Scratch, nonzero

Verdict = Mapping[str, int] | str | None
"""Counts, the rule by which the call is free, or None where nothing covers it."""


def verdict(call: Call, scratch: Scratch) -> Verdict:
    """What one call costs outside neurons."""
    name, notes = call.name, call.notes
    free = _free(call)
    if free is not None:
        return free
    if name in rules.SCALING:
        return _scaling(call, scratch)
    if name in rules.CONJUNCTION:
        return _gates(call, scratch)
    if name in rules.ADDING and _is_bias(notes):
        return rules.BIAS
    if name in rules.NORMS:
        folds = notes[0].linear and (name.endswith("no_training") or name.startswith(("cudnn", "miopen")))
        return dict.fromkeys(("batch_norm",) if folds else ("muls", "adds"), call.out[0].numel())
    return _by_size(call) if call.out and call.tensors else None


def fires(call: Call) -> bool:
    """True for a comparison of real values that depend on the input: what a threshold does."""
    return (
        call.name in rules.THRESHOLD | rules.ROUNDING
        and len(call.out) == 1
        and any(note.role == Role.DATA for note in call.notes)
        and call.tensors[0].is_floating_point()
    )


def masks(call: Call, i: int) -> bool:
    """True where tensor ``i`` of truth values selects among data: a mask, not yet numbers."""
    others = [n for j, n in enumerate(call.notes) if j != i and call.tensors[j].is_floating_point()]
    return call.name in ("mul", "where", "masked_fill") and any(n.role == Role.DATA for n in others)


def read_truth(truth: Note, *, only_masks: bool = False) -> None:
    """Truth values as numbers are a neuron's spikes once anything but a mask on what was compared reads them."""
    truth.read = truth.read or not only_masks
    truth.number = truth.read


def is_strange(call: Call) -> bool:
    """True for work on complex numbers or in sparse memory, for which there are no rules; moving it is free."""
    if call.name in rules.MOVING:
        return False
    odd = any(x.dtype.is_complex or x.layout is not torch.strided for x in (*call.tensors, *call.out))
    return odd and any(note.role == Role.DATA for note in call.notes)


def _by_size(call: Call) -> Verdict:
    """Operations that cost so much for each entry that they read or write."""
    name, wrote, read = call.name, call.out[0].numel(), call.tensors[0].numel()
    for names, counts, size in _BY_SIZE:
        if name in names:
            return dict.fromkeys(counts, {"wrote": wrote, "read": read, "larger": max(wrote, read)}[size])
    if name in rules.POOLING:
        return {"compares": read - wrote if name.startswith("adaptive") else _window(call.args) * wrote - wrote}
    if name in rules.SORTING:
        length = max(2, call.tensors[0].shape[-1] if call.tensors[0].dim() else 2)
        return {"compares": read * math.ceil(math.log2(length))}
    if name in rules.SEARCHING:
        bounds = call.args[1 if name == "bucketize" else 0]
        return {"compares": wrote * math.ceil(math.log2(bounds.shape[-1] + 1))}
    if name in rules.BAGS:
        sums = call.args[1].numel() * call.out[0].shape[-1]
        return {"adds": sums} | ({"muls": sums} if len(call.args) > 6 and call.args[6] is not None else {})
    if name in rules.ACCUMULATING:
        return _fold(call) if name == "col2im" else {"adds": call.tensors[0][_places(call.args[1])].numel()}
    return None


_BY_SIZE: tuple[tuple[frozenset[str], tuple[str, ...], str], ...] = (
    (rules.ADDING, ("adds",), "wrote"),
    (rules.SUMMING | rules.AVERAGING, ("adds",), "read"),
    (rules.COMPARING | rules.EQUALITY | rules.THRESHOLD | rules.ROUNDING | rules.DISJUNCTION, ("compares",), "larger"),
    (rules.SPECIAL, ("special",), "larger"),
    (rules.MULTIPLY_ADDS, ("muls", "adds"), "wrote"),
    (rules.DIVIDE_ADDS, ("special", "adds"), "wrote"),
)


def _free(call: Call) -> str | None:
    name, notes = call.name, call.notes
    if name in rules.MAKING:
        return rules.MAKES
    if name in rules.LOGICAL:
        return rules.LOGIC
    if all(note.role != Role.DATA for note in notes):
        return rules.CONSTANT
    if name == "_to_copy":
        return rules.CASTS
    if name in rules.MOVING:
        return rules.MOVES
    if name in rules.DROPPING:
        return rules.NOISE
    return rules.LOGIC if _is_logic(call) else None


_ON_INDICES = rules.ROUNDING | rules.ADDING | rules.SCALING | rules.SUMMING | rules.COMPARING | rules.EQUALITY
_OF_TRUTHS = rules.CONJUNCTION | rules.DISJUNCTION | {"mul"}


def _is_logic(call: Call) -> bool:
    """True for arithmetic on indices, and for logic unless two tensors of truth values both depend on the input."""
    gates = call.out and call.out[0].dtype == torch.bool and sum(note.role == Role.DATA for note in call.notes) > 1
    if call.name in _OF_TRUTHS and gates:
        return False
    whole = not any(x.is_floating_point() for x in (*call.tensors, *call.out[:1]))
    return call.name in rules.CONJUNCTION | rules.DISJUNCTION or (whole and call.name in _ON_INDICES)


def _scaling(call: Call, scratch: Scratch) -> Verdict:
    name, out = call.name, call.out[0]
    data = call.data
    if len(data) > 1 and name.startswith("mul"):
        first, second = (call.notes[i] for i in data[:2])
        if resets(first, second) or resets(second, first):
            return rules.NEURON
        return _gates(call, scratch)
    if len(data) > 1 or (name not in ("mul", "multiply", "neg") and data == [1]):
        return {"special": out.numel()}
    if len(call.tensors) == 1 or all(t.numel() == 1 for i, t in enumerate(call.tensors) if i not in data):
        return rules.FACTOR
    return {"muls": out.numel()}


def _gates(call: Call, scratch: Scratch) -> Mapping[str, int]:
    """A product of activations, entry by entry, of numbers or of truth values: the events of each."""
    out = call.out[0]
    events = [int(nonzero(call.tensors[i].expand(out.shape), scratch).sum(dtype=_wide(out))) for i in call.data]
    return {"gates": sum(events)}


def _fold(call: Call) -> Verdict:
    """Patches that are put back: a move, or where they overlap one addition for each entry that lands in the image."""
    x, (size, kernel, dilation, padding, stride) = call.tensors[0], call.args[1:6]
    patches = torch.ones(1, math.prod(kernel), x.shape[-1], device=x.device)
    hits = F.fold(patches, size, kernel, dilation, padding, stride)
    return {"adds": int(hits.sum()) * (x.numel() // patches.numel())} if hits.max() > 1 else rules.MOVES


def _places(indices: Sequence[Tensor | None]) -> tuple[Tensor | slice, ...]:
    return tuple(slice(None) if index is None else index for index in indices)


def _is_bias(notes: Sequence[Note]) -> bool:
    """True for a parameter added to the result of a linear map."""
    if len(notes) != 2 or {note.role for note in notes} != {Role.DATA, Role.WEIGHT}:
        return False
    return max(notes, key=lambda note: note.role).linear


def resets(spikes: Note, membrane: Note) -> bool:
    """True for a membrane times a function of its own spikes, as in a hard reset."""
    return spikes.compared is not None and spikes.compared is (membrane.base or membrane.values)


def _wide(out: Tensor) -> torch.dtype:
    return torch.float64 if out.numel() > 2**24 else torch.float32


def _window(args: Sequence[Any]) -> int:
    """Entries of a pooling window; 2 where the call does not say (adaptive pooling)."""
    kernel = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else [2]
    return math.prod(kernel)
