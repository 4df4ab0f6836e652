"""SDT-V3: parameters as published, the same numbers as the stand-in, what every network offers, and `wrap`."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import dstsp
from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.models.sdt_v3 import CONFIGS, SDTV3, IntegerSpike, SDTV3Config
from tests.zoo.upstream import MetaFormer, large_images, published_sdt_v3

TINY = SDTV3Config((64, 64), num_classes=5, dims=(12, 16, 24, 30), depths=(2, 1), heads=3)


@pytest.fixture
def net() -> SDTV3:
    """The stand-in's weights in our network: every neuron fires."""
    made = SDTV3(TINY).eval()
    made.load_state_dict(published_sdt_v3().state_dict(), strict=True)
    return made


@pytest.mark.parametrize(
    ("name", "count"), [("sdt-v3-5m", 5_105_608), ("sdt-v3-10m", 10_023_112), ("sdt-v3-19m", 18_987_504)]
)
def test_parameters_of_the_published_sizes(name: str, count: int):
    with torch.device("meta"):
        made = SDTV3(CONFIGS[name])
    assert sum(p.numel() for p in made.parameters()) == count
    assert CONFIGS[name].grid == (14, 14)
    assert CONFIGS[name].depth == 8


def test_names_order_and_shapes_are_the_published_ones():
    ours, theirs = ({k: v.shape for k, v in made.state_dict().items()} for made in (SDTV3(TINY), MetaFormer()))
    assert list(ours.items()) == list(theirs.items())


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (33, 17)])
def test_output_equals_the_stand_in_bit_for_bit(net: SDTV3, size: tuple[int, int]):
    x = torch.randn(3, 3, *size)
    with torch.no_grad():
        out, wanted = net(x), published_sdt_v3()(x)
    assert torch.equal(out, wanted)
    assert (wanted - wanted[0]).abs().max() > 0.1


def test_gradients_equal_those_of_the_stand_in():
    theirs = copy.deepcopy(published_sdt_v3())
    ours = SDTV3(TINY).eval()
    ours.load_state_dict(theirs.state_dict())
    for made in (ours, theirs):
        made(large_images()).square().sum().backward()
    grads = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, grads[name].grad, rtol=1e-4, atol=1e-4 * grads[name].grad.abs().max()
        )
        assert parameter.grad.abs().max() > 0, name


def test_features_head_and_pooled_features(net: SDTV3):
    x = large_images()
    with torch.no_grad():
        tokens, pooled = net.forward_features(x), net.forward_head(net.forward_features(x), pre_logits=True)
        assert torch.equal(net.forward_head(tokens), net(x))
        assert torch.equal(nn.functional.linear(pooled, net.head.weight, net.head.bias), net(x))
        assert torch.equal(net.forward_features(x.unsqueeze(0)), tokens)
    assert tokens.shape == (1, 2, 16, 30)
    assert pooled.shape == (2, net.num_features)
    assert torch.equal(pooled, tokens[0].mean(1).clamp(0, 4).round())
    assert 0 < pooled.max() <= 4


def test_tokens_are_in_row_major_order(net: SDTV3):
    seen = []
    net.block4[-1].register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        tokens = net.forward_features(large_images())
    assert torch.equal(tokens[0, :, 4 * 2 + 3], seen[0][:, :, 2, 3])


def test_a_new_head_keeps_the_configuration_true(net: SDTV3):
    net.double().reset_classifier(7)
    assert net.config == dataclasses.replace(TINY, num_classes=7)
    assert net(large_images().double()).shape == (2, 7)
    net.reset_classifier(0)
    assert net.config.num_classes == 0
    assert net(large_images().double()).shape == (2, 30)
    assert [*SDTV3(net.config).state_dict()] == [*net.state_dict()]
    with pytest.raises(SettingError, match="num_classes=-1"):
        net.reset_classifier(-1)
    assert net.config.num_classes == 0


