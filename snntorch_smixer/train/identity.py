"""What a run trains: the model, its pruning and the data, in plain values that a later run is compared with."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from snntorch_smixer.models.network import Network
from snntorch_smixer.models.saving import Blueprint
from snntorch_smixer.pruning.pruner import DSTSP
from snntorch_smixer.train.data import Data
from snntorch_smixer.train.files import digest_tensors

Difference = tuple[str, Any, Any]
"""A dotted key, what was recorded, and what it is now."""

_NOT_RESULTS = ("train", "test", "workers")
"""Fields of a data set that its counts and fingerprint stand for, or that change no result."""

_LONGEST = 80


def describe(net: nn.Module, data: Data) -> dict[str, Any]:
    """Model, configuration, pruning and data of a run, as JSON holds them.

    A network of this package is described by its configuration, any other by what ``print(net)`` shows; both by name,
    shape and kind of each tensor. The content of the data is described by a fingerprint that is cheap to take.

    Args:
        net: as it is to be trained, wrapped or not.
        data: its test inputs may be opened once.
    """
    found = {"model": type(net).__name__, **_settings(net), "tensors": _tensors(net), "data": _data(data)}
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def differences(before: Any, now: Any, key: str = "") -> Iterator[Difference]:
    """Every place where two descriptions differ; names that one of them lacks are not compared."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in {**before, **now}:
            yield from differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from differences(old, new, f"{key}[{index}]")
    elif before != now and not (key in ("name", "data.name") and "" in (before, now)):
        yield key, before, now


def shown(value: Any) -> str:
    """A value for a message, of at most 80 characters."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _settings(net: nn.Module) -> dict[str, Any]:
    if isinstance(net, Network):
        plan = Blueprint.of(net)
        wrapped = None if plan.wrapped is None else dataclasses.asdict(plan.wrapped)
        return {"name": net.card.name if net.card else "", "config": plan.config.to_dict(), "pruning": wrapped}
    pruner = getattr(net, "dstsp", None)
    settings = dataclasses.asdict(pruner.settings) if isinstance(pruner, DSTSP) else None
    # Addresses of objects differ from process to process.
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr(net)).splitlines()
    return {"pruning": settings, "layers": layers, "constants": _constants(net)}


def _constants(net: nn.Module) -> dict[str, Any]:
    """Single values that layers keep as buffers, as snnTorch's neurons do with beta and threshold."""
    owners = [
        (path, part) for path, part in net.named_modules() if not isinstance(part, nn.modules.batchnorm._BatchNorm)
    ]
    found = ((path, name, value) for path, part in owners for name, value in part.named_buffers(recurse=False))
    return {f"{path}.{name}": value.item() for path, name, value in found if value.numel() == 1 and not value.is_meta}


def _tensors(net: nn.Module) -> dict[str, str]:
    trained = {name for name, parameter in net.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    return {
        name: f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}{' trained' if name in trained else ''}"
        for name, value in net.state_dict().items()
        if isinstance(value, Tensor)
    }


def _data(data: Data) -> dict[str, Any]:
    keys = ("name", "classes", "shape", "mean", "std", "train_count", "test_count")
    found = {key: getattr(data, key, "") for key in keys}
    # Further settings of a dataclass, such as the size and the crop of pictures.
    settings = getattr(data, "__dataclass_fields__", {})
    found |= {key: getattr(data, key) for key in settings if key not in _NOT_RESULTS}
    fingerprint = getattr(data, "fingerprint", None)
    return {**found, "fingerprint": fingerprint() if callable(fingerprint) else _first_inputs(data)}


def _first_inputs(data: Data) -> str:
    """Of data that have no fingerprint of their own: the first batch of the test inputs."""
    first: Iterable[Tensor] = next(iter(data.test_batches()), ())
    return digest_tensors(*first)
