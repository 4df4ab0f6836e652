"""Loading weights: equal outputs, and a named file and reason for everything that is wrong with them."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from snntorch_smixer.errors import CardError
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.zoo import hub, registry, weights
from snntorch_smixer.zoo.hub import from_pretrained
from snntorch_smixer.zoo.weights import load_safetensors, load_weights


@pytest.fixture
def net(firing_net):
    return firing_net(prune=DSTSPConfig(ps=0.4, t=2, merge="fuse"))


@pytest.fixture
def folder(net, save_model, tmp_path):
    return save_model(net, tmp_path / "tiny")


@pytest.fixture
def no_card(folder):
    (folder / "card.toml").unlink()
    return folder


def images():
    return torch.randn(4, 2, 16, 16)


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("with_card", [True, False])
def test_a_folder_gives_equal_outputs_in_evaluation_mode(net, folder, as_text, with_card):
    if not with_card:
        (folder / "card.toml").unlink()
    loaded, x = from_pretrained(str(folder) if as_text else folder), images()
    assert isinstance(loaded, SMixerNet)
    assert not any(module.training for module in loaded.modules())
    assert loaded.config == net.config
    expected = net(x)
    assert len(expected.unique(dim=0)) == 4
    assert torch.equal(loaded(x), expected)
    assert all(p.requires_grad for p in loaded.parameters())


def test_a_shipped_name_gives_equal_outputs(net, own_zoo, save_model):
    save_model(net, own_zoo / "tiny")
    x = images()
    assert torch.equal(from_pretrained("tiny")(x), net(x))


def test_loading_draws_over_every_weight(net, folder):
    torch.manual_seed(1)
    first = from_pretrained(folder).state_dict()
    torch.manual_seed(2)
    second = from_pretrained(folder).state_dict()
    assert all(
        torch.equal(first[name], second[name]) and torch.equal(first[name], v) for name, v in net.state_dict().items()
    )


def refused(folder) -> str:
    with pytest.raises(CardError) as caught:
        from_pretrained(folder)
    return str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file(folder, keep):
    path = folder / "weights.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    assert refused(folder) == (
        f"{path}: {len(whole[:keep])} bytes, the card of tiny says {len(whole)}; the file is truncated or another one. "
        "Get it again."
    )


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_without_a_card(no_card, keep):
    path = no_card / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    text = refused(no_card)
    assert text.startswith(f"{path}: not a readable safetensors file (")
    assert text.endswith("). Get it again.")


@pytest.mark.parametrize("place", [0, 50, -1])
def test_a_flipped_byte(folder, place):
    path = folder / "weights.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 0x10
    path.write_bytes(damaged)
    text = refused(folder)
    assert text.startswith(f"{path}: SHA-256 ")
    assert text.endswith("; the file is corrupt or another one. Get it again.")


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_under_the_name_of_weights_is_not_run(no_card, net, protocol, tmp_path):
    path, trace = no_card / "weights.safetensors", tmp_path / "was_run"

    class Trap:
        def __reduce__(self):
            return trace.touch, ()

    path.write_bytes(pickle.dumps({"head.linear.bias": Trap()}, protocol=protocol))
    assert refused(no_card).startswith(f"{path}: not a readable safetensors file (")
    torch.save(net.state_dict(), path)
    assert refused(no_card).startswith(f"{path}: not a readable safetensors file (")
    assert not trace.exists()


def change_weights(folder, change):
    path = folder / "weights.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    return path


@pytest.mark.parametrize(
    ("change", "number", "detail"),
    [
        (
            lambda state: state.update({"head.linear.bias": torch.zeros(7)}),
            1,
            "head.linear.bias: expected (5,), got (7,)",
        ),
        (lambda state: state.pop("head.linear.bias"), 1, "head.linear.bias: expected (5,), got None"),
        (lambda state: state.update({"extra": torch.zeros(2)}), 1, "extra: expected None, got (2,)"),
        (
            lambda state: state.update({"head.linear.weight": torch.zeros(16, 5), "extra": torch.zeros(2)}),
            2,
            "extra: expected None, got (2,)",
        ),
    ],
    ids=["shape", "missing", "extra", "two"],
)
def test_weights_of_another_network(no_card, change, number, detail):
    path = change_weights(no_card, change)
    assert refused(no_card) == (
        f"{path}: {number} tensors do not fit this SMixerNet, first {detail}. "
        "Use the config.toml that belongs to these weights."
    )


def test_nothing_is_left_half_loaded(no_card, firing_net):
    path = change_weights(no_card, lambda state: state.pop("head.linear.bias"))
    other = firing_net()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(CardError, match="tensors do not fit this SMixerNet"):
        load_safetensors(other, path)
    with pytest.raises(CardError, match="tensors do not fit this SMixerNet"):
        load_weights(other, no_card)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


def test_missing_files(folder):
    (folder / "weights.safetensors").unlink()
    assert refused(folder) == (
        f"from_pretrained: {folder / 'weights.safetensors'} does not exist. Train the model, or name another folder."
    )
    (folder / "config.toml").unlink()
    assert refused(folder).startswith(f"{folder / 'config.toml'}: no such file.")
    missing = folder / "no_such_folder"
    assert refused(missing).startswith(f"{missing / 'config.toml'}: no such file.")


def test_the_first_thing_wrong_is_named_before_weights_are_read(folder, monkeypatch):
    monkeypatch.setattr(weights, "load_safetensors", lambda net, path: pytest.fail("weights were read"))
    card, config = folder / "card.toml", folder / "config.toml"
    text = card.read_text(encoding="utf-8")
    card.write_text(text.replace("license", "licence"), encoding="utf-8")
    assert refused(folder) == f"{card}: missing keys ['license'], unknown keys ['licence']. Restore the card."
    card.write_text("= 1", encoding="utf-8")
    assert refused(folder).startswith(f"{card}: not valid TOML:")
    card.write_text(text.replace("size_bytes = ", "size_bytes = 1"), encoding="utf-8")
    assert "the file is truncated or another one" in refused(folder)
    config.write_text(config.read_text(encoding="utf-8").replace("dim = 16", "dim = 15"), encoding="utf-8")
    assert refused(folder) == f"{config}: SMixerConfig: dim=15 must be a multiple of 8 and of heads=2."
    config.write_text("[", encoding="utf-8")
    assert refused(folder).startswith(f"{config}: not valid TOML:")


def test_unknown_names(own_zoo, net, save_model):
    save_model(net, own_zoo / "tiny")
    assert refused("tinny") == "zoo: no model is called 'tinny'. Did you mean tiny?"
    assert refused("zzz") == "zoo: no model is called 'zzz'. See list_models()."
    assert refused("smixer-4-384") == (
        "zoo: no weights of smixer-4-384 are shipped. With weights: tiny. "
        "create_model('smixer-4-384') builds it untrained."
    )


@pytest.mark.parametrize("name", ["../outside", "a/b", "tiny/../../outside", "no/../tiny"])
def test_a_name_with_a_path_that_is_no_folder_is_refused_without_reading(own_zoo, net, save_model, monkeypatch, name):
    save_model(net, own_zoo / "tiny")
    save_model(net, own_zoo.parent / "outside")  # reachable from the zoo, not from the working folder
    (own_zoo.parent / "here" / "deep").mkdir(parents=True)
    monkeypatch.chdir(own_zoo.parent / "here" / "deep")
    for module, reader in ((registry, "load_config"), (hub, "load_config"), (weights, "load_safetensors")):
        monkeypatch.setattr(module, reader, lambda *args: pytest.fail(f"{args} was read"))
    assert refused(name).startswith(f"zoo: no model is called {name!r}. ")


def test_weights_for_a_network_at_hand(net, folder, firing_net):
    torch.manual_seed(5)
    other = firing_net(T=2).train()
    assert load_weights(other, folder) is other
    assert other.training
    assert all(torch.equal(other.state_dict()[name], value) for name, value in net.state_dict().items())
