"""Cards: read, written, and refused with the file's name when something is wrong."""

import dataclasses
import tomllib

import pytest
import torch

from snntorch_smixer.cards.card import Card, FileRecord, Measured, Reported, is_commit, is_repo_id
from snntorch_smixer.errors import CardError
from snntorch_smixer.tables import read_toml
from tests.zoo.conftest import MEASURED, REPORTED

SHA = "0123456789abcdef" * 4
FACTS = {"name": "tiny", "summary": "For tests.", "license": "MIT", "T": 4, "ps": 0.3, "t": 1, "input_size": (2, 8, 8)}


@pytest.fixture
def card():
    return Card(
        **FACTS,
        paper="A paper, 2026",
        dataset="noise",
        dataset_text="Noise (CC0)",
        mean=(0.5, 0.25),
        std=(0.5, 1.0),
        classes=("a", "é"),
        trains='train "tiny"',
        repo_id="org/tiny",
        revision="a" * 40,
        files={"model.safetensors": FileRecord(SHA, 12), "config.json": FileRecord(SHA[::-1], 0)},
        measured=(MEASURED,),
        reported=(REPORTED,),
    )


def test_a_card_is_read_back_equal(card, tmp_path):
    card = dataclasses.replace(card, summary='Quoted "é"\\n\nin two\tlines', ps=(0.0, 0.5), dataset_text="")
    card.save(tmp_path)
    assert Card.load(tmp_path) == card
    raw = tomllib.loads((tmp_path / "card.toml").read_text(encoding="utf-8"))
    assert raw["files"]["model.safetensors"] == {"sha256": SHA, "size_bytes": 12}
    assert raw["measured"][0]["command"] == 'train "tiny"'
    assert raw["reported"][0]["source"] == "A paper, table 1"


@pytest.mark.parametrize("change", [{"summary": "a\x7fb\x01"}, {"parameters": 10**15}, {"mean": (1, 0.5)}])
def test_what_is_written_can_be_read(card, tmp_path, change):
    card = dataclasses.replace(card, **change)
    card.save(tmp_path)
    assert Card.load(tmp_path) == card


@pytest.mark.parametrize("row", [MEASURED, REPORTED])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400])
def test_a_result_is_a_finite_number(row, value):
    with pytest.raises(CardError, match=r"^card: value=.* of a result must be finite\.$"):
        dataclasses.replace(row, value=value)


def test_results_of_ours_and_of_the_paper_are_apart(card):
    text = card.to_toml()
    assert text.index("[[measured]]") < text.index("[[reported]]")
    assert {f.name for f in dataclasses.fields(Measured)} - {f.name for f in dataclasses.fields(Reported)} == {
        "split",
        "samples",
        "command",
        "seed",
        "versions",
    }


def test_seven_keys_are_enough(tmp_path):
    Card(**FACTS).save(tmp_path)
    card = Card.load(tmp_path)
    assert (card.files, card.measured, card.reported, card.repo_id) == ({}, (), (), "")
    assert not card.is_published


def test_published_takes_repository_revision_and_hash(card):
    assert card.is_published
    assert not dataclasses.replace(card, revision="").is_published
    assert not dataclasses.replace(card, repo_id="").is_published
    assert not dataclasses.replace(card, files={}).is_published
    pinned = card.pinned("org/other", "b" * 40)
    assert (pinned.repo_id, pinned.revision) == ("org/other", "b" * 40)


