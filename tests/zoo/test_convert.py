"""From a checkpoint file to a network of ours."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.models.sdt_v3 import SDTV3
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.zoo.convert import SOURCES, convert, looks_like, read_checkpoint
from tests.fakes.calibrate import images
from tests.zoo.upstream import STMixerV3, large_images, published_sdt_v3, published_stmixer


def test_sources_have_what_is_needed():
    assert [*SOURCES] == ["stmixer", "spikformer", "qkformer", "sdt-v3"]
    assert all(isinstance(source.DROPPED, tuple) and callable(source.convert) for source in SOURCES.values())


@pytest.mark.parametrize("allowed", [True, False])
def test_from_a_file_to_equal_logits(tmp_path: Path, allowed: bool):
    path, upstream = tmp_path / "checkpoint", published_stmixer()
    if allowed:
        torch.save({"state_dict": upstream.state_dict(), "epoch": 3}, path)
    else:
        save_file(upstream.state_dict(), path)
    made = convert(read_checkpoint(path, allow_pickle=allowed), "stmixer", T=4)
    assert type(made.net) is SMixerNet
    assert not made.net.training
    assert made.net.config == made.config
    assert (made.source, made.config.T, made.dropped) == ("stmixer", 4, ())
    with torch.no_grad():
        torch.testing.assert_close(made.net(images(4)), upstream(images(4)), rtol=1e-5, atol=1e-5)


def test_an_integer_network_with_its_heads():
    made = convert(published_sdt_v3().state_dict(), "sdt-v3", heads=3)
    assert type(made.net) is SDTV3
    assert made.config.heads == 3
    x = large_images(4)
    with torch.no_grad():
        assert torch.equal(made.net(x), published_sdt_v3()(x))


def test_the_checkpoint_is_not_shared_with_the_network():
    state = {name: tensor.clone() for name, tensor in published_stmixer().state_dict().items()}
    net = convert(state, "stmixer").net
    with torch.no_grad():
        net.stem.units[0].linear.weight.zero_()
    assert state["patch_embd.proj_conv.0.weight"].any()


def test_what_is_dropped_is_listed():
    made = convert(STMixerV3(1, sml=True).state_dict(), "stmixer")
    assert made.dropped[0] == "sml1.0.weight"
    assert len(made.dropped) == 6


def test_nothing_compared_is_said_so():
    made = convert(published_stmixer().state_dict(), "stmixer")
    assert made.verified == (
        "not verified: there was no published module to compare with. Have the published code importable and name a "
        "function that builds the model, as package.module:function."
    )


def test_compared_with_the_published_module():
    state = published_stmixer().state_dict()
    made = convert(state, "stmixer", T=4, upstream=STMixerV3(4))
    assert made.verified.startswith("equal to STMixerV3 on random images in double precision: largest difference ")
    with pytest.raises(CardError, match="the logits differ by"):
        convert(state, "stmixer", T=2, upstream=STMixerV3(4))


def test_a_wrong_source_is_told_the_right_one():
    mixer, integer = published_stmixer().state_dict(), published_sdt_v3().state_dict()
    with pytest.raises(CardError, match="look like those of stmixer: convert with source 'stmixer'"):
        convert(mixer, "sdt-v3")
    with pytest.raises(CardError, match="look like those of sdt-v3"):
        convert(integer, "qkformer")
    with pytest.raises(CardError) as found:
        convert({"w": torch.zeros(1)}, "stmixer")
    assert "look like" not in str(found.value)
    with pytest.raises(CardError) as found:
        convert({name: tensor for name, tensor in mixer.items() if name != "head.bias"}, "stmixer")
    assert "look like" not in str(found.value)


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (["block.0.token_mix.attn.linear_mix.0.weight"], "stmixer"),
        (["patch_embed.proj_conv.weight", "block.0.attn.q_linear.weight"], "spikformer"),
        (["patch_embed.proj_conv.weight", "block.0.attn.q_conv.weight"], "spikformer"),
        (["patch_embed1.proj_conv.weight", "stage1.0.tssa.q_conv.weight"], "qkformer"),
        (["downsample1_1.encode_conv.weight", "block3.0.conv.pwconv1.0.weight"], "sdt-v3"),
        (["downsample1_1.encode_conv.weight"], None),
        ([], None),
    ],
)
def test_typical_names(names: list[str], source: str | None):
    assert looks_like(dict.fromkeys(names, torch.zeros(1))) == source


@pytest.mark.parametrize(
    ("source", "settings", "error", "match"),
    [
        ("stmixers", {}, SettingError, "source='stmixers' is unknown. Expected one of stmixer"),
        ("stmixer", {"T": 0}, SettingError, "T=0 must be a whole number"),
        ("stmixer", {"heads": 0}, SettingError, "heads=0 must be a whole number"),
        ("stmixer", {"heads": 5}, CardError, "heads=5, but the weights have 3"),
        ("sdt-v3", {"heads": 3, "T": 4}, SettingError, "no time axis"),
        ("sdt-v3", {"heads": 4}, CardError, "4 do not divide the widths"),
    ],
)
def test_settings_that_do_not_fit(source: str, settings: dict[str, int], error: type[Exception], match: str):
    upstream = published_sdt_v3() if source == "sdt-v3" else published_stmixer()
    with pytest.raises(error, match=match):
        convert(upstream.state_dict(), source, **settings)


def test_tensors_whose_shapes_contradict_each_other():
    state = {**published_stmixer().state_dict(), "block.1.channel_mix.fc2.1.weight": torch.zeros(24, 95, 1)}
    with pytest.raises(CardError, match=r"blocks.1.mlp.contract.linear.weight: expected \(24, 96\), got \(24, 95\)"):
        convert(state, "stmixer")
