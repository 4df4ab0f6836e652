"""SMixerNet as a module: inputs, gradients, copies, half precision, the attention baseline."""

import copy
import io
import pickle
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.layers.attention import SpikingSelfAttention
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.pruning.softmatch import MERGES
from snntorch_smixer.selection import W_PRIMES


def images(batch: int = 6) -> torch.Tensor:
    return torch.randn(batch, 2, 16, 16)


def differs_between_samples(logits: torch.Tensor) -> bool:
    return len(logits.detach().unique(dim=0)) == len(logits)


def test_the_default_is_the_small_network_of_the_paper():
    assert SMixerNet().config == SMixerConfig()
    assert SMixerNet().dstsp is None


def test_shapes_of_every_stage(firing_net):
    net = firing_net(prune=DSTSPConfig(ps=0.3, t=2))
    x = images()
    tokens = net.tokens(x)
    assert tokens.shape == (4, 6, 16, 16)
    spikes = net.first_spikes(tokens)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    assert not spikes.requires_grad
    assert torch.equal(spikes, net.blocks[0].mixer.value.neuron(tokens))
    pruned, kept = net.prune(tokens)
    assert pruned.shape == (2, 6, 11, 16)
    features, also_kept = net.features_and_kept(x)
    assert features.shape == (2, 6, 11, 16)
    assert torch.equal(also_kept.tokens, kept.tokens)
    assert net.step_logits(x).shape == (2, 6, 5)
    assert net(x).shape == (6, 5)


@pytest.mark.parametrize("prune", [None, DSTSPConfig(t=2)])
def test_logits_are_the_mean_over_the_steps(firing_net, prune):
    net, x = firing_net(prune=prune), images()
    steps = net.step_logits(x)
    assert not torch.equal(steps[0], steps[1])
    assert torch.equal(net(x), steps.mean(0))
    assert differs_between_samples(net(x))


def test_logits_are_linear_in_the_mean_over_tokens(firing_net):
    net, x = firing_net(), images()
    features, kept = net.features_and_kept(x)
    assert kept is None
    expected = features.mean((0, 2)) @ net.head.linear.weight.T + net.head.linear.bias
    torch.testing.assert_close(net(x), expected)


def test_an_image_is_shown_for_all_steps(firing_net):
    net, x = firing_net(), images()
    assert differs_between_samples(net(x))
    torch.testing.assert_close(net(x.expand(4, -1, -1, -1, -1)), net(x))
    assert not torch.equal(net(torch.randn(4, 6, 2, 16, 16)), net(x))


def test_event_frames_differ_between_steps(firing_net):
    net, frames = firing_net(), torch.randn(4, 6, 2, 16, 16)
    assert differs_between_samples(net(frames))
    assert not torch.allclose(net(frames), net(frames.flip(0)))


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (
            (6, 4, 2, 16, 16),
            "encode: expected 4 steps on the first axis, got shape (6, 4, 2, 16, 16); time comes first",
        ),
        (
            (2, 16, 16),
            "encode: expected an image batch (B, 2, 16, 16) or event frames (4, B, 2, 16, 16), got shape (2,",
        ),
        ((6, 3, 16, 16), "encode: expected 2 channels of 16 x 16, got shape (6, 3, 16, 16); resize the input"),
        ((6, 2, 16, 20), "encode: expected 2 channels of 16 x 16, got shape (6, 2, 16, 20); resize the input"),
        ((4, 6, 2, 8, 8), "encode: expected 2 channels of 16 x 16, got shape (4, 6, 2, 8, 8); resize the input"),
    ],
    ids=["batch first", "no batch", "channels", "size", "size of events"],
)
def test_other_inputs_are_refused_and_change_nothing(firing_net, shape, text):
    net = firing_net().train()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(LayoutError) as caught:
        net(torch.randn(shape))
    assert str(caught.value).startswith(text)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(("merge", "w_prime"), [(None, None), *product(MERGES, W_PRIMES)])
