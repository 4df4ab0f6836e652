"""Publishing: what goes to the Hub, what comes back, and refusals that change nothing."""

import base64
import json

import pytest
import torch
from huggingface_hub import constants
from torch import nn

from snntorch_smixer import dstsp, from_pretrained
from snntorch_smixer.cards.card import Card
from snntorch_smixer.cards.upload import UPLOADED, Published, push_folder
from snntorch_smixer.errors import CardError
from snntorch_smixer.models import network
from snntorch_smixer.pruning.pruner import DSTSPConfig
from tests.zoo.conftest import MEASURED, card_of, files_of
from tests.zoo.hub_server import TOKEN

COMMITTED = {"config.json", "model.safetensors", "card.toml", "README.md"}


def refused(call):
    with pytest.raises(CardError) as caught:
        call()
    return str(caught.value)


def on_the_hub(hub, repo_id):
    repo = hub.repos[repo_id]
    return {k: v for k, v in repo.commits[repo.branches["main"]].items() if k != ".gitattributes"}


@pytest.mark.parametrize("xet", [True, False])
def test_a_network_comes_back_bit_identical(hub, firing_net, monkeypatch, xet):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)  # the client has a way of its own for each
    net, x = firing_net(prune=DSTSPConfig(ps=0.25, t=2)), torch.randn(4, 2, 16, 16)
    published = net.push_to_hub("org/new", message="First")
    assert published == Published("org/new", hub.repos["org/new"].branches["main"], f"{hub.endpoint}/org/new")
    assert set(on_the_hub(hub, "org/new")) == COMMITTED
    for name in ("org/new", f"org/new@{published.revision}"):
        again = from_pretrained(name)
        assert [*again.state_dict()] == [*net.state_dict()]
        assert all(torch.equal(v, net.state_dict()[k]) for k, v in again.state_dict().items())
        assert torch.equal(again(x), net(x))
        assert again.dstsp.settings == net.dstsp.settings
        assert again.card == Card.from_dict({**vars_of(net.card), "revision": ""})


def vars_of(card):
    files = {name: {"sha256": f.sha256, "size_bytes": f.size_bytes} for name, f in card.files.items()}
    return {**vars(card), "files": files}


def test_it_is_one_commit_with_its_message(hub, firing_net, monkeypatch):
    bodies = []
    handler = hub.server.RequestHandlerClass

    def keep(self, repo_id, branch, body, commit=handler.commit):
        bodies.append([json.loads(line) for line in body.splitlines()])
        commit(self, repo_id, branch, body)

    monkeypatch.setattr(handler, "commit", keep)
    net = firing_net()
    net.push_to_hub("org/new", message="Trained for ever")
    [rows] = bodies
    assert rows[0]["value"]["summary"] == "Trained for ever"
    sent = {row["value"]["path"]: base64.b64decode(row["value"]["content"]) for row in rows[1:]}
    assert set(sent) == COMMITTED
    assert sent == on_the_hub(hub, "org/new")
    assert {r.token for r in hub.log if r.path.startswith("/api/models")} == {f"Bearer {TOKEN}"}


def test_the_card_is_pinned_here_and_names_the_repository_there(hub, firing_net):
    net = firing_net()
    published = net.push_to_hub("org/new", card=card_of(net))
    assert (net.card.repo_id, net.card.revision) == ("org/new", published.revision)
    assert net.card.is_published
    there = on_the_hub(hub, "org/new")
    assert b'repo_id = "org/new"' in there["card.toml"]
    assert b'from_pretrained("org/new")' in there["README.md"]
    assert b'license: "mit"' in there["README.md"]


def test_results_travel_with_unchanged_weights(hub, firing_net, save_model, tmp_path):
    net = from_pretrained(save_model(firing_net(), tmp_path / "tiny"))
    net.push_to_hub("org/new")
    assert from_pretrained("org/new").card.measured == (MEASURED,)
    assert on_the_hub(hub, "org/new")["model.safetensors"] == (tmp_path / "tiny" / "model.safetensors").read_bytes()


def test_a_second_push_is_a_second_commit(hub, firing_net):
    net = firing_net()
    first = net.push_to_hub("org/new")
    net.head.linear.bias.data[0] += 1
    second = net.push_to_hub("org/new")
    assert first.revision != second.revision
    new = from_pretrained("org/new").head.linear.bias
    assert torch.equal(new, net.head.linear.bias)
    old = from_pretrained(f"org/new@{first.revision}").head.linear.bias
    assert old[0] != new[0]


def test_an_unchanged_folder_makes_no_new_commit(hub, firing_net, tmp_path):
    firing_net().save_pretrained(tmp_path)
    first = push_folder(tmp_path, "org/new")
    assert push_folder(tmp_path, "org/new") == first
    assert len(hub.repos["org/new"].commits) == 2  # the empty one, and ours


