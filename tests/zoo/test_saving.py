"""Saving and loading: bit-identical networks, settings of now, all files or none, and cards that stay true."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from snntorch_smixer import dstsp, from_pretrained, load_pretrained
from snntorch_smixer.cards import folder as files_of_folders
from snntorch_smixer.errors import CardError
from snntorch_smixer.models.architectures import ARCHITECTURES, build
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.pruning.rates import Schedule
from tests.zoo.conftest import files_of

NAMES = ["README.md", "card.toml", "config.json", "model.safetensors"]


def images(size=16):
    return torch.randn(4, 2, size, size)


def is_identical(one, other):
    a, b = one.state_dict(), other.state_dict()
    same = [torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a]
    return [*a] == [*b] and all(same)


def test_a_network_comes_back_bit_identical(firing_net, tmp_path):
    net, x = firing_net(prune=DSTSPConfig(ps=0.4, t=2, merge="fuse")), images()
    net.save_pretrained(tmp_path / "tiny")
    again = from_pretrained(tmp_path / "tiny")
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == NAMES
    assert is_identical(net, again)
    assert again.config == net.config
    assert not any(module.training for module in again.modules())
    assert all(p.requires_grad for p in again.parameters())
    expected = net(x)
    assert len(expected.unique(dim=0)) == 4
    assert torch.equal(again(x), expected)


def test_batchnorm_buffers_travel(firing_net, tmp_path):
    net = firing_net()
    names = [name for name in net.state_dict() if name.endswith("num_batches_tracked")]
    assert len(names) == 14  # 6 of the stem, and 2 + 2 in each of two blocks
    for i, name in enumerate(names):
        net.state_dict()[name].fill_(i + 2**40)
    net.save_pretrained(tmp_path / "tiny")
    found = from_pretrained(tmp_path / "tiny").state_dict()
    assert [found[name].item() for name in names] == [i + 2**40 for i in range(len(names))]


def test_half_precision_comes_back_in_half_precision(firing_net, tmp_path):
    net = firing_net().bfloat16()
    net.save_pretrained(tmp_path / "tiny")
    assert is_identical(net, from_pretrained(tmp_path / "tiny"))


def test_half_precision_is_saved_as_it_is_and_gives_the_same_outputs_again(firing_net, tmp_path):
    net, x = firing_net().bfloat16(), images().bfloat16()
    net.save_pretrained(tmp_path / "tiny")
    stored = load_file(tmp_path / "tiny" / "model.safetensors")
    assert stored["blocks.0.mixer.w_m.weight"].dtype == torch.bfloat16
    again = from_pretrained(tmp_path / "tiny").bfloat16()
    assert is_identical(net, again)
    assert torch.equal(again(x), net(x))


@pytest.mark.parametrize(
    "settings",
    [
        DSTSPConfig(ps=0.0, t=None),
        DSTSPConfig(ps=(0.25, 0.5), t=3, merge="drop"),
        DSTSPConfig(ps=Schedule(0.125, 0.5), t=1, merge="sum", ranking="high"),
        DSTSPConfig(ps=0.5, t=2, w_prime="crop", spike_cap=2),
        DSTSPConfig(ps=0.25, t=None, active="eval"),
    ],
    ids=lambda settings: f"{settings.ps}",
)
def test_settings_of_now_are_restored(firing_net, tmp_path, settings):
    net, x = firing_net(prune=DSTSPConfig()), images()
    for key in ("ps", "t", "merge", "ranking", "w_prime", "spike_cap", "active"):
        setattr(net.dstsp, key, getattr(settings, key))
    card = net.save_pretrained(tmp_path / "tiny")
    again = from_pretrained(tmp_path / "tiny")
    assert again.dstsp.settings == settings
    assert torch.equal(again(x), net(x))
    rates = {Schedule(0.125, 0.5): (0.125, 0.5)}
    assert (card.ps, card.t) == (rates.get(settings.ps, settings.ps), settings.t or 4)


@pytest.mark.parametrize(("mixer", "swap"), [("smixer", False), ("ssa", True), ("ssa", False)])
def test_a_wrapped_network_comes_back_wrapped(firing_net, tmp_path, mixer, swap):
    net, x = firing_net(mixer=mixer), images()
    dstsp.wrap(net, ps=0.5, t=2, swap=swap)
    net.save_pretrained(tmp_path / "tiny")
    again = from_pretrained(tmp_path / "tiny")
    assert is_identical(net, again)
    assert torch.equal(again(x), net(x))
    assert (again.dstsp.ps, again.dstsp.t) == (0.5, 2)
    assert again.config.mixer == ("ssa" if (mixer, swap) == ("ssa", False) else "smixer")


def test_an_unwrapped_network_is_saved_without_pruning(firing_net, tmp_path):
    net, x = firing_net(), images()
    dstsp.unwrap(dstsp.wrap(net, ps=0.5, t=2))
    card = net.save_pretrained(tmp_path / "tiny")
    assert (card.ps, card.t) == (0.0, 4)
    again = from_pretrained(tmp_path / "tiny")
    assert again.dstsp is None
    assert torch.equal(again(x), net(x))


def test_an_existing_folder_is_replaced_and_its_other_files_stay(firing_net, tmp_path):
    firing_net().save_pretrained(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    net = firing_net(num_classes=3)
    net.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*NAMES, "notes.txt"]
    assert is_identical(net, from_pretrained(tmp_path))
    assert from_pretrained(str(tmp_path)).config.num_classes == 3


def test_saving_needs_no_evaluation_mode_and_changes_nothing(firing_net, tmp_path):
    net = firing_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.save_pretrained(tmp_path)
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_network_with_added_parts_is_refused_and_nothing_is_written(firing_net, tmp_path):
    net = firing_net()
    net.save_pretrained(tmp_path / "tiny")
    before = files_of(tmp_path / "tiny")
    net.extra = nn.Linear(2, 2)
    for folder in ("tiny", "new"):
        with pytest.raises(CardError) as caught:
            net.save_pretrained(tmp_path / folder)
        assert str(caught.value) == (
            "save_pretrained: 2 tensors are not those that the configuration of this SMixerNet builds, first "
            "extra.bias. Save the network as it was built; parts that were added are not in its configuration."
        )
    assert files_of(tmp_path / "tiny") == before
    assert not (tmp_path / "new").exists()


def test_a_head_of_another_size_than_the_configuration_is_refused(firing_net, tmp_path):
    net = firing_net()
    net.head.linear = nn.Linear(16, 7)
    with pytest.raises(CardError, match=r"^save_pretrained: 2 tensors are not .* first head\.linear\.bias\. "):
        net.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
    net.reset_classifier(7)
    net.save_pretrained(tmp_path)
    assert is_identical(net, from_pretrained(tmp_path))


def test_a_full_disk_leaves_the_folder_as_it_was(firing_net, tmp_path, monkeypatch):
    firing_net().save_pretrained(tmp_path)
    before = files_of(tmp_path)

    def fill_up(path, content, write=files_of_folders.Path.write_bytes):
        if path.name == "README.md":
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(files_of_folders.Path, "write_bytes", fill_up)
    with pytest.raises(OSError, match="No space left"):
        firing_net(num_classes=3).save_pretrained(tmp_path)
    assert files_of(tmp_path) == before


def test_something_in_the_way_leaves_the_folder_as_it_was(firing_net, tmp_path):
    firing_net().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(CardError) as caught:
        firing_net(num_classes=3).save_pretrained(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'model.safetensors'}: a folder stands where a file is to be written. Move it away."
    )
    assert (tmp_path / "config.json").read_bytes() == before


SMALL = {
    "smixer": {"img_size": (16, 16), "dim": 16, "depth": 2, "heads": 2},
    "spikformer": {"img_size": (16, 16), "T": 2, "dim": 32, "depth": 2, "heads": 2},
    "qkformer": {"img_size": (16, 16), "T": 2, "dim": 64, "depth": 4, "heads": 2},
    "sdt-v3": {"img_size": (32, 32), "dims": (16, 16, 32, 32), "depths": (2, 1), "heads": 2, "num_classes": 10},
}


def test_every_architecture_is_tried():
    assert set(ARCHITECTURES) == {*SMALL, "spike-yolo"}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("architecture", SMALL)  # detectors: tests/detect/test_detector.py
def test_every_architecture_comes_back_bit_identical(tmp_path, architecture, wrapped):
    config = ARCHITECTURES[architecture][0](**SMALL[architecture])
    net, x = build(config), torch.randn(3, 3, *config.img_size)
    for norm in (m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        norm.momentum = 1.0  # statistics of the last batch, so that neurons fire
        nn.init.constant_(norm.weight, 2.0)
        nn.init.normal_(norm.bias, std=0.5)
    with torch.no_grad():
        net(x)
    net.eval()
    if wrapped:
        dstsp.wrap(net, ps=0.25, t=1, example_input=x)
        net.dstsp.merge, net.dstsp.ranking, net.dstsp.active = "drop", "high", "eval"
    card = net.save_pretrained(tmp_path)
    assert (card.ps, card.t) == ((0.25, 1) if wrapped else (0.0, config.T))
    again = from_pretrained(tmp_path)
    assert is_identical(net, again)
    assert again.card == card
    assert not wrapped or again.dstsp.settings == net.dstsp.settings
    expected = net(x)
    assert len(expected.unique(dim=0)) == 3
    assert torch.equal(again(x), expected)
    other = from_pretrained(
        tmp_path, num_classes=3, in_channels=1, img_size=(config.img_size[0] * 2, config.img_size[1])
    )
    assert other(torch.randn(2, 1, *other.config.img_size)).shape == (2, 3)


def test_a_network_whose_matrices_are_not_made_yet_is_refused_in_words(tmp_path):
    net = dstsp.wrap(build(ARCHITECTURES["spikformer"][0](**SMALL["spikformer"])), ps=0.25, t=1)
    with pytest.raises(CardError, match=r"^save_pretrained: some W_M of this Spikformer are not made yet\. Run "):
        net.save_pretrained(tmp_path)
    build(net.config).save_pretrained(tmp_path)
    with pytest.raises(CardError, match=r"^load_pretrained: some W_M of this Spikformer are not made yet\. "):
        load_pretrained(net, tmp_path)


def test_the_configuration_is_plain_json(firing_net, tmp_path):
    firing_net(prune=DSTSPConfig(ps=Schedule(0.0, 0.5), t=None)).save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert (raw["library_name"], raw["format"], raw["architecture"]) == ("snntorch-smixer", 1, "smixer")
    assert raw["config"]["prune"]["ps"] == {"first": 0.0, "last": 0.5}
    assert "t" not in raw["config"]["prune"]
