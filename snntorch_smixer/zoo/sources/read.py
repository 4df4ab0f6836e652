"""Reading a configuration off the state dict of a published model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import Tensor, nn

from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.models.network import NetworkConfig

NUM_HEADS = "num_heads"
"""Entry of a state dict that tells the number of heads, where the shapes do not."""

Config = TypeVar("Config", bound=NetworkConfig)


def shape(where: str, state: Mapping[str, Tensor], key: str, axes: int) -> tuple[int, ...]:
    """Shape of a tensor that has at least ``axes`` axes.

    Raises:
        CardError: there is no such tensor.
    """
    found = tuple(state[key].shape) if key in state else None
    if found is None or len(found) < axes:
        raise CardError(
            f"{where}: expected a tensor {key} with {axes} axes or more, got {found}. Pass the state dict of the "
            "published model itself, without a prefix before its names."
        )
    return found


def count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    """Blocks of a list, from names such as "block.0.attn.q_bn.weight"."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def known_heads(
    where: str, state: Mapping[str, Tensor], variant: str, dim: int, published: Mapping[tuple[str, int], int]
) -> int:
    """The entry "num_heads" of ``state``, or the heads that are published for these widths.

    Raises:
        CardError: neither is there.
    """
    if NUM_HEADS in state:
        return int(state[NUM_HEADS])
    if (variant, dim) not in published:
        known = ", ".join(f"{v} dim={d}" for v, d in published)
        raise CardError(
            f"{where}: weights do not tell the number of heads, and none is published for {variant} dim={dim} (only "
            f"for {known}). Pass heads, on the command line --heads; or state[{NUM_HEADS!r}] = torch.tensor(h)."
        )
    return published[variant, dim]


def checked(where: str, make: Callable[[], Config]) -> Config:
    """What ``make`` gives; a setting that it refuses is a `CardError`, since it came from the weights."""
    try:
        return make()
    except SettingError as error:
        raise CardError(f"{where}: these weights are of no network of this kind: {error}") from error


def fitting(where: str, state: Mapping[str, Tensor], net: nn.Module, dropped: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of ``state`` that ``net`` has, checked by name and shape.

    Raises:
        CardError: a tensor is missing, of another shape, or neither known nor of the ``dropped`` ones.
    """
    wanted = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    kept = {k: v for k, v in state.items() if k != NUM_HEADS and not any(fnmatchcase(k, p) for p in dropped)}
    problems = {
        "missing": [key for key in wanted if key not in kept],
        "unknown": [key for key in kept if key not in wanted],
        "of another shape": [
            f"{key} {tuple(kept[key].shape)}, expected {size}"
            for key, size in wanted.items()
            if key in kept and tuple(kept[key].shape) != size
        ],
    }
    found = [f"{len(keys)} {what}: {', '.join(keys[:3])}" for what, keys in problems.items() if keys]
    if found:
        raise CardError(
            f"{where}: the tensors are not those of {type(net).__name__}; {'; '.join(found)}. Pass the state dict of "
            "the published model."
        )
    return kept