def test_privacy_is_asked_for(hub, firing_net):
    firing_net().push_to_hub("org/new", private=True)
    firing_net().push_to_hub("org/open")
    assert hub.repos["org/new"].private
    assert not hub.repos["org/open"].private


def test_only_the_files_of_a_model_are_uploaded(hub, firing_net, tmp_path):
    firing_net().save_pretrained(tmp_path)
    for name in ("recipe.toml", "log.jsonl", "secret.env", "last.pt", "optimizer.bin"):
        (tmp_path / name).write_text("x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.json").write_text("{}")
    push_folder(tmp_path, "org/new")
    assert set(on_the_hub(hub, "org/new")) == set(UPLOADED) == {*COMMITTED, "recipe.toml", "log.jsonl"}


def test_nothing_is_left_on_this_machine(hub, firing_net, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    firing_net().push_to_hub("org/new")
    assert list(tmp_path.glob("tmp*")) == []


def test_a_wrapped_network_travels(hub, firing_net):
    net, x = dstsp.wrap(firing_net(mixer="ssa"), ps=0.5, t=2), torch.randn(4, 2, 16, 16)
    net.push_to_hub("org/new")
    assert torch.equal(from_pretrained("org/new")(x), net(x))


@pytest.mark.parametrize("repo_id", ["new", "../new", "a/b/c", "https://evil.example/a", "org/new@main", ""])
def test_what_is_no_repository_is_refused_first(firing_net, no_network, repo_id):
    assert refused(lambda: firing_net().push_to_hub(repo_id)) == (
        f"push_to_hub: {repo_id!r} is no repository. Expected org/name. Pass the name on the Hub."
    )


def test_offline_and_unreachable_are_told_apart(firing_net, online, monkeypatch, tmp_path):
    net = firing_net()
    net.save_pretrained(tmp_path)
    card = net.card
    online("http://127.0.0.1:1")
    assert refused(lambda: net.push_to_hub("org/new")) == (
        "push: http://127.0.0.1:1 cannot be reached. Check the network, and try again."
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refused(lambda: push_folder(tmp_path, "org/new")) == (
        "push: HF_HUB_OFFLINE is set, so nothing is uploaded. Unset it and try again."
    )
    assert net.card == card


@pytest.mark.parametrize("case", ["no token", "wrong token", "may not write"])
def test_an_account_that_may_not_write_is_told_so(hub, firing_net, monkeypatch, case):
    monkeypatch.setenv("HF_TOKEN", {"no token": "", "wrong token": "hf_x"}.get(case, TOKEN))
    hub.can_write = case != "may not write"
    text = refused(lambda: firing_net().push_to_hub("org/new"))
    assert text.startswith("push: the Hub refused org/new: ")
    assert text.endswith(" Log in with an account that may write there.")
    assert hub.repos == {}


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "card.toml"])
def test_what_is_no_model_folder_is_refused(firing_net, tmp_path, no_network, missing):
    firing_net().save_pretrained(tmp_path)
    (tmp_path / missing).unlink()
    assert refused(lambda: push_folder(tmp_path, "org/new")) == (
        f"push: {tmp_path / missing} does not exist. Save the model with save_pretrained first."
    )


def test_a_network_with_added_parts_is_not_pushed(hub, firing_net):
    net = firing_net()
    net.extra = nn.Linear(2, 2)
    assert refused(lambda: net.push_to_hub("org/new")).startswith("save_pretrained: 2 tensors are not those")
    assert hub.repos == {}
    assert net.card is None


def test_a_push_that_fails_leaves_the_card_as_it_was(hub, firing_net):
    net = firing_net()
    net.card = card_of(net)
    hub.can_write = False
    refused(lambda: net.push_to_hub("org/new"))
    assert net.card == card_of(net)
    assert network.Network.card is None


def test_metadata_that_the_hub_refuses_is_told_in_words(hub, firing_net, monkeypatch):
    handler = hub.server.RequestHandlerClass
    answer = handler.answer_json

    def refuse(self, value, status=200, **headers):
        if "errors" in value:
            value, status = {"errors": [{"message": "license is unknown"}], "warnings": []}, 400
        answer(self, value, status, **headers)

    monkeypatch.setattr(handler, "answer_json", refuse)
    text = refused(lambda: firing_net().push_to_hub("org/new"))
    assert text.startswith("push: the Hub does not take README.md of ")
    assert "license is unknown" in text
    assert text.endswith(" Mend the card.")


def test_a_folder_that_was_pushed_equals_the_download(hub, firing_net, tmp_path):
    firing_net().save_pretrained(tmp_path / "a")
    push_folder(tmp_path / "a", "org/new")
    assert on_the_hub(hub, "org/new") == files_of(tmp_path / "a")
    from_pretrained("org/new").save_pretrained(tmp_path / "b")
    assert files_of(tmp_path / "b") == files_of(tmp_path / "a")