def test_copies_and_pickles_equal(net: SDTV3):
    x = large_images()
    with torch.no_grad():
        for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(twin(x), net(x))


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.zeros(3, 64, 64), "add the batch axis"),
        (torch.zeros(2, 1, 64, 64), "expected 3 channels"),
        (torch.zeros(2, 2, 3, 64, 64), "expected 1 steps"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "floating-point"),
    ],
)
def test_wrong_inputs_are_named(net: SDTV3, x: Tensor, match: str):
    with pytest.raises(LayoutError, match=match):
        net(x)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"T": 4}, "no time axis"),
        ({"heads": 7}, "two multiples of heads=7"),
        ({"dims": (31, 64, 128, 192)}, "an even number"),
        ({"dims": (32, 64, 128)}, "4 whole numbers"),
        ({"depths": (6, 0)}, "2 whole numbers"),
        ({"img_size": "224"}, "img_size='224'"),
        ({"levels": 0}, "levels=0"),
        ({"mlp_ratio": 2.5}, "mlp_ratio=2.5"),
        ({"num_classes": -1}, "num_classes=-1"),
    ],
)
def test_settings_that_make_no_network(changes: dict[str, object], match: str):
    with pytest.raises(SettingError, match=match):
        SDTV3Config(**changes)


def test_a_configuration_survives_a_file():
    assert SDTV3Config.from_dict(TINY.to_dict()) == TINY
    assert SDTV3Config.architecture == "sdt-v3"
    assert SDTV3Config(img_size=(33, 17)).grid == (3, 2)
    with pytest.raises(SettingError, match="Did you mean 'heads'"):
        SDTV3Config.from_dict({"head": 8})


def test_integer_spikes_and_their_gradient():
    x = torch.tensor([-1.0, 0.2, 0.6, 1.5, 2.5, 3.7, 9.0], requires_grad=True)
    spikes = IntegerSpike(4)(x)
    spikes.sum().backward()
    assert spikes.tolist() == [0, 0, 0.25, 0.5, 0.5, 1, 1]
    assert x.grad.tolist() == [0, 0.25, 0.25, 0.25, 0.25, 0.25, 0]
    assert IntegerSpike(2, norm=1)(x.half()).tolist() == [0, 0, 1, 2, 2, 2, 2]
    assert IntegerSpike(4)(x.half()).dtype == torch.float16


def test_levels_limit_every_neuron(net: SDTV3):
    binary = SDTV3(dataclasses.replace(TINY, levels=1))
    assert {m.max_value for m in net.modules() if isinstance(m, IntegerSpike)} == {4}
    assert {(m.max_value, m.Norm) for m in binary.modules() if isinstance(m, IntegerSpike)} == {(1, 1)}


def test_wrap_swaps_prunes_caps_levels_and_unwraps(net: SDTV3):
    x, seen = large_images(), []
    with torch.no_grad():
        before, state = net(x), copy.deepcopy(net.state_dict())
        dstsp.wrap(net, ps=0.3, t=1, example_input=x)
        plan = dstsp.summary(net)
        hook = net.block3[0].conv.spike1.register_forward_hook(lambda module, args, out: seen.append(out.max().item()))
        after = net(x)
        assert [name for name in net.state_dict() if "w_m" in name] == [
            f"{path}.mixer.w_m.weight" for path in ("block3.0.attn", "block3.1.attn", "block4.0.attn")
        ]
        hook.remove()
        dstsp.unwrap(net)
        assert torch.equal(net(x), before)
    assert "family sdt_v3" in str(plan)
    assert "16 -> 11" in str(plan)
    assert seen == [0.25]
    assert (after - before).abs().max() > 1e-3
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_wrap_without_swap_pruning_nothing_changes_nothing(net: SDTV3):
    x = large_images()
    with torch.no_grad():
        before = net(x)
        dstsp.wrap(net, ps=0.3, t=4, swap=False, example_input=x)
        net.dstsp.ps = 0.0
        assert torch.equal(net(x), before)
