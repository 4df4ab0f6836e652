"""A batch of no samples: an empty result of the right shape in every mode, with zero gradients and kept statistics."""

import pytest
import torch

from snntorch_smixer import LIF, IntegerLIF, SMixer, SMixerConfig, SMixerNet, SpikingMLP, SpikingSelfAttention, dstsp
from snntorch_smixer.memory import MODES, set_memory
from snntorch_smixer.models.spikformer import Spikformer, SpikformerConfig
from snntorch_smixer.pruning.pruner import DSTSPConfig

LAYERS = {
    "LIF": LIF,
    "IntegerLIF": IntegerLIF,
    "SpikingMLP": lambda: SpikingMLP(8),
    "SpikingSelfAttention": lambda: SpikingSelfAttention(8, heads=2),
    "SMixer": lambda: SMixer(8, num_tokens=4, heads=2),
}


def check(net, x, shape, *, mode, training):
    set_memory(net, mode)
    for module in net.modules():
        if hasattr(module, "chunks"):
            module.chunks = 2
    before = {key: value.clone() for key, value in net.state_dict().items()}
    out = net.train(training)(x.requires_grad_())
    assert tuple(out.shape) == shape
    out.sum().backward()
    assert x.grad.shape == x.shape
    assert not any(p.grad.any() for p in net.parameters() if p.grad is not None)
    after = net.state_dict()
    changed = [k for k, v in before.items() if v.shape == after[k].shape and not torch.equal(v, after[k])]
    assert all(key.endswith("num_batches_tracked") for key in changed)  # statistics stay what they were


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layer", LAYERS)
def test_layers(layer, mode, training):
    check(LAYERS[layer](), torch.zeros(2, 0, 4, 8), (2, 0, 4, 8), mode=mode, training=training)


PRUNING = [None, *(DSTSPConfig(ps=0.3, t=2, w_prime=w, merge=m) for w, m in (("gather", "fuse"), ("crop", "drop")))]
PRUNING += [DSTSPConfig(ps=0.3, t=2, w_prime="shared")]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prune", PRUNING, ids=["dense", "gather", "crop", "shared"])
def test_networks(prune, mode, training):
    net = SMixerNet(SMixerConfig((16, 16), 1, 5, 4, dim=16, depth=2, heads=2, strides=(1, 2, 1, 2, 1), prune=prune))
    check(net, torch.zeros(0, 1, 16, 16), (0, 5), mode=mode, training=training)
    check(net, torch.zeros(4, 0, 1, 16, 16), (0, 5), mode=mode, training=training)


@pytest.mark.parametrize("settings", [{"ps": 0.3, "t": 1}, {"ps": 0.3, "t": 1, "swap": False}, {"ps": 0.0, "t": None}])
@pytest.mark.parametrize("mode", MODES)
def test_wrapped_networks(settings, mode):
    net = Spikformer(SpikformerConfig(img_size=(16, 16), T=2, dim=32, depth=1, heads=2, num_classes=5)).eval()
    dstsp.wrap(net, example_input=torch.zeros(1, 3, 16, 16), **settings)
    for training in (True, False):
        check(net, torch.zeros(0, 3, 16, 16), (0, 5), mode=mode, training=training)
