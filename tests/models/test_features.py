"""Features, head and classifier, as users of timm expect them."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import SMixerNet, dstsp, from_pretrained
from snntorch_smixer.errors import SettingError
from snntorch_smixer.models.architectures import build
from snntorch_smixer.models.qkformer import QKFormerConfig
from snntorch_smixer.models.sdt_v3 import SDTV3Config
from snntorch_smixer.models.spikformer import SpikformerConfig
from snntorch_smixer.pruning.pruner import DSTSPConfig


@pytest.fixture
def net(firing_net: Callable[..., SMixerNet]) -> SMixerNet:
    return firing_net()


@pytest.fixture
def pruned(firing_net: Callable[..., SMixerNet]) -> SMixerNet:
    return firing_net(prune=DSTSPConfig(ps=0.5, t=2, merge="drop"))


def images() -> Tensor:
    return torch.randn(3, 2, 16, 16)


def test_forward_is_features_then_head(net: SMixerNet):
    x = images()
    features = net.forward_features(x)
    assert features.shape == (4, 3, 16, 16)
    assert net.num_features == 16
    out = net(x)
    assert out.unique().numel() > 5
    assert torch.equal(net.forward_head(features), out)


def test_pooled_features_give_the_logits(net: SMixerNet):
    x = images()
    pooled = net.forward_head(net.forward_features(x), pre_logits=True)
    assert pooled.shape == (3, 16)
    torch.testing.assert_close(net.head.linear(pooled), net(x))


def test_no_classes_give_pooled_features(net: SMixerNet):
    x = images()
    pooled = net.forward_head(net.forward_features(x), pre_logits=True)
    net.reset_classifier(0)
    assert net.config.num_classes == 0
    torch.testing.assert_close(net(x), pooled)
    assert not any("head" in name for name in net.state_dict())


def test_a_new_classifier_is_random_and_all_else_stays(net: SMixerNet):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.double().reset_classifier(7)
    assert net.config == dataclasses.replace(net.config, num_classes=7)
    assert net.head.linear.weight.dtype == torch.float64
    assert net(images().double()).shape == (3, 7)
    assert net.head.linear.weight.std() > 0
    assert all(
        torch.equal(before[k], v.float()) for k, v in net.state_dict().items() if "head" not in k and v.dim() > 1
    )
    for wrong in (-1, 2.5, True):
        with pytest.raises(SettingError, match=f"num_classes={wrong!r} must be a whole number of at least 0"):
            net.reset_classifier(wrong)
    assert net.config.num_classes == 7


def test_intermediates_are_what_the_blocks_gave(net: SMixerNet):
    seen = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out))
    x = images()
    final, tokens = net.forward_intermediates(x, layout="tokens")
    assert [torch.equal(a, b) for a, b in zip(tokens, seen, strict=True)] == [True, True]
    assert torch.equal(final, seen[-1])
    assert not torch.equal(tokens[0], tokens[1])
    grids = net.forward_intermediates(x, indices=[-1, 0])[1]
    assert [g.shape for g in grids] == [(4, 3, 16, 4, 4)] * 2
    for t, b, n, c in ((0, 0, 0, 0), (3, 2, 7, 5), (1, 1, 14, 15)):
        assert grids[0][t, b, c, n // 4, n % 4] == tokens[1][t, b, n, c]
        assert grids[1][t, b, c, n // 4, n % 4] == tokens[0][t, b, n, c]


def test_dropped_tokens_are_zero_on_the_grid(pruned: SMixerNet):
    x = images()
    _, kept = pruned.features_and_kept(x)
    final, (grid,) = pruned.forward_intermediates(x, indices=[1])
    assert grid.shape == (2, 3, 16, 4, 4)
    assert final.shape == (2, 3, 8, 16)
    alive = grid.abs().sum((0, 2)).flatten(1) > 0
    assert torch.equal(alive, kept.keep_mask())
    assert torch.equal(grid.flatten(3)[:, 1, :, kept.tokens[1]], final[:, 1].transpose(1, 2))


def test_gradients_reach_the_stem_from_an_intermediate(net: SMixerNet):
    net.forward_intermediates(images(), indices=[0])[1][0].square().sum().backward()
    assert net.stem.units[0].linear.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in net.blocks[1].parameters())


@pytest.mark.parametrize("indices", [[2], [-3], [0, 5], [True], [0.0]])
def test_an_index_of_no_block(net: SMixerNet, indices: list[int]):
    wrong = next(i for i in indices if i not in (0, 1) or type(i) is not int)
    with pytest.raises(SettingError) as caught:
        net.forward_intermediates(images(), indices=indices)
    assert str(caught.value) == f"forward_intermediates: there is no block {wrong!r}. Pass indices in -2..1."


def test_an_unknown_layout(net: SMixerNet):
    with pytest.raises(SettingError, match=r"layout='nchw' is unknown\. Expected one of grid, tokens"):
        net.forward_intermediates(images(), layout="nchw")


def test_a_trained_net_without_a_head_is_a_feature_extractor():
    x = torch.randn(2, 1, 28, 28)
    net, whole = from_pretrained("smixer-2-64-fmnist", num_classes=0), from_pretrained("smixer-2-64-fmnist")
    torch.testing.assert_close(net(x), whole.forward_head(whole.forward_features(x), pre_logits=True))
    assert isinstance(net.head.linear, nn.Identity)


OTHERS = {
    "spikformer": SpikformerConfig((16, 16), 3, 4, 2, dim=16, depth=3, heads=2),
    "qkformer": QKFormerConfig((16, 16), 3, 4, 2, dim=32, depth=4, heads=2),
    "sdt-v3": SDTV3Config((32, 32), 3, 4, dims=(16, 16, 16, 24), depths=(2, 1), heads=2),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures(name: str):
    net = build(OTHERS[name]).eval()
    x = torch.randn(2, 3, *net.config.img_size)
    final, tokens = net.forward_intermediates(x, layout="tokens")
    grids = net.forward_intermediates(x)[1]
    depth = {"spikformer": 3, "qkformer": 4, "sdt-v3": 3}[name]
    assert len(tokens) == len(grids) == depth
    assert torch.equal(final, net.forward_features(x))
    assert torch.equal(final, tokens[-1])
    assert torch.equal(net.forward_head(final), net(x))
    assert torch.equal(grids[-1].flatten(3).transpose(2, 3), final)
    assert grids[-1].shape[2:] == (net.num_features, *net.config.grid)
    assert net.forward_head(final, pre_logits=True).shape == (2, net.num_features)
    with pytest.raises(SettingError, match=f"there is no block {depth}"):
        net.forward_intermediates(x, indices=[depth])


def test_a_wrapped_net_has_tokens_but_no_grid():
    net = dstsp.wrap(build(OTHERS["spikformer"]).eval(), ps=0.5, t=1)
    x = torch.randn(2, 3, 16, 16)
    assert [t.shape for t in net.forward_intermediates(x, layout="tokens")[1]] == [(1, 2, 8, 16)] * 3
    with pytest.raises(SettingError, match="a wrapped Spikformer has no grid of tokens"):
        net.forward_intermediates(x)