ROW = 'sha256 = "{}"\nsize_bytes = {}\n'


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('license = "MIT"\n', "", "card: missing keys ['license']."),
        ('license = "MIT"', 'licence = "MIT"', "card: unknown key 'licence'. Did you mean 'license'?"),
        ('license = "MIT"', 'license = "MIT"\nurl = "x"', "card: unknown key 'url'. Known keys: name, summary, "),
        ('license = "MIT"', "license = 3", "card: license=3 is no text."),
        ('name = "tiny"', 'name = "../tiny"', "card: name='../tiny' is no model name of letters, digits, '.', '_'"),
        ('name = "tiny"', 'name = "a..b"', "card: name='a..b' is no model name"),
        ('name = "tiny"', 'name = ""', "card: name='' is no model name"),
        (
            "org/tiny",
            "https://evil.example/x",
            "card: repo_id='https://evil.example/x' is no org/name of the Hub. Other ",
        ),
        ("org/tiny", "org/../tiny", "card: repo_id='org/../tiny' is no org/name"),
        ("a" * 40, "main", "card: revision='main' is no commit of 40 hexadecimal digits. Pin a commit."),
        ("a" * 40, "A" * 40, "card: revision='AAAA"),
        ('"config.json"', '"pytorch_model.bin"', "card: files names 'pytorch_model.bin'. A model is config.json and m"),
        ('"config.json"', '"../config.json"', "card: files names '../config.json'. A model is"),
        (SHA, SHA[:-1], f"card: sha256='{SHA[:-1]}' is no SHA-256 of 64 lower-case hexadecimal digits."),
        (SHA, SHA.upper(), "card: sha256='0123456789ABCDEF"),
        ("size_bytes = 12", "size_bytes = -1", "card: size_bytes=-1 is no file size."),
        ("size_bytes = 12", "size_bytes = 12.5", "card: size_bytes=12.5 is no file size."),
        ("size_bytes = 12", 'url = "http://x"', "card [model.safetensors]: unknown key 'url'. Known keys: sha256, "),
        ("size_bytes = 12\n", "", "card [model.safetensors]: FileRecord.__init__() missing 1 required positional"),
        ("seed = 0\n", "", "card [measured]: Measured.__init__() missing 1 required positional argument: 'seed'."),
        ("seed = 0", 'seed = "0"', "card: seed='0' of a result must be of kind int."),
        ("value = 0.875", "value = true", "card: value=True of a result must be of kind float."),
        ("samples = 8", "samples = 8.0", "card: samples=8.0 of a result must be of kind int."),
        ('unit = "%"', 'unit = "%"\nlr = 1', "card [reported]: unknown key 'lr'. Known keys: metric, value, unit, "),
        (
            "std = [0.5, 1.0]",
            "std = [0.5, 0.0]",
            "card: mean=(0.5, 0.25) and std=(0.5, 0.0) must be finite numbers, and no std 0.",
        ),
        ("mean = [0.5, 0.25]", 'mean = ["a"]', "card: mean=('a',) and std=(0.5, 1.0) must be finite numbers"),
        ("mean = [0.5, 0.25]", "mean = [inf, 0]", "card: mean=(inf, 0) and std=(0.5, 1.0) must be finite numbers"),
        ("mean = [0.5, 0.25]", f"mean = [1{'0' * 400}]", "card: mean=(1000"),
        ("value = 0.875", "value = nan", "card: value=nan of a result must be finite."),
        ("parameters = 0", "parameters = -1", "card: parameters=-1 is no count."),
        ("parameters = 0", "parameters = 0.5", "card: parameters=0.5 is no count."),
        ("parameters = 0", "parameters = true", "card: parameters=True is no count."),
        (
            "input_size = [2, 8, 8]",
            "input_size = [8, 8]",
            "card: input_size=(8, 8) must be three whole numbers, (C, H,",
        ),
        ("input_size = [2, 8, 8]", "input_size = [2, 8, 0]", "card: input_size=(2, 8, 0) must be three whole numbers"),
        ("[[reported]]", "[reported]", "card [reported]: expected a table, got 'metric'."),
    ],
)
def test_a_bad_card_is_refused_with_the_file(card, tmp_path, old, new, what):
    text = card.to_toml()
    assert old in text
    (tmp_path / "card.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(CardError) as caught:
        Card.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'card.toml'}: {what}")
    assert str(caught.value).endswith(" Restore the card.")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"name = \n", "not valid TOML: Invalid value (at line 1, column 8). Restore the file."),
        (b"name = 'a'\nname = 'b'\n", "not valid TOML: Cannot overwrite a value"),
        (b"\xff\xfe", "not valid TOML: 'utf-8' codec can't decode byte 0xff"),
        (None, "no such file. Restore it, or name another folder."),
    ],
    ids=["syntax", "twice", "no text", "missing"],
)
def test_files_that_cannot_be_read_are_refused(tmp_path, content, what):
    if content is not None:
        (tmp_path / "card.toml").write_bytes(content)
    with pytest.raises(CardError) as caught:
        Card.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'card.toml'}: {what}")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"a = " + b"[" * 20_000, id="nesting"),
        pytest.param(b"T = " + b"9" * 5000, id="digits"),
    ],
)
def test_an_absurd_card_is_refused_as_a_card(tmp_path, content):
    (tmp_path / "card.toml").write_bytes(content)
    with pytest.raises(CardError) as caught:
        Card.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'card.toml'}: not valid TOML: ")


def test_images_are_normalised(card):
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1)
    assert card.preprocess(images).flatten().tolist() == [-1.0, 0.75]  # (0 - 0.5) / 0.5, (1 - 0.25) / 1
    assert torch.equal(card.preprocess(images / 255), card.preprocess(images))
    with pytest.raises(CardError) as caught:
        Card(**FACTS).preprocess(images)
    assert str(caught.value) == "card of tiny: no mean and std are known. Normalise the images yourself."


@pytest.mark.parametrize(
    "text",
    ["name", "a/b/c", "../x", "a/..", "a/b..c", "/a/b", "a/b\n", "a/", "a/b@c", "a\\b/c", "a/.b", ""],
)
def test_what_is_no_repository(text):
    assert not is_repo_id(text)
    assert is_repo_id("org/name")
    assert is_repo_id("o-1/n_2.x")


@pytest.mark.parametrize(
    "text", ["a/b.git", "a/b-", "a--b/c", "a/b.", pytest.param("a/" + "b" * 95, id="97 characters")]
)
def test_what_the_hub_takes_for_no_repository(text):
    assert not is_repo_id(text)
    assert is_repo_id("a/" + "b" * 94)
    assert is_repo_id("a-b/c.gita")


def test_commits():
    assert is_commit("0" * 40)
    assert not any(map(is_commit, ("main", "0" * 39, "0" * 41, "G" * 40, "0" * 40 + "\n")))


def test_toml_is_read_as_it_is(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('a = [1, 2.5]\n[b]\nc = "é"\n', encoding="utf-8")
    assert read_toml(path) == {"a": [1, 2.5], "b": {"c": "é"}}
