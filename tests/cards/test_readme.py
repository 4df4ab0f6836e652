"""The README of a model: front matter that the Hub reads, and text that says no more than the card."""

import dataclasses

import pytest

from snntorch_smixer.cards.card import Card, FileRecord, Measured, Reported
from snntorch_smixer.cards.readme import model_readme, models_table

MEASURED = Measured(
    "top-1 accuracy", 0.91914, "fashion-mnist", "all test images", 10_000, "smixer eval x", 3, "torch 2"
)
ENERGY = Measured("energy", 0.0125, "fashion-mnist", "all test images", 10_000, "smixer cost x", 3, "torch 2")
REPORTED = Reported("top-1 accuracy", 95.51, "%", "cifar-10", "A paper, table 1")
FILES = {"model.safetensors": FileRecord("ab" * 32, 1_234_567), "config.json": FileRecord("cd" * 32, 99)}


@pytest.fixture
def card():
    return Card(
        name="net-1",
        summary="A net.",
        license="Apache-2.0",
        T=4,
        ps=0.3,
        t=1,
        input_size=(1, 28, 32),
        paper="A paper, 2026",
        dataset="fashion-mnist",
        dataset_text="Fashion-MNIST (MIT)",
        mean=(0.25,),
        std=(0.5,),
        trains="smixer train net-1 --data DATA",
        repo_id="snntorch-smixer/net-1",
        revision="a" * 40,
        files=FILES,
        measured=(MEASURED, ENERGY),
        reported=(REPORTED,),
    )


def front_matter(text):
    yaml = pytest.importorskip("yaml")
    before, block, _ = text.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(block)


def test_the_front_matter_is_what_the_hub_reads(card):
    found = front_matter(model_readme(card))
    index = found.pop("model-index")
    assert found == {
        "library_name": "snntorch-smixer",
        "pipeline_tag": "image-classification",
        "license": "apache-2.0",
        "tags": ["snntorch", "spiking-neural-network", "neuromorphic", "smixer"],
        "datasets": ["zalando-datasets/fashion_mnist"],
        "metrics": ["accuracy"],
    }
    [result] = index[0]["results"]
    assert index[0]["name"] == "net-1"
    assert result["task"] == {"type": "image-classification"}
    assert result["dataset"] == {"name": "fashion-mnist, all test images", "type": "zalando-datasets/fashion_mnist"}
    assert result["metrics"] == [{"type": "accuracy", "value": 91.914}]


def test_the_hub_accepts_the_results(card):
    hub = pytest.importorskip("huggingface_hub")
    found = hub.ModelCard(model_readme(card)).data
    [result] = found.eval_results
    assert (found.model_name, result.metric_value) == ("net-1", 91.914)


def test_a_bare_card_has_a_front_matter_too():
    bare = Card(name="net-1", summary="A net.", license="", T=1, ps=0.0, t=1, input_size=(3, 8, 8))
    found = front_matter(model_readme(bare))
    assert set(found) == {"library_name", "pipeline_tag", "tags"}


@pytest.mark.parametrize(
    "changes",
    [
        {"license": "CC BY 4.0: see the file"},
        {"license": "no"},
        {"name": "1.0"},
        {"measured": (dataclasses.replace(MEASURED, dataset="own: noise"),)},
    ],
)
def test_odd_texts_are_texts_in_the_front_matter(card, changes):
    found = front_matter(model_readme(dataclasses.replace(card, **changes)))
    assert isinstance(found["license"], str)
    assert isinstance(found["model-index"][0]["name"], str)


def test_the_text_says_what_the_card_says(card):
    text = model_readme(dataclasses.replace(card, parameters=179_794))
    for line in (
        "# net-1",
        "| data set | Fashion-MNIST (MIT) |",
        "| input | 28 x 32, 1 channel |",
        "| mean, std | [0.25], [0.5], for pixels in [0, 1] |",
        "| time steps T | 4 |",
        "| pruning | DSTSP, ps=0.3: that share of the tokens is dropped; t=1 of 4 steps are kept |",
        "| parameters | 179,794 |",
        "| licence of the weights | Apache-2.0 |",
        f"| repository | snntorch-smixer/net-1 at {'a' * 40} |",
        f"| model.safetensors | 1,234,567 bytes, SHA-256 `{'ab' * 32}` |",
        'net = from_pretrained("net-1")',
        "logits = net(torch.randn(8, 1, 28, 32))  # net.card.preprocess(images) normalises",
        "smixer train net-1 --data DATA",
        "A paper, 2026",
    ):
        assert line in text.splitlines(), line
    assert "Nobody has published" not in text


