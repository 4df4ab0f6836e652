"""What a configuration says about the memory of training, against what the network really keeps."""

from dataclasses import replace

import pytest
import torch

from snntorch_smixer.bench.expected import MOST_STEPS, expected_bytes
from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.memory import MODES, set_memory
from snntorch_smixer.models.architectures import build
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.models.sdt_v3 import SDTV3Config
from snntorch_smixer.models.spikformer import SpikformerConfig
from snntorch_smixer.pruning.pruner import DSTSPConfig

IMAGES = SMixerConfig((16, 16), 3, 5, 2, dim=16, depth=1, heads=2)
CONFIGS = {
    "images": IMAGES,
    "pruned": replace(IMAGES, T=4, prune=DSTSPConfig(ps=0.3, t=1)),
    "events": replace(IMAGES, in_channels=2),
    "spikformer": SpikformerConfig((16, 16), 3, 5, 2, dim=16, depth=1, heads=2),
    "sdt-v3": SDTV3Config((32, 32), 3, 5, 1, dims=(8, 16, 16, 24), depths=(1, 1), heads=4),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_what_the_network_keeps(name: str):
    config = CONFIGS[name]
    net, events = build(config), config.in_channels == 2
    shape = (16, config.in_channels, *config.img_size)
    x = torch.randn((config.T, *shape) if events else shape)
    found = expected_bytes(config)
    for mode in MODES:
        set_memory(net, mode)
        assert found[mode] == saved_bytes(net, x, batch_axis=int(events))
    assert 0 < found["recompute"] <= found["fused"] < found["reference"]
    assert (found["recompute"] == found["fused"]) == (name in ("spikformer", "sdt-v3"))


def test_very_many_steps_are_not_traced():
    assert expected_bytes(replace(IMAGES, T=MOST_STEPS + 1)) == {}