def test_gradients_reach_every_parameter(firing_net, merge, w_prime):
    prune = merge and DSTSPConfig(ps=0.3, t=2, merge=merge, w_prime=w_prime)
    net = firing_net(prune=prune).train()
    F.cross_entropy(net(images(8)), torch.arange(8) % 5).backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert sum(name.endswith("w_m.weight") for name, _ in net.named_parameters()) == 2


def test_training_steps_lower_the_loss(firing_net):
    net = firing_net(prune=DSTSPConfig()).train()
    labels = torch.arange(20) % 5
    x = 1.5 * images(5)[labels] + 0.5 * images(20)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(25):
        loss = F.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses[-3:]) < 0.5 * losses[0]


def copies(net: SMixerNet) -> dict[str, nn.Module]:
    saved = io.BytesIO()
    torch.save(net.state_dict(), saved)
    saved.seek(0)
    loaded = SMixerNet(net.config)
    loaded.load_state_dict(torch.load(saved, weights_only=True))
    return {
        "deepcopy": copy.deepcopy(net),
        "pickle": pickle.loads(pickle.dumps(net)),
        "state_dict": loaded.eval(),
    }


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict"])
@pytest.mark.parametrize("prune", [None, DSTSPConfig(ps=0.4, t=2, merge="fuse")])
def test_copies_give_equal_outputs(firing_net, way, prune):
    net, x = firing_net(prune=prune), images()
    net.train()(x).sum().backward()  # a copy must not trip over what training leaves behind
    twin = copies(net.eval())[way]
    expected = net(x)
    assert differs_between_samples(expected)
    assert torch.equal(twin(x), expected)
    assert [*twin.state_dict()] == [*net.state_dict()]
    assert (twin.dstsp and twin.dstsp.settings) == prune
    with torch.no_grad():
        net.head.linear.bias.add_(1)
    assert torch.equal(twin(x), expected), "the copy shares storage"


def test_live_settings_travel_with_copies(firing_net):
    net = firing_net(prune=DSTSPConfig())
    net.dstsp.ps, net.dstsp.t = 0.5, 3
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin.dstsp.settings == DSTSPConfig(ps=0.5, t=3)
        twin.dstsp.ps = 0.1
    assert net.dstsp.ps == 0.5


@pytest.mark.parametrize("merge", MERGES)
def test_autocast(firing_net, merge):
    net, x = firing_net(prune=DSTSPConfig(ps=0.3, t=2, merge=merge)).train(), images()
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(x)
        features, kept = net.features_and_kept(x)
    assert logits.dtype == torch.bfloat16
    assert kept.num_tokens == 11 + (merge == "fuse")
    assert features.isfinite().all()
    F.cross_entropy(logits.float(), torch.arange(6) % 5).backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


def test_nothing_is_kept_between_calls(firing_net):
    net, x = firing_net(prune=DSTSPConfig(t=2)), images(6)
    first = net(x)
    for batch in (1, 3, 6):
        torch.testing.assert_close(net(x[:batch]), first[:batch])
    assert torch.equal(net(x), first)


def test_the_attention_baseline_builds_and_runs(firing_net):
    net, x = firing_net(mixer="ssa"), images()
    assert all(isinstance(block.mixer, SpikingSelfAttention) for block in net.blocks)
    assert not any("w_m" in name for name, _ in net.named_parameters())
    assert differs_between_samples(net(x))
    F.cross_entropy(net.train()(x), torch.arange(6) % 5).backward()
    assert all(p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("merge", MERGES)
def test_the_attention_baseline_prunes_too(firing_net, merge):
    net, x = firing_net(mixer="ssa", prune=DSTSPConfig(ps=0.3, t=2, merge=merge)), images()
    features, kept = net.features_and_kept(x)
    assert features.shape == (2, 6, 11 + (merge == "fuse"), 16)
    assert torch.equal(kept.steps.sort(dim=1).values, kept.steps)
    assert differs_between_samples(net(x))
