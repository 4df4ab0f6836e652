"""``smixer zoo``: keep the zoo: write, publish, convert and check model folders."""

from __future__ import annotations

from snntorch_smixer.cli import cards, convert, push, save, verify
from snntorch_smixer.cli.arguments import Commands, add_command

COMMANDS = (save, push, convert, verify, cards)

_EXAMPLES = """
  smixer zoo save smixer-4-384 --out my-model     write a named model to a folder
  smixer zoo push my-model org/name               verify a folder and upload it
  smixer zoo convert checkpoint.safetensors --out my-model     a published checkpoint
  smixer zoo verify --all                         check every folder of the zoo
  smixer zoo cards --check                        fail where a README is not what its card says
"""


def add(commands: Commands) -> None:
    """Add the command and its own commands."""
    parser = add_command(commands, "zoo", text="write, publish, convert and check model folders", examples=_EXAMPLES)
    inner = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(inner)
