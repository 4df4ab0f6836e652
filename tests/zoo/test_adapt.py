"""Weights for other classes, channels and resolutions: rules worked out by hand, and everything else bit-identical."""

import copy

import pytest
import torch
from torch.nn import functional as F

from snntorch_smixer import create_model, from_pretrained, load_pretrained
from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.zoo.adapt import adapt, adapt_channels, resize_matrix


def kernel(*values):
    """A 1x1 convolution from len(values) channels to one."""
    return torch.tensor(values).view(1, -1, 1, 1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1.0, 2.0, 4.0), (7.0,)),
        ((1.0, 2.0, 4.0), (1.5, 3.0)),
        ((1.0, 2.0, 4.0), (0.75, 1.5, 3.0, 0.75)),
        ((6.0,), (2.0, 2.0, 2.0)),
        ((6.0,), (3.0, 3.0)),
        ((3.0, 6.0), (2.0, 4.0, 2.0)),
        ((3.0, 6.0), (9.0,)),
        ((3.0, 6.0), (3.0, 6.0)),
    ],
)
def test_channels_by_hand(before, after):
    assert torch.equal(adapt_channels(kernel(*before), len(after)), kernel(*after))


@pytest.mark.parametrize(("had", "channels"), [(1, 2), (1, 3), (2, 1), (2, 4), (3, 1), (3, 6)])
def test_a_grey_image_gives_what_it_gave(had, channels):
    weight, grey = torch.randn(5, had, 3, 3), torch.randn(2, 1, 6, 6)
    old = F.conv2d(grey.expand(-1, had, -1, -1), weight)
    new = F.conv2d(grey.expand(-1, channels, -1, -1), adapt_channels(weight, channels))
    torch.testing.assert_close(new, old)


def test_the_same_grid_changes_nothing():
    matrix = torch.randn(3, 12, 12)
    torch.testing.assert_close(resize_matrix(matrix, (3, 4), (3, 4)), matrix)


@pytest.mark.parametrize("after", [(2, 2), (8, 8), (3, 5), (1, 1), (4, 16)])
def test_a_constant_matrix_keeps_its_row_sums(after):
    resized = resize_matrix(torch.full((2, 16, 16), 0.25), (4, 4), after)
    tokens = after[0] * after[1]
    torch.testing.assert_close(resized, torch.full((2, tokens, tokens), 4 / tokens))  # 16 x 0.25 = 4 in each row


@pytest.mark.parametrize("after", [(3, 3), (12, 12), (5, 7)])
def test_row_sums_survive_where_rows_differ_only_by_a_factor(after):
    factors = torch.linspace(-1, 1, 36)
    resized = resize_matrix(factors.view(1, 36, 1).expand(1, 36, 36), (6, 6), after)
    wanted = F.interpolate(36 * factors.view(1, 1, 6, 6), after, mode="bicubic", antialias=True).flatten()
    torch.testing.assert_close(resized.sum(2)[0], wanted, rtol=1e-4, atol=1e-4)


def grid_waves(rows, columns):
    """A smooth map over a grid, sampled at the centres of its tokens, flattened row by row."""
    y, x = ((torch.arange(n) + 0.5) / n for n in (rows, columns))
    return (torch.cos(torch.pi * y)[:, None] + 0.5 * torch.cos(torch.pi * x)[None, :]).flatten()


def smooth_matrix(rows, columns):
    """Kernel that falls with the distance of two tokens on the unit square; each row sums to one."""
    y, x = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in (rows, columns)), indexing="ij")
    places = torch.stack((y.flatten(), x.flatten()), 1)
    return torch.softmax(-8 * torch.cdist(places, places) ** 2, 1)[None]


@pytest.mark.parametrize(("before", "after"), [((8, 8), (12, 12)), ((8, 8), (16, 16)), ((8, 8), (4, 16))])
def test_a_resized_matrix_does_on_a_resized_map_what_it_did_on_the_map(before, after):
    resized = resize_matrix(smooth_matrix(*before), before, after)[0]
    old = smooth_matrix(*before)[0] @ grid_waves(*before)
    wanted = F.interpolate(old.view(1, 1, *before), after, mode="bicubic", antialias=True).flatten()
    found = resized @ grid_waves(*after)
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()
    scrambled = resized[:, torch.randperm(resized.shape[1])] @ grid_waves(*after)
    assert (scrambled - wanted).abs().max() > 0.3 * wanted.abs().max()


