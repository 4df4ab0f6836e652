"""What the commands share: their parser, with close matches for typing errors, and common arguments."""

from __future__ import annotations

import argparse
import re
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn, TypeAlias

from snntorch_smixer.pruning.place import PLACES

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
"""What a command is added to."""

_WRONG = re.compile(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """A parser that answers a typing error with what may have been meant."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake without the whole usage, and leave with exit code 2."""
        wrong = _WRONG.fullmatch(message)
        if wrong:
            what, got, choices = wrong.groups()
            near = get_close_matches(got, re.findall(r"[\w.-]+", choices), n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Choose from {choices}."
            message = f"{what.lower()} {got!r} is unknown. {hint}"
        message = message if message.endswith((".", "?")) else f"{message}."
        self.exit(2, f"{self.prog}: {message} See {self.prog} --help.\n")


def add_command(commands: Commands, name: str, *, text: str, examples: str, epilog: str = "") -> Parser:
    """A parser for one command.

    Args:
        commands: where it is added.
        name: what is typed.
        text: one line of help.
        examples: lines with examples.
        epilog: what comes behind them.
    """
    return commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"examples:\n{examples.strip(chr(10))}\n{epilog}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_out(parser: argparse.ArgumentParser, text: str, *, default: Path | None = None) -> None:
    """Add ``--out``, and ``--output``, its name of before, which no help shows."""
    parser.add_argument("--out", type=Path, metavar="FILE", default=default, help=text)
    parser.add_argument("--output", dest="out", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add ``--quiet``."""
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar; there is none without a terminal")


def add_pruning(parser: argparse.ArgumentParser, text: str) -> None:
    """Add ``--ps``, ``--t`` and ``--place``, which `subject.check_pruning` checks."""
    parser.add_argument("--ps", type=float, help=f"{text}: share of tokens to drop, in [0, 1)")
    parser.add_argument("--t", type=int, help="with --ps: time steps to keep; default: all")
    parser.add_argument(
        "--place", choices=PLACES, help="with --t: drop steps behind the stem, or at a neuron inside it; default: stem"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``, which `subject.device` reads."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda where there is one")
