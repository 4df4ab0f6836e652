"""Straight-through quantisers: ``x + (q - x).detach()`` is ``q`` but for the rounding of two sums."""

from __future__ import annotations

import torch
from torch import Tensor

from snntorch_smixer.cost.counting.frames import unseen
from snntorch_smixer.cost.counting.notes import Call, Note, Role

_ULPS = 4


def see_straight_through(call: Call, note: Note) -> None:
    """Follow ``q - x``; where ``x`` is added again the sum is put at ``q`` and known as what ``q`` is."""
    if call.name in ("detach", "alias"):
        note.difference = call.notes[0].difference
    elif len(call.tensors) == 2 and call.out[0].is_floating_point() and len(call.args) == 2:
        left, right = call.notes
        if call.name == "sub" and left.role == right.role == Role.DATA:
            note.difference = (call.tensors[0], left, right)
        elif call.name == "add":
            _closes(call, note, left, right)
            _closes(call, note, right, left)


def _closes(call: Call, note: Note, x: Note, rest: Note) -> None:
    if rest.difference is not None and rest.difference[2].values is x.values:
        _snap(call, note, *rest.difference[:2])


def _snap(call: Call, note: Note, q: Tensor, known: Note) -> None:
    """Replace a sum that is ``q`` within rounding by ``q``; any other sum stays as it is."""
    out = call.out[0]
    if q.shape != out.shape or q.dtype != out.dtype:
        return
    with unseen():
        size = torch.maximum(q.abs(), torch.stack([x.abs().expand_as(q) for x in call.tensors]).amax(0))
        bound = (_ULPS * torch.finfo(q.dtype).eps * size).clamp(max=1e-3 * abs(known.unit))
        if not bool(((out - q).abs() <= bound).all()):
            return
        out.copy_(q)
    note.unit, note.fired, note.values, note.rounded = known.unit, known.fired, known.values, known.rounded
