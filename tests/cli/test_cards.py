"""``smixer zoo cards``: READMEs and the table of models are what the cards say, and stale ones are named."""

from pathlib import Path

import pytest

from snntorch_smixer import Card
from snntorch_smixer.cards.readme import model_readme, models_table
from snntorch_smixer.cli import cards
from snntorch_smixer.cli.main import main


@pytest.fixture
def zoo(own_zoo: Path, save_model, firing_net) -> Path:
    """A checkout with two models in its zoo."""
    (own_zoo.parent / "pyproject.toml").touch()
    for name in ("a", "b"):
        save_model(firing_net(), own_zoo / name, name=name)
        (own_zoo / name / "README.md").unlink()
    return own_zoo


def test_they_are_written_from_the_cards(smixer, zoo: Path):
    page = zoo.parent / "docs" / "reference" / "models.md"
    out = smixer("zoo", "cards").out
    assert out.splitlines() == [
        f"written: {name}" for name in ("zoo/a/README.md", "zoo/b/README.md", "docs/reference/models.md")
    ]
    found = {name: Card.load(zoo / name) for name in "ab"}
    for name, card in found.items():
        assert (zoo / name / "README.md").read_text(encoding="utf-8") == model_readme(card)
    text = page.read_text(encoding="utf-8")
    assert f"{cards.BEGIN}\n{models_table([found['a'], found['b']])}{cards.END}" in text
    assert text.startswith("# Models\n")
    assert "smixer zoo cards" in text.partition(cards.END)[2]
    assert smixer("zoo", "cards").out == "", "what is as it should be was written again"


def test_check_names_what_is_stale_and_writes_nothing(smixer, zoo: Path):
    assert len(smixer("zoo", "cards", "--check", code=1).out.splitlines()) == 3
    assert not (zoo / "a" / "README.md").exists()
    smixer("zoo", "cards")
    assert smixer("zoo", "cards", "--check").out == ""
    (zoo / "b" / "README.md").write_text("by hand\n", encoding="utf-8")
    assert smixer("zoo", "cards", "--check", code=1).out == "stale: zoo/b/README.md\n"
    assert (zoo / "b" / "README.md").read_text(encoding="utf-8") == "by hand\n"


def test_what_stands_around_the_table_stays(smixer, zoo: Path):
    page = zoo.parent / "docs" / "reference" / "models.md"
    page.parent.mkdir(parents=True)
    page.write_text(f"before\n{cards.BEGIN}\nold\n{cards.END}\nafter\n", encoding="utf-8")
    smixer("zoo", "cards")
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{cards.BEGIN}\n| model |")
    assert text.endswith(f"|\n{cards.END}\nafter\n")
    assert "old" not in text


def test_mistakes(smixer, zoo: Path):
    page = zoo.parent / "docs" / "reference" / "models.md"
    page.parent.mkdir(parents=True)
    page.write_text(f"{cards.END} {cards.BEGIN}", encoding="utf-8")
    assert f"{page}: no {cards.BEGIN} with {cards.END} behind it." in smixer("zoo", "cards", code=2).err
    assert not (zoo / "a" / "README.md").exists()
    (zoo / "b").rename(zoo / "c")
    assert f"{zoo / 'c'}: the card is called 'b'. Give card and folder" in smixer("zoo", "cards", code=2).err
    (zoo.parent / "pyproject.toml").unlink()
    assert f"zoo cards: {zoo} is no checkout of the repository." in smixer("zoo", "cards", code=2).err


def test_those_of_the_repository_are_what_their_cards_say(capsys: pytest.CaptureFixture[str]):
    assert main(["zoo", "cards", "--check"]) == 0, capsys.readouterr().out
