"""Published STMixer state dicts load, compute the same, and anything else is refused in words."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import CardError
from snntorch_smixer.layers.stem import CIFAR_STRIDES, IMAGENET_STRIDES
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.zoo.sources.stmixer import DROPPED, convert
from tests.fakes.calibrate import images
from tests.zoo.upstream import CLASSES, DIM, HEADS, STMixerV3, frames, published_events, published_stmixer

MIXER = "block.0.token_mix.attn.linear_mix.{}.weight"


def converted(upstream: nn.Module) -> SMixerNet:
    """Our network, in evaluation mode, with the steps of ``upstream``."""
    config, weights = convert(upstream.state_dict())
    net = SMixerNet(dataclasses.replace(config, T=upstream.T)).eval()
    constants = {name for name in net.state_dict() if ".neuron." in name}
    missing, unknown = net.load_state_dict(weights, strict=False)
    assert set(missing) == constants
    assert not unknown
    return net


def check_equal(ours: Tensor, theirs: Tensor) -> None:
    assert (theirs - theirs[0]).abs().max() > 0.1, "the images look all the same"
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_weights_tell_all_but_the_steps():
    config, _ = convert(published_stmixer().state_dict())
    assert config == SMixerConfig((16, 16), 3, CLASSES, 1, dim=DIM, depth=2, heads=HEADS, strides=CIFAR_STRIDES)
    config, _ = convert(published_events().state_dict())
    assert config == SMixerConfig((64, 64), 2, CLASSES, 1, dim=DIM, depth=2, heads=HEADS, strides=IMAGENET_STRIDES)


@pytest.mark.parametrize("steps", [1, 4])
def test_images_give_the_published_logits(steps: int):
    upstream, x = published_stmixer(steps), images(6)
    with torch.no_grad():
        check_equal(converted(upstream)(x), upstream(x))


def test_event_frames_give_the_published_logits():
    upstream, x = published_events(), frames(4)
    with torch.no_grad():
        check_equal(converted(upstream)(x.transpose(0, 1)), upstream(x))


def test_each_head_keeps_its_matrix_and_each_channel_its_weights():
    state = published_stmixer().state_dict()
    net = converted(published_stmixer())
    for head in range(HEADS):
        assert torch.equal(net.blocks[0].mixer.matrix[head], state[MIXER.format(head)])
    main = DIM * 7 // 8
    assert torch.equal(net.head.linear.weight[:, :main], state["head.weight"][:, DIM - main :])
    assert torch.equal(net.head.linear.weight[:, main:], state["head.weight"][:, : DIM - main])
    assert torch.equal(
        net.blocks[1].mlp.contract.norm.bias[main:], state["block.1.channel_mix.fc2.2.bias"][: DIM - main]
    )
    assert torch.equal(net.blocks[1].mlp.expand.norm.bias, state["block.1.channel_mix.fc1.2.bias"])
    assert torch.equal(net.blocks[0].mixer.proj.linear.weight[main:], state["block.0.token_mix.fc2.1.weight"][:3, :, 0])


def test_the_surrogate_branches_are_dropped():
    bare = STMixerV3(1)
    state = {**STMixerV3(1, sml=True).state_dict(), **bare.state_dict()}
    assert len(state) > len(bare.state_dict())
    config, weights = convert(state)
    wanted_config, wanted = convert(bare.state_dict())
    assert config == wanted_config
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
    assert DROPPED == ("sml[0-9]*.*",)


def test_other_numbers_of_heads_are_refused_and_the_right_one_is_not():
    state = published_stmixer().state_dict()
    assert convert({**state, "num_heads": torch.tensor(HEADS)})[0].heads == HEADS
    with pytest.raises(CardError, match=f"heads=4, but the weights have {HEADS}. Leave heads out"):
        convert({**state, "num_heads": torch.tensor(4)})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"head.weight": None}, "expected a tensor head.weight"),
        ({"head.bias": None}, r"1 missing: head.bias\. Pass the state dict"),
        ({"block.0.token_mix.fc1.2.running_var": None}, "1 missing: block.0.token_mix.fc1.2.running_var"),
        ({"block.0.token_mix.attn.Wq.0.weight": torch.zeros(1)}, "1 unknown: block.0.token_mix.attn.Wq.0.weight"),
        ({MIXER.format(1): None}, "1 missing: .*2 unknown"),
        ({MIXER.format(1): torch.zeros(9, 9)}, "one N x N for all"),
        ({MIXER.format(0): torch.zeros(15, 15)}, "15 tokens from patches of 4 pixels"),
        ({"patch_embd.short_proj1.0.weight": torch.zeros(3, 3, 8, 8)}, "16 tokens from patches of 8 pixels"),
        ({"head.weight": torch.zeros(5, 25)}, "of no network of this kind: .*dim=25"),
    ],
)
def test_what_is_no_stmixer_is_named(changes: dict[str, Tensor | None], match: str):
    state = {**published_stmixer().state_dict(), **changes}
    with pytest.raises(CardError, match=match):
        convert({name: tensor for name, tensor in state.items() if tensor is not None})
