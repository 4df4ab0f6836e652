"""Published SDT-V3 state dicts load, compute the same, and anything else is refused in words."""

import dataclasses

import pytest
import torch
from torch import Tensor

from snntorch_smixer.errors import CardError
from snntorch_smixer.models.sdt_v3 import CONFIGS, SDTV3, SDTV3Config
from snntorch_smixer.zoo.sources.sdt_v3 import DROPPED, convert
from tests.zoo.upstream import large_images, published_sdt_v3


def state_dict() -> dict[str, Tensor]:
    return {**published_sdt_v3().state_dict(), "num_heads": torch.tensor(3)}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_weights_of_the_published_sizes_tell_the_configuration(name: str):
    with torch.device("meta"):
        state = SDTV3(CONFIGS[name]).state_dict()
    config, weights = convert(state)
    assert config == CONFIGS[name]
    assert weights.keys() == state.keys()


def test_all_settings_that_weights_tell():
    wanted = SDTV3Config((224, 224), 2, 7, dims=(8, 6, 20, 30), depths=(1, 3), heads=5, mlp_ratio=3, value_ratio=2)
    with torch.device("meta"):
        state = SDTV3(wanted).state_dict()
    assert convert({**state, "num_heads": torch.tensor(5)})[0] == wanted


def test_the_logits_are_the_published_ones():
    config, weights = convert(state_dict())
    assert config == SDTV3Config((224, 224), 3, 5, dims=(12, 16, 24, 30), depths=(2, 1), heads=3)
    net, x = SDTV3(config).eval(), large_images(4)
    net.load_state_dict(weights, strict=True)
    other = SDTV3(dataclasses.replace(config, heads=6)).eval()
    other.load_state_dict(weights, strict=True)
    with torch.no_grad():
        wanted = published_sdt_v3()(x)
        assert torch.equal(net(x), wanted)
        assert (other(x) - wanted).abs().max() > 0.01
    assert (wanted - wanted[0]).abs().max() > 0.1


def test_heads_that_the_weights_do_not_tell_are_asked_for():
    with pytest.raises(CardError, match=r"8 do not divide the widths \(24, 30\). Add it .*num_heads"):
        convert(published_sdt_v3().state_dict())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"downsample1_1.encode_conv.weight": None}, "expected a tensor downsample1_1.encode_conv.weight"),
        ({"head.bias": None}, "1 missing: head.bias"),
        ({"head_kd.weight": torch.zeros(5, 30)}, "1 unknown: head_kd.weight"),
        ({"head.weight": torch.zeros(5, 31)}, r"1 of another shape: head.weight \(5, 31\), expected \(5, 30\)"),
        ({"block4.0.attn.q_conv.0.weight": torch.zeros(30, 30)}, "1 of another shape: block4.0.attn.q_conv.0.weight"),
        ({"downsample1_2.encode_conv.weight": torch.zeros(13, 6, 3, 3)}, "of no network of this kind: .*even number"),
    ],
)
def test_what_is_no_sdt_v3_is_named(changes: dict[str, Tensor | None], match: str):
    state = {**state_dict(), **changes}
    with pytest.raises(CardError, match=match):
        convert({name: tensor for name, tensor in state.items() if tensor is not None})


def test_nothing_is_dropped():
    assert DROPPED == ()
