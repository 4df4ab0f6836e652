"""The command ``smixer``: one sub-command per file beside this one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from snntorch_smixer.cli import cost
from snntorch_smixer.errors import SMixerError

COMMANDS = (cost,)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it went well, 1 for a finding that the user asked to fail on, 2 for a mistake."""
    parser = argparse.ArgumentParser(prog="smixer", description="Event-driven spiking transformers for snnTorch.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    args = parser.parse_args(argv)
    try:
        return int(args.run(args))
    except (SMixerError, OSError) as error:
        print(f"smixer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
