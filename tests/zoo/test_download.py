"""The real download path against a Hub on loopback: pinned, resumed, checked, and nothing corrupt left behind."""

import dataclasses
import logging

import pytest
import torch
from huggingface_hub import constants

from snntorch_smixer import create_model, from_pretrained, load_pretrained
from snntorch_smixer.cards.folder import record_of_bytes
from snntorch_smixer.errors import CardError
from snntorch_smixer.zoo.registry import model_card
from tests.zoo.conftest import MEASURED, card_of, files_of
from tests.zoo.hub_server import TOKEN, Fault, Repo

SMALL = {"config.json", "card.toml"}
MODEL = {*SMALL, "model.safetensors"}


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def refused(name="org/tiny", **settings):
    with pytest.raises(CardError) as caught:
        from_pretrained(name, **settings)
    return str(caught.value)


def kept(cache):
    """Names of the files that the cache can give, and of the contents that it holds."""
    pointers = {path.name for path in cache.glob("*/snapshots/*/*")}
    blobs = [path for path in cache.glob("*/blobs/*") if path.is_file()]
    return pointers, len(blobs)


def is_same(net, other):
    x = torch.randn(4, 2, 16, 16)
    return torch.equal(net(x), other(x)) and len(other(x).unique(dim=0)) == 4


def test_a_model_is_downloaded_once(hub, published, tmp_path, cache):
    net = from_pretrained("org/tiny")
    assert is_same(net, from_pretrained(tmp_path / "tiny"))
    assert not net.training
    assert net.card.measured == (MEASURED,)
    assert kept(cache) == (MODEL, 3)
    assert [len(hub.asked(name)) for name in sorted(MODEL)] == [1, 1, 1]
    from_pretrained("org/tiny")
    assert [len(hub.asked(name)) for name in sorted(MODEL)] == [1, 1, 1]


def test_only_the_files_of_a_model_are_fetched(hub, published, cache):
    hub.add("org/tiny", {"evil.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x02."})
    from_pretrained("org/tiny")
    assert {r.path.rsplit("/", 1)[1] for r in hub.log if "/resolve/" in r.path} == MODEL
    assert kept(cache) == (MODEL, 3)


def test_the_token_stays_with_the_hub(hub, published):
    from_pretrained("org/tiny")
    assert {r.token for r in hub.log if "/resolve/" in r.path} == {f"Bearer {TOKEN}"}
    assert {r.token for r in hub.log if "/cdn/" in r.path} == {None}


def test_a_branch_is_followed_and_a_commit_is_not(hub, published, firing_net, save_model, tmp_path):
    from_pretrained("org/tiny")
    newer = hub.add("org/tiny", files_of(save_model(firing_net(num_classes=3), tmp_path / "newer")))
    assert from_pretrained("org/tiny").config.num_classes == 3
    assert from_pretrained(f"org/tiny@{newer}").config.num_classes == 3
    hub.log.clear()
    assert from_pretrained(f"org/tiny@{published}").config.num_classes == 5
    assert hub.log == []


def test_a_branch_by_name(hub, published, firing_net, save_model, tmp_path):
    hub.add("org/tiny", files_of(save_model(firing_net(num_classes=3), tmp_path / "b")), branch="dev/x")
    assert from_pretrained("org/tiny@dev/x").config.num_classes == 3
    assert from_pretrained("org/tiny").config.num_classes == 5


def test_files_of_one_load_are_of_one_commit(hub, published, firing_net, save_model, tmp_path, monkeypatch):
    """Somebody pushes between the first file and the second: the weights are still those of the first."""
    files = files_of(save_model(firing_net(num_classes=3), tmp_path / "newer"))

    def push_after_the_configuration(handler, name, content, headers, send=hub.server.RequestHandlerClass.send_file):
        send(handler, name, content, headers)
        if name == "config.json" and handler.command == "GET":
            hub.add("org/tiny", files)

    monkeypatch.setattr(hub.server.RequestHandlerClass, "send_file", push_after_the_configuration)
    assert from_pretrained("org/tiny").config.num_classes == 5
    assert from_pretrained("org/tiny").config.num_classes == 3


@pytest.mark.parametrize("name", sorted(MODEL))
def test_a_broken_connection_is_resumed(hub, published, tmp_path, cache, name, caplog, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50)  # the client keeps whole pieces; its own are of 10 MB
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    whole = hub.repos["org/tiny"].commits[published][name]
    hub.faults[name] = Fault(cut_after=100)
    with caplog.at_level(logging.CRITICAL, logger="huggingface_hub"):
        net = from_pretrained("org/tiny")
    assert [r.range for r in hub.asked(name)] == [None, "bytes=100-"]
    assert is_same(net, from_pretrained(tmp_path / "tiny"))
    [pointer] = cache.glob(f"*/snapshots/*/{name}")
    assert pointer.read_bytes() == whole


