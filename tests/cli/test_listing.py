"""``smixer list``: the names of the library, their sizes, and where the weights are."""

import json

import pytest

from snntorch_smixer import create_model, list_models
from snntorch_smixer.cli import counts, listing
from snntorch_smixer.models.architectures import CONFIGS
from snntorch_smixer.models.saving import Blueprint, Wrapped
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.zoo.hub import construct

SMALLEST = ("smixer-2-256", "smixer-4-384", *[n for n in ("spikformer-4-384", "qkformer-4-384") if n in CONFIGS])


def names(out: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines()[1:]]


def test_it_lists_what_the_library_lists(smixer):
    out = smixer("list").out
    assert names(out) == list_models()
    assert " ".join(out.splitlines()[0].split()) == "name architecture data set input T DSTSP parameters weights"


def test_patterns(smixer):
    assert names(smixer("list", "smixer-8*").out) == list_models("smixer-8*")
    assert names(smixer("list", "fmnist").out) == list_models("*fmnist*")
    assert len(list_models("*fmnist*")) == 2


def test_json(smixer):
    rows = json.loads(smixer("list", "fmnist", "--json").out)
    assert rows[1] == {
        "name": "smixer-2-64-fmnist-dstsp",
        "architecture": "smixer",
        "dataset": "fashion-mnist",
        "input_size": [1, 28, 28],
        "T": 4,
        "ps": 0.3,
        "t": 1,
        "parameters": 179794,
        "weights": "shipped",
    }


def test_rows_for_people(smixer):
    rows = {line.split()[0]: line.split() for line in smixer("list", "smixer-?-*").out.splitlines()}
    assert rows["smixer-2-64-fmnist"][1:] == ["smixer", "fashion-mnist", "1x28x28", "4", "-", "0.18", "M", "shipped"]
    assert rows["smixer-4-384-dstsp"][-5:] == ["t=1", "8.22", "M", "architecture", "only"]


def test_no_large_network_is_built(smixer, monkeypatch):
    monkeypatch.setattr(counts, "construct", lambda blueprint: pytest.fail("a network was built"))
    smixer("list")


def test_where_the_weights_are(smixer, own_zoo, save_model, firing_net):
    for name in ("a", "b", "c"):
        save_model(firing_net(), own_zoo / name, name=name, repo_id="org/net", revision="0" * 40 if name == "b" else "")
        (own_zoo / name / "model.safetensors").unlink(missing_ok=name == "a")
    save_model(firing_net(), own_zoo / "a", name="a")
    shown = {row["name"]: row["weights"] for row in json.loads(smixer("list", "?", "--json").out)}
    assert shown == {"a": "shipped", "b": "org/net", "c": "not published"}
    assert names(smixer("list", "?", "--pretrained").out) == ["a", "b"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("smixer-4-385",), "smixer: list: no model matches 'smixer-4-385'. Did you mean smixer-4-384"),
        (("zzzzzz",), "list: no model matches 'zzzzzz'. Run smixer list for all names."),
        (("smixer-2-256", "--pretrained"), "list: no model with weights matches 'smixer-2-256'."),
    ],
)
def test_mistakes(smixer, words: tuple[str, ...], text: str):
    assert text in smixer("list", *words, code=2).err


@pytest.mark.parametrize("name", SMALLEST)
def test_parameters_are_those_of_the_network(name: str):
    net = create_model(name)
    shapes = counts.parameter_shapes(Blueprint(CONFIGS[name]))
    assert shapes == {key: tuple(p.shape) for key, p in net.named_parameters()}
    assert counts.count(shapes) == sum(p.numel() for p in net.parameters())


def test_parameters_of_weights_and_of_wrapped_networks(tmp_path, firing_net):
    net = firing_net(mixer="ssa")
    before = sum(p.numel() for p in net.parameters())
    net.save_pretrained(tmp_path)
    blueprint = Blueprint.load(tmp_path)
    assert counts.count(counts.parameter_shapes(blueprint, tmp_path)) == before
    (tmp_path / "model.safetensors").unlink()
    assert counts.count(counts.parameter_shapes(blueprint, tmp_path)) == before
    wrapped = Blueprint(blueprint.config, Wrapped(True, DSTSPConfig()))
    built = construct(wrapped)
    assert isinstance(built, SMixerNet)
    assert counts.count(counts.parameter_shapes(wrapped)) == sum(p.numel() for p in built.parameters()) != before
    assert counts.count(counts.parameter_shapes(wrapped), "w_m.weight") == 2 * 2 * 16**2


@pytest.mark.parametrize(
    ("ps", "t", "text"),
    [(None, None, "-"), (0.5, None, "ps=0.5"), (0.3, 1, "ps=0.3 t=1"), ((0.1, 0.25), 2, "ps=0.1/0.25 t=2")],
)
def test_pruning_for_people(ps, t, text: str):
    assert listing.pruning(ps, t) == listing.pruning(ps, t, "stem") == text


def test_a_place_inside_the_stem_is_told():
    assert listing.pruning(0.3, 1, "lif2") == "ps=0.3 t=1 place=lif2"
