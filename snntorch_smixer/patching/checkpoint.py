"""State dicts of the unwrapped model and of the wrapped one, converted into each other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.patching.fused import Slice, part_names
from snntorch_smixer.patching.standins import InPlaceOf


def to_wrapped(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of the unwrapped model, for the wrapped ``model``: load it with ``load_state_dict``.

    Q and K are left out, a fused projection is cut down to V, and every ``W_M`` stays as it is in ``model``: fit it
    afterwards with `fit`, or fine-tune.

    Args:
        state: keys and shapes of the model before `wrap`.
        model: wrapped.

    Raises:
        FamilyError: a key of ``model`` that is no ``W_M`` has nothing in ``state``; the first few are named.
    """
    mine = model.state_dict()
    found = {name: state[name] for name in mine if name in state and state[name].shape == mine[name].shape}
    for path, stand_in in _stand_ins(model):
        for part in stand_in.removed.parts:
            if isinstance(part, Slice):
                for new, old in part_names(part, stand_in, path).items():
                    if old in state:
                        found[new] = _cut(state[old], mine[new], part)
    w_m = {name: tensor for name, tensor in mine.items() if name.endswith("w_m.weight")}
    absent = [name for name in mine if name not in found and name not in w_m]
    if absent:
        raise FamilyError(
            f"to_wrapped: {len(absent)} keys of this {type(model).__name__} are not in the checkpoint, {absent[:3]}. "
            "Pass the state dict of the same model before it was wrapped."
        )
    return {name: found.get(name, tensor) for name, tensor in mine.items()}


def to_unwrapped(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of the wrapped ``model``, for the model before `wrap`: Q and K are those that wait for `unwrap`.

    Args:
        state: keys and shapes of ``model.state_dict()``.
        model: wrapped; it is not changed.
    """
    out = {name: tensor for name, tensor in state.items() if not name.endswith("w_m.weight")}
    for path, stand_in in _stand_ins(model):
        original = {f"{path}.{name}": tensor for name, tensor in stand_in.removed.module.state_dict().items()}
        for part in stand_in.removed.parts:
            if isinstance(part, Slice):
                for new, old in part_names(part, stand_in, path).items():
                    original[old] = _put(original[old], out.pop(new), part)
        for name, tensor in original.items():
            out.setdefault(name, tensor)
    return out


def _stand_ins(model: nn.Module) -> list[tuple[str, InPlaceOf]]:
    found = [(path, module) for path, module in model.named_modules() if isinstance(module, InPlaceOf)]
    if not found:
        raise FamilyError(
            f"checkpoint: no attention of this {type(model).__name__} was swapped; its keys are the same."
        )
    return found


def _cut(whole: Tensor, mine: Tensor, part: Slice) -> Tensor:
    return whole if whole.shape == mine.shape else whole[part.rows.to(whole.device)]


def _put(whole: Tensor, mine: Tensor, part: Slice) -> Tensor:
    if whole.shape == mine.shape:
        return mine
    whole = whole.clone()
    with torch.no_grad():
        whole[part.rows.to(whole.device)] = mine.to(whole)
    return whole
