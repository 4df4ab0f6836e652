"""Every architecture that a model folder can hold, by the name in its ``config.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch.overrides import TorchFunctionMode

from snntorch_smixer.errors import CardError
from snntorch_smixer.models import config as smixer
from snntorch_smixer.models import qkformer, sdt_v3, spikformer
from snntorch_smixer.models.network import Network, NetworkConfig
from snntorch_smixer.models.smixer_net import SMixerNet

ARCHITECTURES: Mapping[str, tuple[type[NetworkConfig], type[Network]]] = {
    "smixer": (smixer.SMixerConfig, SMixerNet),
    "spikformer": (spikformer.SpikformerConfig, spikformer.Spikformer),
    "qkformer": (qkformer.QKFormerConfig, qkformer.QKFormer),
    "sdt-v3": (sdt_v3.SDTV3Config, sdt_v3.SDTV3),
}
"""Configuration and network by architecture."""

CONFIGS: Mapping[str, NetworkConfig] = {**smixer.CONFIGS, **spikformer.CONFIGS, **qkformer.CONFIGS, **sdt_v3.CONFIGS}
"""Named configurations of every architecture."""


def build(config: NetworkConfig) -> Network:
    """The network of a configuration, randomly initialised, in training mode."""
    # A network takes the configuration of its own architecture, which a table cannot say.
    return cast(type[SMixerNet], network_of(config))(cast(smixer.SMixerConfig, config))


def outline(config: NetworkConfig) -> Network:
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


def network_of(config: NetworkConfig) -> type[Network]:
    """Class of the network of a configuration."""
    return ARCHITECTURES[config.architecture][1]


def config_of(architecture: object) -> type[NetworkConfig]:
    """Class of the configuration of an architecture.

    Raises:
        CardError: unknown architecture.
    """
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise CardError(
            f"architecture {architecture!r} is unknown. Expected one of {', '.join(ARCHITECTURES)}. A later release "
            "may know it."
        )
    return ARCHITECTURES[architecture][0]
