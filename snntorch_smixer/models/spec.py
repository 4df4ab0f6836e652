"""What a network is built from and known by: configurations, the registry of architectures, the card of the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from snntorch_smixer.cards.card import Card
from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.shapes import square
from snntorch_smixer.tables import check_keys


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Everything that defines a network; the subclass of an architecture adds its own fields and validates all.

    Attributes:
        img_size: (H, W) of the input in pixels; one number is taken for both.
        in_channels: 1, 2 (events) or 3.
        num_classes: K; 0 for pooled features in place of logits.
        T: time steps; 1 where the architecture has no time axis.
    """

    architecture: ClassVar[str] = ""
    """Name in a model's ``config.json``."""

    adjustable: ClassVar[tuple[str, ...]] = ("T",)
    """Fields that trained weights do not depend on: no tensor has another shape or another meaning with them."""

    img_size: tuple[int, int] = (32, 32)
    in_channels: int = 3
    num_classes: int = 10
    T: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "img_size", square(self.img_size))

    @property
    def takes_frames(self) -> bool:
        """True where the input is made up as event frames: two channels are the two polarities, one frame a step."""
        return self.in_channels == 2

    def input_shape(self, batch: int) -> tuple[int, ...]:
        """Images ``(B, C, H, W)``, or event frames ``(T, B, C, H, W)`` where it `takes_frames`."""
        shape = (batch, self.in_channels, *self.img_size)
        return (self.T, *shape) if self.takes_frames else shape

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and nested tables, without the Nones: what a JSON or TOML file holds."""
        raw = dataclasses.asdict(self, dict_factory=lambda items: {k: v for k, v in items if v is not None})
        return {k: list(v) if isinstance(v, tuple) else v for k, v in raw.items()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            SettingError: an unknown key, with close matches, or a value that the configuration refuses.
        """
        check_keys(cls.__name__, cls, raw)
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        if raw.get("prune") is not None:
            values["prune"] = DSTSPConfig.from_dict(raw["prune"])
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class Described:
    """A card, and the weights that it came with.

    Attributes:
        card: None where nobody wrote one.
        weights: SHA-256 of their file; None for random ones, "" for some that nobody has hashed.
    """

    card: Card | None
    weights: str | None


class Configured(nn.Module):
    """A network that a configuration builds, with the card of its weights: all that saving asks of one.

    Attributes:
        config: what it was built from.
        card: of the weights that were loaded, or None.
        described: the card as this package set it, with the weights that it is about; saving compares them with those
            of then.
    """

    config: NetworkConfig
    card: Card | None = None
    described: Described | None = None

    def live_config(self) -> NetworkConfig:
        """The configuration that rebuilds the network as it is now."""
        return self.config

    def more_files(self) -> dict[str, bytes]:
        """Further files of its model folder, by name; nothing is loaded from them."""
        return {}

    def describe(self, card: Card | None, *, weights: str | None) -> None:
        """Set ``card``, and remember the weights that it is about; see `Described`."""
        self.card, self.described = card, Described(card, weights)


C = TypeVar("C", bound=NetworkConfig)
N = TypeVar("N", bound=Configured)

ARCHITECTURES: dict[str, tuple[type[NetworkConfig], Callable[[Any], Configured]]] = {}
"""Configuration and network by architecture, as the networks register themselves."""

CONFIGS: dict[str, NetworkConfig] = {}
"""Named configurations of every architecture."""


def architecture(config: type[NetworkConfig]) -> Callable[[type[N]], type[N]]:
    """Register a network by the name of the architecture that its configuration has; a decorator.

    Raises:
        SettingError: the name is taken.
    """

    def register(network: type[N]) -> type[N]:
        if config.architecture in ARCHITECTURES:
            raise SettingError(
                f"architecture: {config.architecture!r} is taken by {ARCHITECTURES[config.architecture][0].__name__}, "
                f"expected a new name for {config.__name__}. Choose another one."
            )
        ARCHITECTURES[config.architecture] = config, network
        return network

    return register


def named(configs: Mapping[str, C]) -> Mapping[str, C]:
    """Add named configurations of one architecture to `CONFIGS`, and return them."""
    CONFIGS.update(configs)
    return configs


def config_of(architecture: object) -> type[NetworkConfig]:
    """Class of the configuration of an architecture.

    Raises:
        CardError: unknown architecture.
    """
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise CardError(
            f"architecture {architecture!r} is unknown. Expected one of {', '.join(sorted(ARCHITECTURES))}. "
            "A later release may know it."
        )
    return ARCHITECTURES[architecture][0]


def build(config: NetworkConfig) -> Configured:
    """The network of a configuration, randomly initialised, in training mode."""
    return ARCHITECTURES[config.architecture][1](config)


def outline(config: NetworkConfig) -> Configured:
    """What `build` would give, without memory for the weights: on the device "meta" they have shapes and no values."""
    with _WithoutMemory():
        return build(config)


def shapes_of(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state dict that `build` would give, without memory for the weights."""
    return {name: tuple(value.shape) for name, value in outline(config).state_dict().items()}


def parameter_shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters that `build` would give, without memory for them."""
    return {name: tuple(value.shape) for name, value in outline(config).named_parameters()}


class _WithoutMemory(TorchFunctionMode):
    """Makes uninitialised, zero and one tensors without memory; snnTorch reads its small constants while it builds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones):
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)
