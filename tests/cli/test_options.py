"""One scheme of options: what prints results takes --json, what writes a file takes --out, under no other name."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from snntorch_smixer.cli import audit_paper, main
from snntorch_smixer.cli.arguments import Parser

NAME = "smixer-2-64-fmnist"
WRITES = {"train", "recover", "detect train", "detect predict", "cost", "bench", "viz", "zoo save", "zoo convert"}


def commands(parser: argparse.ArgumentParser, words: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield words, parser
    for name, choice in inner[0].choices.items() if inner else ():
        yield from commands(choice, f"{words} {name}".strip())


PARSERS: dict[str, Parser] = dict(commands(main._parser()))


def document(text: str) -> object:
    """A strict JSON document: NaN and infinity are none."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


@pytest.mark.parametrize("name", PARSERS)
def test_every_command_takes_json(name):
    assert "--json" in PARSERS[name].format_help()


@pytest.mark.parametrize("name", PARSERS)
def test_what_writes_takes_out_and_no_help_shows_another_name(name):
    shown = PARSERS[name].format_help()
    assert ("--out " in shown) == (name in WRITES)
    assert "--output" not in shown


@pytest.mark.parametrize("option", ["--out", "--output"])
def test_the_name_of_before_still_works(smixer, tmp_path: Path, option):
    assert smixer("cost", NAME, "--batch", 1, "--format", "csv", option, tmp_path / "cost.csv").out == ""
    assert (tmp_path / "cost.csv").read_text(encoding="utf-8").startswith("layer")


def test_tables_of_cost_as_json(smixer, monkeypatch, tmp_path: Path):
    chips = document(smixer("cost", "chips", "--json").out)
    assert {"name", "title", "node"} == set(chips[0])
    smixer("cost", "chips", "--json", "--out", tmp_path / "chips.json")
    assert document((tmp_path / "chips.json").read_text(encoding="utf-8")) == chips
    monkeypatch.setattr(audit_paper, "as_dict", lambda: {"macs": 1})
    assert document(smixer("cost", "audit-paper", "--json").out) == {"macs": 1}


def test_reports_of_cost_as_json(smixer):
    report = document(smixer("cost", NAME, "--batch", 1, "--json").out)
    assert report["model"] == "SMixerNet"
    assert report == document(smixer("cost", NAME, "--batch", 1, "--format", "json").out)
    fit = document(smixer("cost", NAME, "--batch", 1, "--fits", "--chip", "loihi1", "--json").out)
    assert (fit["profile"], fit["ok"]) == ("loihi1", True)
    words = ("cost", NAME, "w-prime", "--ps", 0.3, "--chip", "loihi1", "--batch", 1)
    plan, text = document(smixer(*words, "--json").out), smixer(*words).out
    assert [option["name"] for option in plan["plan"]["options"]] == ["F", "S", "G"]
    assert text.startswith(f"{plan['mixers']} mixers, N = {plan['plan']['load']['tokens']} to N' = ")


@pytest.mark.parametrize(
    "words",
    [
        ("chips", "--format", "csv"),
        ("audit-paper", "--format", "markdown"),
        (NAME, "--fits", "--format", "csv"),
        (NAME, "w-prime", "--ps", "0.3", "--format", "markdown"),
        (NAME, "--json", "--format", "csv"),
    ],
)
def test_a_format_that_is_none_is_refused_before_anything_is_measured(smixer, words):
    err = smixer("cost", *words, code=2).err
    assert err.startswith("smixer: cost: ")
    assert "--format" in err


def test_viz_as_json(smixer, tmp_path: Path):
    pytest.importorskip("matplotlib")
    np.save(tmp_path / "x.npy", np.zeros((2, 28, 28), np.uint8))
    words = ("viz", f"{NAME}-dstsp", "--input", tmp_path / "x.npy", "--out", tmp_path / "a.png", "--json")
    found = document(smixer(*words).out)
    assert (found["images"], found["steps"], found["out"]) == (2, 1, str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").is_file()


def test_cards_as_json(smixer, own_zoo: Path):
    (own_zoo.parent / "pyproject.toml").touch()
    assert document(smixer("zoo", "cards", "--check", "--json", code=1).out) == {"stale": ["docs/reference/models.md"]}
    assert document(smixer("zoo", "cards", "--json").out) == {"written": ["docs/reference/models.md"]}
    assert document(smixer("zoo", "cards", "--json").out) == {"written": []}


def test_the_folder_of_save_is_named_once(smixer, tmp_path: Path):
    smixer("zoo", "save", NAME, "--out", tmp_path / "a", "--img-size", 20)
    assert json.loads((tmp_path / "a" / "config.json").read_text())["config"]["img_size"] == [20, 20]
    assert "got two, expected one folder" in smixer("zoo", "save", NAME, "b", "--out", tmp_path / "c", code=2).err
    assert "got none, expected one folder" in smixer("zoo", "save", NAME, code=2).err
    assert "--img-size got 3 numbers" in smixer("zoo", "save", NAME, "b", "--img-size", 1, 2, 3, code=2).err