WRONG = [
    pytest.param(
        "model.safetensors", Fault(flip=-9), r": SHA-256 \w+\.\.\., the Hub announced \w+\.\.\.; the file is c"
    ),
    pytest.param("model.safetensors", Fault(flip=0), r": SHA-256 \w+\.\.\., the Hub announced"),
    pytest.param("model.safetensors", Fault(keep=100), r": SHA-256 \w+\.\.\., the Hub announced"),
    pytest.param("config.json", Fault(flip=60), r"config\.json: git hash \w+\.\.\., the Hub announced \w+\.\.\.; the"),
    pytest.param("config.json", Fault(keep=60), r"config\.json: git hash \w+\.\.\., the Hub announced"),
    pytest.param("card.toml", Fault(keep=60), r"card\.toml: "),
]


@pytest.mark.parametrize(("name", "fault", "what"), WRONG)
def test_wrong_bytes_are_refused_and_taken_out_of_the_cache(hub, published, tmp_path, cache, name, fault, what):
    size = len(hub.repos["org/tiny"].commits[published][name])
    hub.faults[name] = dataclasses.replace(fault, flip=None if fault.flip is None else fault.flip % size)
    with pytest.raises(CardError, match=what) as caught:
        from_pretrained("org/tiny")
    assert str(caught.value).endswith(" It was taken out of the cache.")
    assert kept(cache) == (set(), 0)
    hub.faults.clear()
    assert is_same(from_pretrained("org/tiny"), from_pretrained(tmp_path / "tiny"))
    assert kept(cache) == (MODEL, 3)


@pytest.mark.parametrize("name", sorted(MODEL))
def test_a_file_that_ends_early_is_refused(hub, published, tmp_path, cache, name):
    hub.faults[name] = Fault(keep_in_get=60)
    text = refused()
    assert text.startswith("from_pretrained: org/tiny at main: the download failed: Consistency check failed: ")
    assert text.endswith(" Try again.")
    assert name not in kept(cache)[0]
    assert not [*cache.rglob("*.incomplete")]
    hub.faults.clear()
    assert is_same(from_pretrained("org/tiny"), from_pretrained(tmp_path / "tiny"))


@pytest.mark.parametrize("name", sorted(MODEL))
def test_a_busy_server_is_an_error_in_words(hub, published, cache, name):
    hub.faults[name] = Fault(status=503)
    assert "from_pretrained: org/tiny at main: the download failed: " in refused()
    assert "503" in refused()
    assert name not in kept(cache)[0]
    hub.faults.clear()
    assert from_pretrained("org/tiny").config.num_classes == 5


def test_a_card_that_did_not_arrive_is_asked_for_again(hub, published):
    name = f"org/tiny@{published}"
    hub.faults["card.toml"] = Fault(status=503)
    assert "503" in refused(name)
    hub.faults.clear()
    assert from_pretrained(name).card.measured == (MEASURED,)