@pytest.mark.parametrize("between", [(16, 16), (12, 20)])
def test_there_and_back(between):
    matrix = smooth_matrix(8, 8)
    back = resize_matrix(resize_matrix(matrix, (8, 8), between), between, (8, 8))
    assert (back - matrix).abs().max() < 0.05 * matrix.max()


def test_rows_are_outputs_and_columns_are_inputs():
    """Every output reads the upper left quarter of the inputs, so upsampled ones read its upper left quarter."""
    matrix = torch.zeros(1, 16, 16)
    matrix[:, :, [0, 1, 4, 5]] = 1.0
    resized = resize_matrix(matrix, (4, 4), (8, 8))[0].view(64, 8, 8)
    torch.testing.assert_close(resized[0], resized[63])
    inside, outside = resized[0, :3, :3], resized[0, 5:, 5:]
    assert inside.min() > 0.2  # 1 x 16 / 64
    assert outside.abs().max() < 0.05


def state_of(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def differing(one, other):
    return sorted(name for name in one.keys() & other.keys() if not torch.equal(one[name], other[name]))


@pytest.fixture
def folder(made, tmp_path):
    made(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_another_head_keeps_every_other_weight(firing_net, folder):
    old, net = state_of(from_pretrained(folder)), from_pretrained(folder, num_classes=7)
    new = state_of(net)
    assert [k for k in old if k not in new or old[k].shape != new[k].shape] == [
        "head.linear.weight",
        "head.linear.bias",
    ]
    assert all(torch.equal(old[k], new[k]) for k in old if not k.startswith("head."))
    assert net(torch.randn(3, 2, 16, 16)).shape == (3, 7)
    bound = 16**-0.5  # of torch's initialisation of a linear layer of 16 channels
    assert 0 < new["head.linear.weight"].abs().max() <= bound


def test_no_head_gives_pooled_features(folder):
    x, full = torch.randn(3, 2, 16, 16), from_pretrained(folder)
    pooled = from_pretrained(folder, num_classes=0)(x)
    assert torch.equal(pooled, full.forward_features(x).mean(2).mean(0))
    assert torch.equal(from_pretrained(folder, num_classes=5)(x), full(x))


@pytest.mark.parametrize("channels", [1, 3])
def test_other_channels_touch_only_the_first_convolutions(folder, channels):
    old, net = state_of(from_pretrained(folder)), from_pretrained(folder, in_channels=channels)
    changed = [k for k, v in net.state_dict().items() if v.shape != old[k].shape]
    assert changed == ["stem.units.0.linear.weight", "stem.short.linear.weight"]
    assert all(torch.equal(v, old[k]) for k, v in net.state_dict().items() if k not in changed)
    for key in changed:
        assert torch.equal(net.state_dict()[key], adapt_channels(old[key], channels))
    assert net(torch.randn(3, channels, 16, 16)).isfinite().all()


def test_a_grey_image_is_classified_as_it_was_in_two_equal_channels(folder):
    grey, net, full = torch.randn(3, 1, 16, 16), from_pretrained(folder, in_channels=1), from_pretrained(folder)
    torch.testing.assert_close(net(grey), full(grey.expand(-1, 2, -1, -1)))


def test_another_resolution_resizes_every_matrix_and_nothing_else(firing_net, folder):
    old, net = state_of(from_pretrained(folder)), from_pretrained(folder, img_size=(24, 16))
    assert net.config.grid == (6, 4)
    for name, value in net.state_dict().items():
        if name.endswith("w_m.weight"):
            wanted = resize_matrix(old[name].view(2, 16, 16), (4, 4), (6, 4)).view(48, 24, 1)
            assert torch.equal(value, wanted)
        else:
            assert torch.equal(value, old[name])
    assert net(torch.randn(2, 2, 24, 16)).isfinite().all()


def test_as_many_tokens_on_another_grid_are_resized_too(firing_net, save_model, tmp_path):
    """8 x 8 and 4 x 16 both have 64 tokens: the shapes agree, the neighbours do not."""
    folder = save_model(firing_net(img_size=(32, 32)), tmp_path / "square")
    old, net = state_of(from_pretrained(folder)), from_pretrained(folder, img_size=(16, 64))
    name = "blocks.0.mixer.w_m.weight"
    assert net.state_dict()[name].shape == old[name].shape
    wanted = resize_matrix(old[name].view(2, 64, 64), (8, 8), (4, 16)).reshape(128, 64, 1)
    assert torch.equal(net.state_dict()[name], wanted)
    assert not torch.equal(wanted, old[name])


def test_another_number_of_steps_changes_no_weight(folder):
    net = from_pretrained(folder, T=2)
    assert differing(net.state_dict(), state_of(from_pretrained(folder))) == []
    assert net.config.T == 2


def test_dense_weights_serve_a_pruned_network_and_back(firing_net, save_model, folder, tmp_path):
    dense, x = from_pretrained(folder), torch.randn(4, 2, 16, 16)
    pruned = load_pretrained(firing_net(prune=DSTSPConfig(ps=0.25, t=2)), folder)
    assert differing(dense.state_dict(), pruned.state_dict()) == []
    assert not torch.equal(pruned(x), dense(x))
    pruned.save_pretrained(tmp_path / "pruned")
    back = load_pretrained(firing_net(), tmp_path / "pruned")
    assert torch.equal(back(x), dense(x))
    pruned.dstsp.ps, pruned.dstsp.t = 0.0, None
    assert torch.equal(pruned(x), dense(x))


def test_weights_for_a_network_at_hand_keep_its_mode_and_settings(firing_net, folder):
    net = firing_net(num_classes=3, T=2, prune=DSTSPConfig(ps=0.5)).train()
    config, head = net.config, net.head.linear.weight.clone()
    assert load_pretrained(net, folder) is net
    assert net.training
    assert net.config == config
    assert torch.equal(net.head.linear.weight, head)
    assert net.card.name == "tiny"


@pytest.mark.parametrize("changes", [{"depth": 1}, {"dim": 32}, {"mixer": "ssa"}, {"heads": 4}, {"mlp_ratio": 2.0}])
def test_weights_of_another_architecture_leave_the_network_as_it_was(firing_net, folder, changes):
    net = firing_net(**changes)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(CardError, match=r"^adapt: "):
        load_pretrained(net, folder)
    assert differing(before, net.state_dict()) == []
    assert net.card is None


def test_refusals_are_worded(firing_net):
    net, state = firing_net(), firing_net().state_dict()
    with pytest.raises(CardError) as caught:
        adapt({**state, "blocks.0.mlp.extra": torch.zeros(1)}, net, grid=(4, 4))
    assert str(caught.value) == (
        "adapt: blocks.0.mlp.extra is only in one of the two networks. Use weights of the same architecture."
    )
    with pytest.raises(CardError) as caught:
        adapt({**state, "blocks.0.mixer.value.norm.bias": torch.zeros(3)}, net, grid=(4, 4))
    assert str(caught.value) == (
        "adapt: blocks.0.mixer.value.norm.bias has shape (3,), this SMixerNet needs (16,). Only classes, input "
        "channels and the resolution can differ."
    )
    with pytest.raises(CardError, match=r"w_m\.weight mixes 16 tokens, and their grid is not known, so it cannot"):
        adapt(state, firing_net(img_size=(24, 24)), grid=None)


@pytest.mark.parametrize(
    "changes", [{"num_classes": -1}, {"in_channels": 0}, {"T": 0}, {"img_size": (17, 16)}, {"img_size": (0, 0)}]
)
def test_what_is_asked_for_is_checked(folder, changes):
    with pytest.raises(SettingError, match=r"^SMixerConfig: "):
        from_pretrained(folder, **changes)
    with pytest.raises(SettingError, match=r"^SMixerConfig: "):
        create_model("smixer-4-384", **changes)
