"""Maps P3 to P5 from any network: strides, sizes, dropped tokens on the grid, and what has no grid."""

import copy

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import SMixerConfig, SMixerNet, dstsp
from snntorch_smixer.detect import SpikingBackbone, SpikingPyramid
from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.models.qkformer import QKFormer, QKFormerConfig
from snntorch_smixer.models.resizing import at_size
from snntorch_smixer.models.sdt_v3 import SDTV3, SDTV3Config
from snntorch_smixer.models.spikformer import Spikformer, SpikformerConfig
from snntorch_smixer.zoo.adapt import adapt

TINY = {"num_classes": 10, "T": 2, "dim": 32, "heads": 4}


def smixer(**changes) -> SMixerNet:
    return SMixerNet(SMixerConfig((64, 64), 3, **{**TINY, "depth": 2, "strides": (1, 2, 2, 2, 1), **changes}))


def spikformer(variant: str) -> Spikformer:
    return Spikformer(SpikformerConfig((64, 64), 3, **TINY, depth=2, variant=variant))


def qkformer(variant: str) -> QKFormer:
    return QKFormer(QKFormerConfig((64, 64), 3, **TINY, depth=4, variant=variant))


def sdt() -> SDTV3:
    return SDTV3(SDTV3Config((64, 64), num_classes=0, dims=(16, 16, 32, 32), depths=(1, 1)))


NETS = {
    "smixer": smixer,
    "spikformer-cifar": lambda: spikformer("cifar"),
    "spikformer-imagenet": lambda: spikformer("imagenet"),
    "qkformer-cifar": lambda: qkformer("cifar"),
    "qkformer-imagenet": lambda: qkformer("imagenet"),
    "sdt-v3": sdt,
    "pyramid": lambda: SpikingPyramid("spike-yolo-n-smixer.yaml"),
}


