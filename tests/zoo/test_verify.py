"""Comparing with the published code: equal, unequal, and everything that would make the comparison say nothing."""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.zoo.convert import SOURCES, convert, upstream_class, verify
from tests.fakes.neurons import StoredTLIF
from tests.zoo.upstream import STMixerV3, images, published_events, published_sdt_v3, published_stmixer


def ours() -> SMixerNet:
    return convert(published_stmixer().state_dict(), "stmixer", T=4).net


class Answers(nn.Module):
    """An upstream model whose answer is ``change(logits)``."""

    def __init__(self, change) -> None:
        super().__init__()
        self.inner, self.change = copy.deepcopy(published_stmixer()), change

    def forward(self, x: Tensor) -> object:
        return self.change(self.inner(x))

    def load_state_dict(self, state, strict=True):
        return self.inner.load_state_dict(state, strict=strict)


class Forgetful(StoredTLIF):
    """Charge outlives a call until ``reset``."""

    charge: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.charge, charge = x, self.charge
        return super().forward(x + charge)

    def reset(self) -> None:
        self.charge = 0.0


def test_equal_networks():
    state = published_stmixer().state_dict()
    assert verify(ours(), STMixerV3(4), state) < 1e-10
    assert verify(ours(), STMixerV3(4), state, images=images(3, 5)) < 1e-10


def test_event_frames_are_given_batch_first():
    upstream = published_events()
    net = convert(upstream.state_dict(), "stmixer", T=4).net
    assert verify(net, upstream, upstream.state_dict()) < 1e-10


def test_an_integer_network():
    upstream = published_sdt_v3()
    net = convert(upstream.state_dict(), "sdt-v3", heads=3).net
    assert verify(net, upstream, upstream.state_dict(), images=images(3, size=64)) < 1e-10


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: (logits, torch.zeros(1)),
        lambda logits: [logits, logits + 1],
        lambda logits: torch.stack((logits - 1, logits + 1)),
        lambda logits: {"logits": logits},
    ],
)
def test_outputs_of_other_forms(change):
    assert verify(ours(), Answers(change), published_stmixer().state_dict()) < 1e-10


@pytest.mark.parametrize("name", ["blocks.1.mixer.w_m.weight", "stem.short.norm.bias", "head.linear.weight"])
def test_one_wrong_tensor_is_found(name: str):
    net = ours()
    with torch.no_grad():
        tensor = net.get_parameter(name)
        tensor.copy_(tensor.roll(1, 0))
    with pytest.raises(CardError, match=r"the logits differ by .* of how far they vary"):
        verify(net, STMixerV3(4), published_stmixer().state_dict())


def test_other_steps_are_found():
    net = convert(published_stmixer().state_dict(), "stmixer", T=3).net
    with pytest.raises(CardError, match=r"heads and T of the converted network.*T=3"):
        verify(net, STMixerV3(4), published_stmixer().state_dict())


def test_neurons_that_answer_in_single_precision():
    upstream = STMixerV3(4)
    for module in upstream.modules():
        if isinstance(module, StoredTLIF):
            module.register_forward_hook(lambda module, args, out: out.float())
    assert verify(ours(), upstream, published_stmixer().state_dict()) < 1e-10


def test_neurons_with_a_memory_start_from_rest():
    upstream = STMixerV3(4)
    upstream.block[0].token_mix.fc1[0] = Forgetful(4)
    upstream.train()(images(4))
    before = upstream.block[0].token_mix.fc1[0].charge
    upstream.block[0].token_mix.fc1[0].charge = before.detach()
    assert verify(ours(), upstream, published_stmixer().state_dict()) < 1e-10


def test_both_models_stay_as_they_are():
    net, upstream = ours(), STMixerV3(4).train()
    before = [copy.deepcopy(model.state_dict()) for model in (net, upstream)]
    verify(net, upstream, published_stmixer().state_dict())
    for model, state in zip((net, upstream), before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        assert all(p.dtype == torch.float32 for p in model.parameters())
        assert not any(module._forward_pre_hooks for module in model.modules())
    assert upstream.training


def test_branches_may_be_missing_on_either_side():
    dropped = SOURCES["stmixer"].DROPPED
    with_branches = STMixerV3(4, sml=True)
    state = {**with_branches.state_dict(), **published_stmixer().state_dict()}
    assert verify(ours(), STMixerV3(4), state, dropped=dropped) < 1e-10
    assert verify(ours(), with_branches, published_stmixer().state_dict(), dropped=dropped) < 1e-10
    with pytest.raises(CardError, match=r"names are not both .* first sml1\.0\.weight"):
        verify(ours(), STMixerV3(4), state)


@pytest.mark.parametrize(
    ("upstream", "match"),
    [
        (lambda: Answers(lambda logits: torch.zeros_like(logits)), "same logits for every image"),
        (lambda: Answers(lambda logits: logits * float("nan")), "same logits for every image"),
        (lambda: Answers(lambda logits: logits[:, 1:]), r"gave \(4, 4\), expected logits \(4, 5\)"),
        (lambda: Answers(lambda logits: "cat"), r"gave None, expected logits \(4, 5\)"),
        (lambda: Answers(lambda logits: logits.cat()), r"Answers failed on \(4, 3, 16, 16\)"),
        (lambda: STMixerV3(4, times=4), r"the weights do not fit STMixerV3"),
        (lambda: nn.Linear(2, 2), "names are not both in the checkpoint and in Linear, first weight"),
    ],
)
def test_comparisons_that_say_nothing(upstream, match: str):
    with pytest.raises(CardError, match=match):
        verify(ours(), upstream(), published_stmixer().state_dict())


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path; what is imported from it is forgotten afterwards."""
    names = ("model", "models", "models.STMixer", "STMixer", "qkformer")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("source", "file", "name"),
    [
        ("stmixer", "models/STMixer.py", "STMixerV3"),
        ("stmixer", "STMixer.py", "STMixerV3"),
        ("spikformer", "model.py", "Spikformer"),
        ("qkformer", "model.py", "spiking_transformer"),
        ("qkformer", "qkformer.py", "hierarchical_spiking_transformer"),
        ("sdt-v3", "models.py", "Spiking_vit_MetaFormer_Spike_SepConv"),
    ],
)
def test_published_code_on_the_import_path_is_found(importable: Path, source: str, file: str, name: str):
    assert upstream_class(source) is None
    path = importable / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"from torch import nn\nclass {name}(nn.Module):\n    pass\n", encoding="utf-8")
    assert upstream_class(source).__name__ == name


def test_modules_of_the_same_name_are_not_run(importable: Path):
    (importable / "models.py").write_text("raise SystemExit('ran')\n", encoding="utf-8")
    assert upstream_class("sdt-v3") is None
    assert upstream_class("stmixer") is None
    assert "models" not in sys.modules


def test_published_code_that_does_not_import_is_none(importable: Path):
    text = "import no_such_library\nclass Spikformer(no_such_library.Module): ...\n"
    (importable / "model.py").write_text(text, encoding="utf-8")
    assert upstream_class("spikformer") is None


def test_an_unknown_source():
    with pytest.raises(SettingError, match=r"source='sdt-v9' is unknown\. Expected one of stmixer"):
        upstream_class("sdt-v9")
