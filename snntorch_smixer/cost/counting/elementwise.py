"""Counts of operations that are no products: elementwise arithmetic, sums, pooling, comparisons, normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from snntorch_smixer.cost.counting import rules
from snntorch_smixer.cost.counting.notes import Call, Note, Role
from snntorch_smixer.cost.counting.values import Scratch, nonzero

Verdict = Mapping[str, int] | str | None
"""Counts, the rule by which the call is free, or None where nothing covers it."""


def verdict(call: Call, scratch: Scratch) -> Verdict:
    """What one call costs outside neurons."""
    name, notes, out = call.name, call.notes, call.out
    free = _free(name, notes, out)
    if free is not None:
        return free
    if name in rules.SCALING:
        return _scaling(call, scratch)
    if name in rules.ADDING and _is_bias(notes):
        return rules.BIAS
    if name in rules.NORMS:
        folds = notes[0].linear and (name.endswith("no_training") or name.startswith(("cudnn", "miopen")))
        return {"batch_norm": out[0].numel()} if folds else {"muls": out[0].numel(), "adds": out[0].numel()}
    if not out or not call.tensors:
        return None
    wrote, read = out[0].numel(), call.tensors[0].numel()
    for names, counts, size in _BY_SIZE:
        if name in names:
            return dict.fromkeys(counts, {"wrote": wrote, "read": read, "larger": max(wrote, read)}[size])
    if name in rules.POOLING:
        return {"compares": read - wrote if name.startswith("adaptive") else _window(call.args) * wrote - wrote}
    if name in rules.SORTING:
        length = max(2, call.tensors[0].shape[-1] if call.tensors[0].dim() else 2)
        return {"compares": read * math.ceil(math.log2(length))}
    return None


_BY_SIZE: tuple[tuple[frozenset[str], tuple[str, ...], str], ...] = (
    (rules.ADDING, ("adds",), "wrote"),
    (rules.SUMMING | rules.AVERAGING, ("adds",), "read"),
    (rules.COMPARING | rules.EQUALITY | rules.THRESHOLD, ("compares",), "larger"),
    (rules.SPECIAL, ("special",), "larger"),
    (rules.MULTIPLY_ADDS, ("muls", "adds"), "wrote"),
    (rules.DIVIDE_ADDS, ("special", "adds"), "wrote"),
)


def _free(name: str, notes: Sequence[Note], out: Sequence[Tensor]) -> str | None:
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
    whole = bool(out) and not (out[0].is_floating_point() or out[0].is_complex())
    if whole and name in rules.ADDING | rules.SCALING | rules.SUMMING | rules.COMPARING | rules.EQUALITY:
        return rules.LOGIC
    return None


def _scaling(call: Call, scratch: Scratch) -> Verdict:
    name, out = call.name, call.out[0]
    data = [i for i, note in enumerate(call.notes) if note.role == Role.DATA]
    if len(data) > 1 and name.startswith("mul"):
        first, second = (call.notes[i] for i in data[:2])
        if _resets(first, second) or _resets(second, first):
            return rules.NEURON
        events = [int(nonzero(call.tensors[i].expand(out.shape), scratch).sum(dtype=_wide(out))) for i in data]
        return {"gates": sum(events)}
    if len(data) > 1 or (name not in ("mul", "multiply", "neg") and data == [1]):
        return {"special": out.numel()}
    if len(call.tensors) == 1 or all(t.numel() == 1 for i, t in enumerate(call.tensors) if i not in data):
        return rules.FACTOR
    return {"muls": out.numel()}


def _is_bias(notes: Sequence[Note]) -> bool:
    """True for a parameter added to the result of a linear map."""
    if len(notes) != 2 or {note.role for note in notes} != {Role.DATA, Role.WEIGHT}:
        return False
    return max(notes, key=lambda note: note.role).linear


def _resets(spikes: Note, membrane: Note) -> bool:
    """True for a membrane times a function of its own spikes, as in a hard reset."""
    return spikes.compared is not None and spikes.compared is (membrane.base or membrane.values)


def _wide(out: Tensor) -> torch.dtype:
    return torch.float64 if out.numel() > 2**24 else torch.float32


def _window(args: Sequence[Any]) -> int:
    """Entries of a pooling window; 2 where the call does not say (adaptive pooling)."""
    kernel = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else [2]
    return math.prod(kernel)
