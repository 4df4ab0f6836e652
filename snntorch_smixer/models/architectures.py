"""Every architecture that a model folder can hold: importing this module registers the networks of this package."""

from __future__ import annotations

from typing import cast

from snntorch_smixer.models import qkformer as qkformer
from snntorch_smixer.models import sdt_v3 as sdt_v3
from snntorch_smixer.models import smixer_net as smixer_net
from snntorch_smixer.models import spec
from snntorch_smixer.models import spikformer as spikformer
from snntorch_smixer.models.network import Network
from snntorch_smixer.models.spec import ARCHITECTURES as ARCHITECTURES
from snntorch_smixer.models.spec import CONFIGS as CONFIGS
from snntorch_smixer.models.spec import NetworkConfig
from snntorch_smixer.models.spec import config_of as config_of
from snntorch_smixer.models.spec import parameter_shapes as parameter_shapes
from snntorch_smixer.models.spec import shapes_of as shapes_of


def build(config: NetworkConfig) -> Network:
    """The network of a configuration, randomly initialised, in training mode."""
    return cast(Network, spec.build(config))


def outline(config: NetworkConfig) -> Network:
    """What `build` would give, without memory for the weights: on the device "meta" they have shapes and no values."""
    return cast(Network, spec.outline(config))


def network_of(config: NetworkConfig) -> type[Network]:
    """Class of the network of a configuration."""
    return cast(type[Network], ARCHITECTURES[config.architecture][1])