@pytest.mark.parametrize("name", NETS)
def test_every_network_gives_three_maps_for_square_and_rectangular_pictures(name):
    backbone = SpikingBackbone(NETS[name](), channels=16).eval()
    assert (backbone.strides, backbone.channels) == ((8, 16, 32), (16, 16, 16))
    for height, width in ((64, 64), (64, 96), (32, 64)):
        maps = backbone(torch.rand(2, 3, height, width))
        assert [one.shape[1:] for one in maps] == [(2, 16, height // s, width // s) for s in (8, 16, 32)]


def test_stages_give_the_map_of_nearest_resolution():
    assert SpikingBackbone(qkformer("imagenet"), channels=8).sources == (2, 3, 3)  # strides 4, 8, 8, 16
    assert SpikingBackbone(sdt(), channels=8).sources == (0, 2, 2)  # strides 8, 16, 16


def test_the_size_of_the_network_takes_no_detour(firing_net):
    net = firing_net(img_size=(32, 32), in_channels=3)
    x = torch.rand(2, 3, 32, 32)
    backbone = SpikingBackbone(net, channels=8)
    assert torch.equal(backbone.maps(x)[-1], net.forward_intermediates(x)[1][-1])
    assert not backbone._views


@pytest.mark.parametrize("size", [(48, 32), (16, 32)])
def test_another_size_is_the_network_built_at_that_size_with_adapted_weights(firing_net, size):
    net = firing_net(img_size=(32, 32), in_channels=3, prune=dstsp.DSTSPConfig(ps=0.25, t=1))
    built = SMixerNet(SMixerConfig.from_dict({**net.config.to_dict(), "img_size": list(size)})).eval()
    built.load_state_dict(adapt(net.state_dict(), built, grid=net.config.grid), strict=True)
    x = torch.rand(2, 3, *size)
    assert torch.allclose(at_size(net, size).forward_features(x), built.forward_features(x), atol=1e-5)
    assert at_size(net, (32, 32)) is net


def test_training_at_another_size_trains_the_network_itself(firing_net):
    net = firing_net(img_size=(32, 32), in_channels=3, threshold=0.2)
    names = set(net.state_dict())
    backbone = SpikingBackbone(net, channels=8).train()
    before = net.stem.units[0].norm.running_mean.clone()
    sum(one.square().sum() for one in backbone.maps(torch.rand(2, 3, 64, 32))).backward()
    assert net.blocks[0].mixer.w_m.weight.grad.abs().sum() > 0
    assert not torch.equal(before, net.stem.units[0].norm.running_mean)
    assert {n.removeprefix("net.") for n in backbone.state_dict() if n.startswith("net.")} == names


def test_a_view_follows_new_weights_and_new_pruning(firing_net):
    net = firing_net(img_size=(32, 32), in_channels=3)
    backbone, x = SpikingBackbone(net, channels=8).eval(), torch.rand(2, 3, 64, 32)
    first = backbone.maps(x)[-1]
    with torch.no_grad():
        net.stem.units[0].linear.weight.mul_(-1)
    assert not torch.equal(backbone.maps(x)[-1], first)
    net.double()
    assert backbone.maps(x.double())[-1].dtype == torch.float64
    net.float()
    dstsp.wrap(net, ps=0.0, t=1)
    assert backbone.maps(x)[-1].shape[0] == 1
    assert copy.deepcopy(backbone).maps(x)[-1].shape[0] == 1


def test_dropped_tokens_are_zeros_at_their_place(firing_net):
    net = firing_net(img_size=(32, 32), in_channels=3)
    backbone, x = SpikingBackbone(net, channels=8).eval(), torch.rand(2, 3, 32, 32)
    dstsp.wrap(net, ps=0.5, t=1)
    (last,) = net.forward_intermediates(x, indices=[-1], layout="tokens")[1]
    tokens = backbone.maps(x)[-1].flatten(3).transpose(2, 3)
    silent = (tokens == 0).all(3)
    assert silent.sum(2).tolist() == [[32, 32]]
    assert torch.equal(tokens[~silent].view(1, 2, 32, -1), last)


@pytest.mark.parametrize("variant", ["cifar", "imagenet"])
def test_a_wrapped_spikformer_has_its_tokens_on_the_grid_too(variant):
    net = dstsp.wrap(spikformer(variant), ps=0.5, t=1, example_input=torch.rand(2, 3, 64, 64))
    backbone, x = SpikingBackbone(net, channels=8).train(), torch.randn(2, 3, 64, 64)
    maps = backbone.maps(x)
    side = 16 if variant == "cifar" else 4
    assert maps[-1].shape == (1, 2, 32, side, side)
    silent = (maps[-1] == 0).all(2).flatten(2).sum(2)
    assert silent.min() >= side * side // 2
    assert maps[-1].abs().sum() > 0
    with pytest.raises(SettingError, match="was wrapped for pictures of"):
        backbone(torch.rand(2, 3, 64, 96))


def test_a_wrapped_network_with_stages_keeps_its_grid():
    net = dstsp.wrap(qkformer("imagenet"), ps=0.5, t=1, example_input=torch.rand(2, 3, 64, 64))
    maps = SpikingBackbone(net, channels=8)(torch.rand(2, 3, 64, 64))
    assert [one.shape[1:] for one in maps] == [(2, 8, 8, 8), (2, 8, 4, 4), (2, 8, 2, 2)]


class Foreign(nn.Module):
    """Three stages; the last one gives tokens."""

    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 12, 2, 2)
        self.tokens, self.unused, self.extra = nn.Identity(), nn.Linear(1, 1), extra

    def forward(self, x: Tensor) -> Tensor:
        maps = self.second(self.first(x))
        tokens = maps.flatten(2).transpose(1, 2)
        more = tokens.new_zeros(len(x), self.extra, 12)
        return self.tokens(torch.cat([more, tokens], 1)).mean(1)


def test_a_third_party_network_gives_maps_by_the_names_of_its_modules():
    net = Foreign()
    backbone = SpikingBackbone(net, at=("first", "second"), channels=8)
    x = torch.rand(2, 3, 64, 96)
    assert torch.equal(backbone.maps(x)[0][0], net.first(x))
    assert [one.shape for one in backbone(x)] == [(1, 2, 8, 8, 12), (1, 2, 8, 4, 6), (1, 2, 8, 2, 3)]
    assert not net.first._forward_hooks


def test_tokens_of_a_third_party_network_become_maps_where_their_axes_are_said():
    net, x = Foreign(), torch.rand(2, 3, 64, 96)
    backbone = SpikingBackbone(net, at=("tokens",), layout="b n c", channels=8)
    assert torch.equal(backbone.maps(x)[0][0], net.second(net.first(x)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "its maps have no names here"),
        ({"at": ()}, "are no places"),
        ({"at": ("third",)}, "Pass some of first, second"),
        ({"at": (0,)}, "are no places"),
        ({"at": ("first", 1)}, "are no places"),
        ({"at": ("tokens",)}, "layout='t b n c'"),
        ({"at": ("unused",)}, "unused was not called"),
        ({"at": ("first",), "channels": 0}, "channels=0"),
    ],
)
def test_places_without_a_grid_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        SpikingBackbone(Foreign(), **settings)


def test_tokens_that_are_no_grid_are_refused():
    with pytest.raises(SettingError, match="17 tokens, which are no grid"):
        SpikingBackbone(Foreign(extra=1), at=("tokens",), layout="b n c", size=(64, 64))


def test_blocks_and_sizes_out_of_range_are_refused():
    with pytest.raises(SettingError, match=r"Pass some of 0\.\.1"):
        SpikingBackbone(smixer(), at=(5,))
    with pytest.raises(SettingError, match="Leave at out"):
        SpikingBackbone(SpikingPyramid("spike-yolo-n-smixer.yaml"), at=(0,))
    backbone = SpikingBackbone(smixer(), at=("blocks.0",), channels=8)
    with pytest.raises(LayoutError, match="multiple of 32"):
        backbone(torch.rand(1, 3, 64, 80))
    with pytest.raises(LayoutError, match="Add the batch"):
        backbone(torch.rand(3, 64, 64))
    with pytest.raises(LayoutError, match="channels"):
        backbone(torch.rand(1, 1, 64, 64))


def test_making_it_leaves_network_and_random_state_as_they_were():
    net = smixer()
    state, training = copy.deepcopy(net.state_dict()), net.training
    with torch.random.fork_rng():
        torch.manual_seed(5)
        SpikingBackbone(net, channels=8)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), net.state_dict().values(), strict=True))
    assert net.training is training
