"""State dicts of the unwrapped model and of the wrapped one, converted into each other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.patching.fused import Slice, part_names
from snntorch_smixer.patching.standins import InPlaceOf
from snntorch_smixer.patching.swap import Matrices


def to_wrapped(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of the unwrapped model, for the wrapped ``model``: load it with ``load_state_dict``.

    Q and K are left out, a fused projection is cut down to V, and every ``W_M`` stays as it is in ``model``: fit it
    afterwards with `fit`, or fine-tune. Matrices that the model had already become ``W_M``. Where nothing was swapped,
    it is the same state dict.

    Args:
        state: keys and shapes of the model before `wrap`.
        model: wrapped; it is not changed.

    Raises:
        FamilyError: something in ``model`` that is no ``W_M`` has nothing of its shape in ``state``; the first are
            named.

    Examples:
        >>> import torch
        >>> from spikingjelly.activation_based.model.spikformer import Spikformer
        >>> from snntorch_smixer import dstsp
        >>> sizes = {"img_size_h": 16, "img_size_w": 16, "patch_size": 4, "embed_dims": 32, "num_heads": 2, "depths": 1}
        >>> net = Spikformer(T=2, **sizes)
        >>> plain = net.state_dict()
        >>> net = dstsp.wrap(net, ps=0, t=None, example_input=torch.rand(1, 3, 16, 16))
        >>> state = dstsp.to_wrapped(plain, net)
        >>> sorted(state) == sorted(net.state_dict())
        True
    """
    mine, fresh = model.state_dict(), set()
    found = {name: state[name] for name in mine if name in state and state[name].shape == mine[name].shape}
    for path, stand_in in _stand_ins(model):
        w_m = _w_m(path, mine)
        fresh.add(w_m)
        found |= {new: state[old] for new, old in _shared_names(path, stand_in).items() if old in state}
        for part in stand_in.removed.parts:
            if isinstance(part, Matrices):
                found[w_m] = _stacked(state, path, part, mine[w_m])
            elif isinstance(part, Slice):
                names = part_names(part, stand_in, path)
                found |= {new: _cut(state[old], mine[new], part) for new, old in names.items() if old in state}
    absent = [name for name in mine if name not in found and name not in fresh]
    if absent:
        raise FamilyError(
            f"to_wrapped: {len(absent)} entries of this {type(model).__name__} are not in the checkpoint, "
            f"{absent[:3]}. Pass the state dict of the same model before it was wrapped."
        )
    return {name: found.get(name, tensor) for name, tensor in mine.items()}


def to_unwrapped(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of the wrapped ``model``, for the model before `wrap`: what `unwrap` would leave.

    Q and K are those that wait in ``model``. Where nothing was swapped, it is the same state dict.

    Args:
        state: keys and shapes of ``model.state_dict()``.
        model: wrapped; it is not changed.

    Raises:
        FamilyError: ``state`` lacks something of ``model``; the first are named.

    Examples:
        >>> import torch
        >>> from spikingjelly.activation_based.model.spikformer import Spikformer
        >>> from snntorch_smixer import dstsp
        >>> sizes = {"img_size_h": 16, "img_size_w": 16, "patch_size": 4, "embed_dims": 32, "num_heads": 2, "depths": 1}
        >>> net = Spikformer(T=2, **sizes)
        >>> plain = net.state_dict()
        >>> net = dstsp.wrap(net, ps=0, t=None, example_input=torch.rand(1, 3, 16, 16))
        >>> state = dstsp.to_unwrapped(net.state_dict(), net)
        >>> sorted(state) == sorted(plain)
        True
    """
    absent = [name for name in model.state_dict() if name not in state]
    if absent:
        raise FamilyError(
            f"to_unwrapped: {len(absent)} entries of this wrapped {type(model).__name__} are not in the checkpoint, "
            f"{absent[:3]}. Pass the state dict of a model that was wrapped alike."
        )
    out = dict(state)
    for path, stand_in in _stand_ins(model):
        out = {**_original(out, path, stand_in), **out}
    return out


def _original(out: dict[str, Tensor], path: str, stand_in: InPlaceOf) -> dict[str, Tensor]:
    """State of a removed module with what its parts have learnt; their keys leave ``out``."""
    w_m = out.pop(_w_m(path, out))
    original = {f"{path}.{name}": tensor for name, tensor in stand_in.removed.module.state_dict().items()}
    original |= {old: out.pop(new) for new, old in _shared_names(path, stand_in).items()}
    for part in stand_in.removed.parts:
        if isinstance(part, Matrices):
            matrices = w_m.view(len(part.linears), -1, w_m.shape[1])
            original |= {f"{path}.linear_mix.{i}.weight": one for i, one in enumerate(matrices)}
        elif isinstance(part, Slice):
            names = part_names(part, stand_in, path)
            original |= {old: _put(original[old], out.pop(new), part) for new, old in names.items()}
    return original


def _stand_ins(model: nn.Module) -> list[tuple[str, InPlaceOf]]:
    return [(path, m) for path, m in model.named_modules() if isinstance(m, InPlaceOf) and m.has_w_m]


def _shared_names(path: str, stand_in: InPlaceOf) -> dict[str, str]:
    """Keys of what a stand-in shares with the original, to the keys that it had there."""
    before = {id(t): name for name, t in stand_in.removed.module.state_dict(keep_vars=True).items()}
    mine = stand_in.state_dict(keep_vars=True)
    return {f"{path}.{name}": f"{path}.{before[id(t)]}" for name, t in mine.items() if id(t) in before}


def _w_m(path: str, state: Mapping[str, Tensor]) -> str:
    names = (f"{path}.mixer.w_m.weight", f"{path}.w_m.weight")
    found = next((name for name in names if name in state), None)
    if found is None:
        raise FamilyError(
            f"state dict: w_m of {path} is not there as {names[0]}: an adapter or a parametrization holds it. Merge or "
            "remove that first."
        )
    return found


def _stacked(state: Mapping[str, Tensor], path: str, part: Matrices, like: Tensor) -> Tensor:
    names = [f"{path}.linear_mix.{i}.weight" for i in range(len(part.linears))]
    if not all(name in state for name in names):
        raise FamilyError(
            f"to_wrapped: {names[0]} is not in the checkpoint. Pass that of the model before it was wrapped."
        )
    return torch.stack([state[name] for name in names]).view_as(like)


def _cut(whole: Tensor, mine: Tensor, part: Slice) -> Tensor:
    return whole if whole.shape == mine.shape else whole[part.rows.to(whole.device)]


def _put(whole: Tensor, mine: Tensor, part: Slice) -> Tensor:
    if whole.shape == mine.shape:
        return mine
    whole = whole.clone()
    with torch.no_grad():
        whole[part.rows.to(whole.device)] = mine.to(whole)
    return whole
