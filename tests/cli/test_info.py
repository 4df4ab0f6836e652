"""``smixer info``: card, configuration and size of a model; the installation."""

import json
import re

import pytest
import torch

from snntorch_smixer import Card, create_model, from_pretrained, set_memory
from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.cli import info
from snntorch_smixer.extras import EXTRAS
from snntorch_smixer.kernels.compiled import active
from snntorch_smixer.memory import MODES, memory_of
from snntorch_smixer.zoo.registry import model_blueprint, zoo_folder

NAME = "smixer-2-64-fmnist-dstsp"


def test_a_model_of_the_zoo(smixer):
    known = json.loads(smixer("info", NAME, "--json").out)
    net, card = from_pretrained(NAME), Card.load(zoo_folder() / NAME)
    mixing = sum(p.numel() for name, p in net.named_parameters() if name.endswith("w_m.weight"))
    total = sum(p.numel() for p in net.parameters())
    assert known["parameters"] == {"total": total, "w_m": mixing, "w_m_share": mixing / total}
    assert known["card"]["measured"][0]["value"] == card.measured[0].value
    assert known["card"]["files"]["model.safetensors"]["sha256"] == card.files["model.safetensors"].sha256
    assert known["config"] == {"architecture": "smixer", **net.config.to_dict()}


def test_for_people(smixer):
    out = smixer("info", NAME).out
    for line in ("license +MIT", "num_classes +10", "total +179,794", r"w_m_share +0\.2137", "ps: 0.3, t: 1, merge"):
        assert re.search(line, out), line
    assert "metric: top-1 accuracy, value: 0.9068" in out
    sections = ["model", "card", "config", "parameters", "training memory", "kernels"]
    assert [line for line in out.splitlines() if line[:1] not in ("", " ")] == sections


def test_the_memory_that_training_needs(smixer):
    known = json.loads(smixer("info", NAME, "--json").out)
    net, x = from_pretrained(NAME), torch.randn(16, 1, 28, 28)
    kept = {}
    for mode in MODES:
        set_memory(net, mode)
        kept[mode] = saved_bytes(net, x) / 2**20
    memory = known["training_memory"]
    assert {mode: memory[mode] for mode in MODES} == pytest.approx(kept)
    assert kept["recompute"] < kept["fused"] < kept["reference"]
    assert memory["default"] == memory_of(from_pretrained(NAME)) == "fused"
    assert "no map to compute again" not in memory["note"]
    tier = active()
    assert known["kernels"] == {"tier": tier["active"], "why": tier["why"]}
    out = smixer("info", NAME).out
    assert re.search(rf"recompute +{kept['recompute']:.4g}\n", out)
    assert "before dstsp.wrap" not in out


def test_a_net_of_neurons_and_one_that_was_wrapped(smixer, monkeypatch):
    monkeypatch.setattr(info, "expected_bytes", lambda config: {"reference": 3.0, "fused": 2.0, "recompute": 2.0})
    note = info._training_memory(model_blueprint("qkformer-10-512-m-dstsp"))["note"]
    assert 'here "recompute" is "fused"' in note
    assert note.endswith("before dstsp.wrap, without pruning")
    monkeypatch.setattr(info, "expected_bytes", lambda config: {})
    out = smixer("info", "spikformer-4-384").out
    assert "training memory" not in out
    assert "\nkernels\n" in out


def test_architectures_and_folders(smixer, tmp_path):
    known = json.loads(smixer("info", "smixer-2-256", "--json").out)
    assert known["card"] is None
    assert known["parameters"]["total"] == sum(p.numel() for p in create_model("smixer-2-256").parameters())
    from_pretrained(NAME, num_classes=3).save_pretrained(tmp_path / "mine")
    (tmp_path / "mine" / "card.toml").unlink()
    known = json.loads(smixer("info", tmp_path / "mine", "--json").out)
    assert known["config"]["num_classes"] == 3
    assert known["card"] is None
    assert known["parameters"]["total"] == 179794 - 7 * (64 + 1)


def test_of_the_hub(smixer, hub, save_model, firing_net, tmp_path):
    folder = save_model(firing_net(), tmp_path / "net")
    hub.add("org/net", {p.name: p.read_bytes() for p in folder.iterdir()})
    assert json.loads(smixer("info", "org/net", "--json").out)["card"]["name"] == "tiny"


def test_the_installation(smixer):
    known = json.loads(smixer("info", "--json").out)
    assert known["versions"]["torch"] == torch.__version__
    assert set(known["extras"]) == set(EXTRAS)
    assert known["places"]["zoo"] == str(zoo_folder())
    assert known["places"]["offline"] == "yes, HF_HUB_OFFLINE is set"
    assert "torch  " in smixer("info").out


def test_a_missing_extra_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(info.EXTRA_MODULES, "train", ("a_module_that_nobody_has",))
    monkeypatch.setitem(info.EXTRA_MODULES, "viz", ("json",))
    extras = info.installation()["extras"]
    assert extras["train"] == 'no: pip install "snntorch-smixer[train]"'
    assert extras["viz"] == "yes"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("smixer-4-385", "zoo: no model is called 'smixer-4-385'. Did you mean smixer-4-384"),
        ("org/nothing", "org/nothing at main is not in the cache, and HF_HUB_OFFLINE is set"),
        ("tests", "tests/config.json: no such file"),
    ],
)
def test_mistakes(smixer, name: str, text: str):
    assert text in smixer("info", name, code=2).err
