"""The registry of architectures, which the networks fill themselves."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from torch import nn

from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.models import architectures, spec
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.models.network import Network
from snntorch_smixer.models.saving import Blueprint
from snntorch_smixer.models.smixer_net import SMixerNet


@dataclass(frozen=True)
class ToyConfig(spec.NetworkConfig):
    architecture: ClassVar[str] = "toy"


def test_a_network_registers_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spec, "ARCHITECTURES", dict(spec.ARCHITECTURES))
    monkeypatch.setattr(spec, "CONFIGS", dict(spec.CONFIGS))

    @spec.architecture(ToyConfig)
    class Toy(Network):
        def __init__(self, config: ToyConfig) -> None:
            super().__init__()
            self.config, self.head = config, nn.Linear(3, config.num_classes)

    configs = spec.named({"toy-3": ToyConfig(num_classes=7)})
    assert spec.CONFIGS["toy-3"] is configs["toy-3"]
    assert spec.config_of("toy") is ToyConfig
    assert type(architectures.build(configs["toy-3"])) is Toy
    assert spec.shapes_of(configs["toy-3"]) == {"head.weight": (7, 3), "head.bias": (7,)}
    assert Blueprint.of(Toy(replace(ToyConfig(), T=2))).facts()["T"] == 2


def test_a_name_belongs_to_one_architecture():
    with pytest.raises(SettingError) as caught:
        spec.architecture(SMixerConfig)(SMixerNet)
    assert str(caught.value) == (
        "architecture: 'smixer' is taken by SMixerConfig, expected a new name for SMixerConfig. Choose another one."
    )


def test_an_unknown_architecture_is_refused():
    with pytest.raises(CardError, match=r"'bert' is unknown. Expected one of .*smixer.*spikformer"):
        spec.config_of("bert")


def test_every_architecture_of_the_package_is_there():
    assert {"smixer", "spikformer", "qkformer", "sdt-v3"} <= set(architectures.ARCHITECTURES)
    named = {config.architecture for config in architectures.CONFIGS.values()}
    assert {"smixer", "spikformer", "qkformer", "sdt-v3"} <= named