def test_a_server_that_is_busy_when_it_is_asked_about_the_weights_is_called_so(hub, published, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits 23 s between its tries
    hub.faults["model.safetensors"] = Fault(status=503, method="HEAD")
    text = refused()
    assert text.startswith("from_pretrained: org/tiny at main: the download failed: ")
    assert "503" in text


def test_a_corrupt_configuration_without_a_card_leaves_the_cache(hub, published, cache):
    files = hub.repos["org/tiny"].commits[published]
    hub.add("org/bare", {name: content for name, content in files.items() if name != "card.toml"})
    hub.faults["config.json"] = Fault(flip=0)
    text = refused("org/bare")
    assert "config.json: git hash " in text
    assert text.endswith("; the file is corrupt. Get it again. It was taken out of the cache.")
    assert kept(cache) == (set(), 0)
    hub.faults.clear()
    assert from_pretrained("org/bare").config.num_classes == 5


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_repository_is_checked_against_its_own_card(hub, published, cache, name):
    """The bytes are those that the Hub announces, and not those that the card beside them describes."""
    files = hub.repos["org/tiny"].commits[published]
    hub.add("org/mixed", {**files, name: files[name] + b" "})
    size = len(files[name])
    assert f"{name}: {size + 1} bytes, the card of org/mixed says {size}; " in refused("org/mixed")
    assert kept(cache) == (set(), 0)


def test_a_model_without_a_card(hub, published, cache):
    files = hub.repos["org/tiny"].commits[published]
    commit = hub.add("org/bare", {name: content for name, content in files.items() if name != "card.toml"})
    assert from_pretrained("org/bare").card is None
    hub.log.clear()
    assert from_pretrained(f"org/bare@{commit}").card is None
    assert hub.log == []  # that there is no card is remembered too


def test_missing_things_are_named(hub, published):
    files = hub.repos["org/tiny"].commits[published]
    hub.repos["org/gated"] = Repo(gated=True)
    hub.add("org/pickled", {"config.json": files["config.json"], "pytorch_model.bin": b"\x80\x02."})
    hub.add("org/readme", {"README.md": b"# Hello"})
    where = "from_pretrained: org/{} at {}: "
    assert refused("org/nothing") == where.format("nothing", "main") + (
        "no such repository, or a private one. Check the name; for a private one run `hf auth login`."
    )
    assert refused("org/gated") == where.format("gated", "main") + (
        "access is granted on request. Ask for it on the page of org/gated, then run `hf auth login`."
    )
    assert refused("org/tiny@v9") == where.format("tiny", "v9") + (
        "no such revision. Pass a commit, branch or tag of org/tiny."
    )
    assert refused(f"org/tiny@{'0' * 40}").startswith(where.format("tiny", "0" * 40) + "no such revision. ")
    for name in ("pickled", "readme"):
        assert refused(f"org/{name}") == where.format(name, "main") + (
            "no config.json with model.safetensors, so it is no model of this package. Pickled weights (.bin, .ckpt, "
            ".pickle, .pkl, .pt, .pth, .tar) are never loaded; `smixer zoo convert` turns a checkpoint that you trust "
            "into a model."
        )
    assert hub.asked("pytorch_model.bin") == []


def test_what_is_no_hub_is_called_so(hub, published):
    hub.names_commits = False
    assert refused() == f"from_pretrained: {hub.endpoint} is no Hub, it names no commit. Check HF_ENDPOINT."


def test_a_cache_of_ones_own(hub, published, tmp_path, cache):
    from_pretrained("org/tiny", cache_dir=tmp_path / "mine")
    assert kept(tmp_path / "mine") == (MODEL, 3)
    assert not cache.exists()
    hub.log.clear()
    from_pretrained(f"org/tiny@{published}", cache_dir=str(tmp_path / "mine"))
    assert hub.log == []


def test_other_faces_download_too(hub, published, firing_net, tmp_path):
    wanted = from_pretrained(tmp_path / "tiny")
    assert is_same(create_model("org/tiny", pretrained=True).eval(), wanted)
    net = load_pretrained(firing_net(), "org/tiny", cache_dir=tmp_path / "mine")
    assert is_same(net, wanted)
    assert from_pretrained("org/tiny", num_classes=3).config.num_classes == 3


@pytest.fixture
def pinned(hub, published, own_zoo, firing_net, tmp_path):
    """A model of the zoo, called pinned, whose weights are those of org/tiny."""
    (own_zoo / "pinned").mkdir()
    (own_zoo / "pinned" / "config.json").write_bytes((tmp_path / "tiny" / "config.json").read_bytes())
    files = from_pretrained(tmp_path / "tiny").card.files
    card = card_of(firing_net(), name="pinned", files=files).pinned("org/tiny", published)
    card.save(own_zoo / "pinned")
    return card


def test_a_published_name_is_downloaded_at_its_pinned_revision(
    hub, pinned, published, firing_net, save_model, tmp_path
):
    hub.add("org/tiny", files_of(save_model(firing_net(num_classes=3), tmp_path / "newer")))
    net = from_pretrained("pinned")
    assert net.config.num_classes == 5
    assert net.card == pinned == model_card("pinned")
    assert {r.path.split("/")[4] for r in hub.log if "/resolve/" in r.path} == {published}
    hub.log.clear()
    assert is_same(from_pretrained("pinned"), net)
    assert hub.log == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_published_name_is_checked_against_the_card_of_the_zoo(hub, pinned, published, cache, name, monkeypatch):
    """Even a Hub whose hashes and whose own card agree with its bytes cannot give other bytes than our card says."""
    files = hub.repos["org/tiny"].commits[published]
    good = files[name]
    files[name] = good.replace(b"\n", b" ") if name == "config.json" else good[:-1] + bytes([good[-1] ^ 1])
    theirs = dataclasses.replace(pinned, files={**pinned.files, name: record_of_bytes(files[name])})
    files["card.toml"] = theirs.to_toml().encode()
    text = refused("pinned")
    assert "the card of org/tiny says" in text
    assert text.endswith("the file is corrupt or another one. Get it again. It was taken out of the cache.")
    assert not {"config.json", "model.safetensors"} & kept(cache)[0]
    files[name] = good
    assert from_pretrained("pinned").config.num_classes == 5
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert from_pretrained("pinned").card.name == "pinned"
