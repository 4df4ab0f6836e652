"""``smixer`` itself: help, version, typing errors, and how each way to fail ends."""

import errno
import io
import json
import os
import subprocess
import sys
import warnings

import pytest
import snntorch
import torch

from snntorch_smixer import list_models
from snntorch_smixer.cli import listing
from snntorch_smixer.cli.main import main, package_version
from snntorch_smixer.errors import MissingExtra, SettingError

NAMES = ("list", "info", "eval", "train", "recover", "search", "detect", "cost", "audit", "bench", "viz", "zoo")
ZOO = ("save", "push", "convert", "verify", "cards")
ALL = [[name] for name in NAMES] + [["zoo", name] for name in ZOO]


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_has_help_with_examples(smixer, words: list[str]):
    out = smixer(*words, "--help").out
    assert out.startswith(f"usage: smixer {' '.join(words)} ")
    shown = out.split("examples:\n")[1]
    # An example of `zoo` is one of a command of zoo.
    assert shown.count(f"smixer {' '.join(words)} ") >= 2


def test_help_names_all_commands(smixer):
    out = smixer("--help").out
    assert [line.split()[0] for line in out.splitlines() if line[:4] == "    " and line[4] != " "] == list(NAMES)
    assert "Exit code: 0" in out


def test_version(smixer):
    out = smixer("--version").out
    assert out.startswith(f"smixer {package_version()} (torch {torch.__version__}, snntorch {snntorch.__version__}, ")


def test_nothing_to_do_prints_the_help(smixer):
    assert "usage: smixer" in smixer(code=2).err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["lst"], "smixer: command 'lst' is unknown. Did you mean list? See smixer --help.\n"),
        (["zzz"], "smixer: command 'zzz' is unknown. Choose from "),
        (["zoo", "verfy"], "smixer zoo: command 'verfy' is unknown. Did you mean verify? See smixer zoo --help.\n"),
        (["zoo"], "smixer zoo: the following arguments are required: COMMAND. See smixer zoo --help.\n"),
        (["eval", "x"], "smixer eval: the following arguments are required: --data. See smixer eval --help.\n"),
        (["list", "--jsn"], "unrecognized arguments: --jsn. See "),
        (["cost", "x", "--static", "as_rn"], "--static 'as_rn' is unknown. Did you mean as_run?"),
    ],
)
def test_typing_errors(smixer, words: list[str], text: str):
    assert text in smixer(*words, code=2).err


@pytest.mark.parametrize(
    "error", [SettingError("a: b. Do c."), OSError("a: b. Do c."), MissingExtra("a: b. Do c.", name="x")]
)
def test_mistakes_are_one_line(smixer, monkeypatch, error: Exception):
    monkeypatch.setattr(listing, "list_models", _raises(error))
    assert smixer("list", code=2).err == "smixer: a: b. Do c.\n"


def test_interrupt(smixer, monkeypatch):
    monkeypatch.setattr(listing, "list_models", _raises(KeyboardInterrupt()))
    assert smixer("list", code=130).err == ""


def test_errors_of_our_own_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(listing, "list_models", _raises(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        main(["list"])


def test_warnings_are_one_line(smixer, monkeypatch):
    def warn(*args: object, **settings: object) -> list[str]:
        warnings.simplefilter("always")
        warnings.warn("the Hub is slow", UserWarning, stacklevel=1)
        return ["smixer-4-384"]

    before = warnings.showwarning
    monkeypatch.setattr(listing, "list_models", warn)
    assert smixer("list").err == "smixer: warning: the Hub is slow\n"
    assert warnings.showwarning is before


def test_a_reader_that_leaves_is_no_error(monkeypatch, tmp_path, capsys):
    class Left(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError(errno.EPIPE, "left")

        def fileno(self) -> int:
            return target

    target = os.open(tmp_path / "out", os.O_CREAT | os.O_WRONLY)
    monkeypatch.setattr(sys, "stdout", Left())
    assert main(["list", "--pretrained"]) == 141
    os.close(target)
    assert capsys.readouterr().err == ""


def test_python_dash_m_is_the_same_command():
    command = [sys.executable, "-m", "snntorch_smixer", "list", "--pretrained", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [row["name"] for row in json.loads(done.stdout)] == list_models(pretrained=True)
    assert done.stderr == ""


def _raises(error: BaseException):
    def fail(*args: object, **settings: object) -> None:
        raise error

    return fail
