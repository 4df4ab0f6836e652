"""The command ``smixer``: one sub-command per file beside this one."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import snntorch
import torch

from snntorch_smixer.cli import bench, cost, detect, evaluate, events, info, listing, recovery, train, viz, zoo
from snntorch_smixer.cli.arguments import Parser
from snntorch_smixer.errors import SMixerError

COMMANDS = (listing, info, evaluate, train, recovery, detect, cost, events, bench, viz, zoo)

_TEXT = """Spiking transformers for snnTorch: the models of the zoo, what they cost, and how good they are.

Exit code: 0 if all went well, 1 for a finding that you asked to fail on (zoo verify, zoo cards --check), 2 for a
mistake. Each command has --help with examples."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it went well, 1 for a finding that the user asked to fail on, 2 for a mistake."""
    parser = _parser()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        parser.print_help(sys.stderr)
        return 2
    try:
        args = parser.parse_args(words)
    except SystemExit as done:
        return int(done.code or 0)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = int(args.run(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has left, as `head` does; what is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (SMixerError, OSError) as error:
        print(f"smixer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def package_version() -> str:
    """Of the installed distribution."""
    try:
        return version("snntorch-smixer")
    except PackageNotFoundError:
        return "unknown (not installed)"


def _parser() -> Parser:
    parser = Parser(prog="smixer", description=_TEXT)
    described = f"torch {torch.__version__}, snntorch {snntorch.__version__}, Python {platform.python_version()}"
    parser.add_argument("--version", action="version", version=f"smixer {package_version()} ({described})")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def _show_warning(message: Warning | str, *_: object, **_named: object) -> None:
    print(f"smixer: warning: {message}", file=sys.stderr)
