"""Hostile names, cards, configurations and pickles: refused in words, quickly, and nothing is run or left behind."""

import json
import pickle
import resource
import time

import pytest
import torch

from snntorch_smixer import create_model, from_pretrained
from snntorch_smixer.errors import CardError
from snntorch_smixer.models.sdt_v3 import SDTV3, SDTV3Config
from snntorch_smixer.models.spikformer import Spikformer, SpikformerConfig
from snntorch_smixer.zoo import hub as loading
from tests.zoo.conftest import card_of, files_of

MIB = 2**20


@pytest.fixture
def folder(made, tmp_path):
    """A model folder without a card, so that nothing but its contents is checked."""
    made(tmp_path / "tiny")
    (tmp_path / "tiny" / "card.toml").unlink()
    return tmp_path / "tiny"


def refused(name, **settings):
    """The words; it takes less than two seconds and less than 100 MB."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CardError) as caught:
        from_pretrained(name, **settings)
    assert time.perf_counter() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB on Linux
    return str(caught.value)


NOT_THERE = [
    "../x",
    "a/../b",
    "./../x",
    "a/b/c",
    "org/../../x",
    "org//x",
    "org/name@",
    "org/na me",
    "http://evil.example",
]
NOT_THERE += [
    "https://evil.example/org/name",
    "file:///etc",
    "org/..",
    "..\\x",
    "org/name\n",
    "org/name\0",
    "~/x",
    "a:b/c",
]


@pytest.mark.parametrize("name", NOT_THERE)
def test_what_is_no_name_is_refused_without_a_network(name, no_network, online, monkeypatch, tmp_path):
    online("http://127.0.0.1:1")
    monkeypatch.chdir(tmp_path)
    assert refused(name).startswith(f"zoo: no model is called {name!r}. ")
    with pytest.raises(CardError, match=r"^zoo: no model is called "):
        create_model(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "revision", ["../../x", "..", "a/../b", "/etc", "-x", ".x", "a b", "a\\b", "x@y", "x\n", "%2e"]
)
def test_a_revision_that_leaves_the_cache_is_refused(revision, no_network, online, tmp_path):
    online("http://127.0.0.1:1")
    assert refused(f"org/name@{revision}") == (
        f"from_pretrained: {revision!r} is no revision. Pass a commit, branch or tag of org/name."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a--b/c", "org/name.git", "org/name-", "org/" + "n" * 200])
def test_names_that_only_the_client_refuses(name, online):
    online("http://127.0.0.1:1")
    assert name in refused(name)


def test_a_name_that_is_too_long_for_a_file(no_network):
    assert "no model is called" in refused("a" * 5000)


def test_an_absolute_path_is_a_folder_and_nothing_else(tmp_path, no_network):
    assert refused(str(tmp_path)).startswith(f"from_pretrained: {tmp_path / 'config.json'} does not exist. ")
    assert refused(f"{tmp_path}/none/x").startswith("zoo: no model is called ")


ELSEWHERE = [
    (
        "repo_id = ",
        'repo_id = "https://evil.example/pickle.bin" #',
        "is no org/name of the Hub. Other addresses are not",
    ),
    ("repo_id = ", 'repo_id = "../../evil" #', "is no org/name of the Hub."),
    (
        "repo_id = ",
        'url = "https://evil.example/pickle.bin"\nrepo_id = ',
        "unknown key 'url'. Known keys: name, summary",
    ),
    (
        '"model.safetensors"',
        '"pytorch_model.bin"',
        "files names 'pytorch_model.bin'. A model is config.json and model.saf",
    ),
    (
        '"model.safetensors"',
        '"/etc/passwd"',
        "files names '/etc/passwd'. A model is config.json and model.safetensors; ",
    ),
    (
        "size_bytes = ",
        'url = "https://evil.example/x"\nsize_bytes = ',
        "unknown key 'url'. Known keys: sha256, size_bytes",
    ),
]


@pytest.mark.parametrize(("old", "new", "what"), ELSEWHERE)
@pytest.mark.parametrize("where", ["folder", "zoo", "hub"])
def test_a_card_cannot_point_elsewhere(made, own_zoo, tmp_path, hub, where, old, new, what):
    folder = (own_zoo if where == "zoo" else tmp_path) / "tiny"
    made(folder)
    text = (folder / "card.toml").read_text(encoding="utf-8")
    assert old in text
    (folder / "card.toml").write_text(text.replace(old, new), encoding="utf-8")
    if where == "hub":
        hub.add("org/evil", files_of(folder))
        assert what in refused("org/evil")
        assert not list((tmp_path / "cache").glob("*/blobs/*"))
        assert not list((tmp_path / "cache").glob("*/snapshots/*/*"))
        assert {r.path.split("/")[1] for r in hub.log} <= {"org", "cdn"}
    else:
        assert what in refused("tiny" if where == "zoo" else folder)
        assert hub.log == []


def test_a_card_on_the_hub_cannot_redirect_to_another_repository(hub, firing_net, save_model, tmp_path):
    folder = save_model(firing_net(), tmp_path / "tiny", repo_id="evil/other", revision="e" * 40)
    hub.add("org/tiny", files_of(folder))
    assert from_pretrained("org/tiny").config.num_classes == 5
    assert not [r for r in hub.log if "evil" in r.path]


class Trap:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return self.trace.touch, ()


@pytest.mark.parametrize("kind", ["pickle 2", "pickle 5", "torch", "torch old"])
@pytest.mark.parametrize("where", ["folder", "hub"])
def test_a_pickle_under_the_name_of_the_weights_is_not_run(folder, hub, tmp_path, kind, where):
    path, trace = folder / "model.safetensors", tmp_path / "was_run"
    trap = {"head.linear.bias": Trap(trace)}
    if kind.startswith("torch"):
        torch.save(trap, path, _use_new_zipfile_serialization=kind == "torch")
    else:
        path.write_bytes(pickle.dumps(trap, protocol=int(kind[-1])))
    hub.add("org/evil", files_of(folder))
    text = refused(folder if where == "folder" else "org/evil")
    assert "model.safetensors: not a readable safetensors file (its header claims " in text
    assert not trace.exists()
    pickle.loads(pickle.dumps(trap))
    assert trace.exists()  # the trap works


def test_a_pickle_under_the_name_of_the_configuration_is_not_run(folder, tmp_path):
    (folder / "config.json").write_bytes(pickle.dumps(Trap(tmp_path / "was_run")))
    assert "config.json: not valid JSON: " in refused(folder)
    assert not (tmp_path / "was_run").exists()


def change_config(folder, **changes):
    raw = json.loads((folder / "config.json").read_text())
    raw["config"].update(changes.pop("config", {}))
    raw.update(changes)
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


ABSURD = {
    "depth": [3, 1001, 10**9, 10**4299],
    "dim": [16 * 10**5, 8 * 10**9, 8 * 10**18, 8 * 10**400],
    "heads": [16],
    "T": [0, -1, 2**21 + 1, 10**18, 10**400],
    "img_size": [[40_000, 40_000], [4 * 10**9, 4 * 10**9], [10**30, 10**30], [16, 16, 16]],
    "in_channels": [10**9, 10**30, 10**4000],
    "num_classes": [10**12, 10**30, -1],
    "mlp_ratio": [1e18, 1e300, 1.7e308, 1e-9, float("nan"), float("inf"), -1],
    "strides": [[10**30, 1, 1, 1, 1], [1] * 5, [2] * 5000],
    "threshold": [float("nan"), float("inf"), 0, "1"],
    "prune": [{"ps": float("nan")}, {"ps": 1.5}, {"t": 10**9}, {"__class__": "os.system"}],
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in ABSURD.items() for v in values], ids=lambda v: None)
def test_an_absurd_configuration_is_refused_before_memory_is_taken(folder, monkeypatch, key, value):
    monkeypatch.setattr(loading, "read_tensors", lambda path: pytest.fail("weights were read"))
    text = refused(change_config(folder, config={key: value}))
    assert text.startswith((f"{folder / 'config.json'}: ", f"{folder / 'model.safetensors'}: "))


@pytest.mark.parametrize("prune", [{"ps": [0.1, 0.2, 0.3]}, {"ps": [0.1] * 50_000}])
def test_rates_for_other_blocks_are_refused_with_the_file(folder, prune):
    assert refused(change_config(folder, config={"prune": prune})).startswith(f"{folder / 'config.json'}: ")


WRAPPED = {"swap": True, "dstsp": {"ps": 0.3}}


def test_a_wrapped_configuration_is_checked_before_its_matrices_are_made(folder, monkeypatch):
    """128 x 128 pixels in a file of 57 kB: each W_M would take 8 MB."""
    monkeypatch.setattr(loading, "wrap", lambda *args, **settings: pytest.fail("the network was wrapped"))
    text = refused(change_config(folder, config={"mixer": "ssa", "img_size": [128, 128]}, wrapped=WRAPPED))
    assert text.startswith(f"{folder / 'model.safetensors'}: no W_M of 1024 tokens. Use the config.json that belongs")


@pytest.mark.parametrize(
    ("side", "what"),
    [
        (4 * 10**9, f"an input of more than {2**24} values over T steps is not loaded."),
        (400, f"more than {2**12} tokens in a wrapped network are not loaded."),
    ],
)
def test_a_wrapped_configuration_of_an_absurd_image_is_refused(folder, side, what):
    config = {"mixer": "ssa", "img_size": [side, side]}
    text = refused(change_config(folder, config=config, wrapped={**WRAPPED, "swap": False}))
    assert text == f"{folder / 'config.json'}: {what} Restore the file."


def test_a_wrapped_configuration_is_checked_before_the_network_runs(tmp_path, monkeypatch):
    Spikformer(SpikformerConfig(dim=32, depth=1, heads=2)).save_pretrained(tmp_path)
    (tmp_path / "card.toml").unlink()
    monkeypatch.setattr(loading, "wrap", lambda *args, **settings: pytest.fail("the network was wrapped"))
    text = refused(change_config(tmp_path, config={"T": 10**6}, wrapped={**WRAPPED, "swap": False}))
    assert f"{tmp_path / 'config.json'}: an input of more than {2**24} values" in text


def test_absurd_depths_are_refused_before_anything_is_built(tmp_path, monkeypatch):
    config = SDTV3Config(img_size=(64, 64), dims=(16, 16, 32, 32), depths=(1, 1), heads=2)
    SDTV3(config).save_pretrained(tmp_path)
    (tmp_path / "card.toml").unlink()
    monkeypatch.setattr(loading, "shapes_of", lambda config: pytest.fail("a network of 10^9 blocks was built"))
    refused(change_config(tmp_path, config={"depths": [10**9, 1]}))


@pytest.mark.parametrize(
    ("config", "dstsp"), [({"prune": {"ps": 0.3}}, {"ps": 0.3}), ({}, {"ps": [0.1] * 9}), ({}, {"ps": 0.1, "t": 9})]
)
def test_a_wrapped_configuration_that_cannot_be_wrapped_is_refused(folder, config, dstsp):
    text = refused(change_config(folder, config=config, wrapped={"swap": False, "dstsp": dstsp}))
    assert text.startswith(f"{folder / 'config.json'}: ")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{"config":' + b"[" * 100_000, "not valid JSON: maximum recursion depth exceeded"),
        (b'{"a":"' + b"x" * MIB + b'"}', f"{MIB + 8} bytes; a configuration has at most {MIB}. Get it again."),
        (b'{"format":' + b"9" * 5000 + b"}", "not valid JSON: Exceeds the limit (4300 digits)"),
        (b'{"format":NaN}', "format=nan, expected 1. "),
        (b"[]", "expected an object, got list. Restore the file."),
        (b"null", "expected an object, got NoneType. "),
        (b"", "not valid JSON: Expecting value"),
        (b"\x80\x04", "not valid JSON: 'utf-8' codec can't decode"),
        (b'{"format":1,"architecture":"smixer","config":{"beta":NaN}}', "SMixerConfig: beta=nan is outside [0, 1]. "),
    ],
    ids=["nesting", "size", "digits", "NaN", "list", "null", "empty", "binary", "NaN inside"],
)
def test_a_file_that_is_no_configuration(folder, content, what):
    (folder / "config.json").write_bytes(content)
    assert refused(folder).startswith(f"{folder / 'config.json'}: {what}")


def test_a_card_of_other_facts_is_refused(folder, firing_net):
    card_of(firing_net(), T=10**18).save(folder)
    assert "the configuration has T=4, the card of tiny says 1000000000000000000" in refused(folder)