def test_results_of_ours_and_of_the_paper_are_apart(card):
    text = model_readme(card)
    ours, papers = text.split("## Reported in the paper")
    assert (
        "| top-1 accuracy | 91.91% | fashion-mnist, all test images, 10,000 samples | `smixer eval x` | 3 | torch 2 |"
    ) in ours.split("## Measured by us")[1]
    assert "| energy | 0.0125 | fashion-mnist" in ours
    assert "95.51" not in ours
    assert "| top-1 accuracy | 95.51 % | cifar-10 | A paper, table 1 |" in papers
    assert "Not measured here, and not results of these weights." in papers
    bare = model_readme(dataclasses.replace(card, measured=(), reported=()))
    assert "Measured by us" not in bare
    assert "Reported" not in bare


def test_a_model_without_weights_says_so(card):
    text = model_readme(dataclasses.replace(card, files={}, measured=()))
    assert "**Nobody has published weights yet.** `create_model` builds the network untrained." in text
    assert 'net = create_model("net-1")  # untrained' in text
    assert "from_pretrained" not in text
    for repo_id in ("org/other", ""):
        text = model_readme(dataclasses.replace(card, files={}, measured=(), repo_id=repo_id))
        assert 'create_model("net-1")' in text


@pytest.mark.parametrize(
    ("repo_id", "name"), [("snntorch-smixer/net-1", "net-1"), ("org/other", "org/other"), ("", "path/to/net-1")]
)
def test_the_name_that_loads_it(card, repo_id, name):
    assert f'from_pretrained("{name}")' in model_readme(dataclasses.replace(card, repo_id=repo_id))


def test_a_changed_model_is_not_told_to_be_loaded_from_the_original(firing_net, tmp_path):
    net = firing_net()
    net.save_pretrained(tmp_path / "a")
    net.card = net.card.pinned("snntorch-smixer/a", "a" * 40)
    net.reset_classifier(3)
    net.save_pretrained(tmp_path / "mine")
    assert 'from_pretrained("path/to/mine")' in (tmp_path / "mine" / "README.md").read_text()
    assert net.card.repo_id == ""


def test_frames_are_shown_as_frames(card):
    text = model_readme(dataclasses.replace(card, input_size=(2, 64, 64), T=16, t=1))
    assert "net(torch.randn(16, 8, 2, 64, 64))" in text
    assert "| input | 64 x 64, 2 channels |" in text


def test_the_usage_runs(firing_net, tmp_path, monkeypatch):
    folder = tmp_path / "path" / "to" / "net"
    firing_net(in_channels=3).save_pretrained(folder)
    text = (folder / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["logits"].shape == (8, 5)


def test_the_table_of_models(card):
    unpublished = dataclasses.replace(card, name="b", files={}, measured=(), ps=0.0, t=4, revision="")
    shipped = dataclasses.replace(card, name="c", revision="", reported=())
    rows = models_table(
        [dataclasses.replace(c, parameters=n) for c, n in ((card, 179_794), (unpublished, 1_000_000), (shipped, 5_000))]
    ).splitlines()
    assert rows[0].count("|") == rows[1].count("|") == 10
    start = "| `{}` | fashion-mnist | {} M | 28 x 32, 1 channel | 4 | {} |"
    pruned = "ps=0.3, t=1"
    assert rows[2] == start.format("net-1", "0.18", pruned) + (
        " snntorch-smixer/net-1 | 91.91% (10,000 images) | 95.51 % |"
    )
    assert rows[3] == start.format("b", "1.00", "-") + " not published | - | 95.51 % |"
    assert " | - | 28 x 32, 1 channel | 4 |" in models_table([dataclasses.replace(card, parameters=0)])
    assert rows[4] == start.format("c", "0.01", pruned) + " shipped | 91.91% (10,000 images) | - |"
