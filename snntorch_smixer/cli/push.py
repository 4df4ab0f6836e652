"""``smixer zoo push``: a checked model folder to the Hub."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from snntorch_smixer.cards.card import CARD, CONFIG, Card
from snntorch_smixer.cards.readme import README, model_readme
from snntorch_smixer.cards.upload import check_repo_id, push_folder
from snntorch_smixer.cli.arguments import Commands, add_command, add_json
from snntorch_smixer.cli.printing import print_json
from snntorch_smixer.cli.verify import problems
from snntorch_smixer.errors import CardError
from snntorch_smixer.models.saving import Blueprint
from snntorch_smixer.zoo import registry

_EXAMPLES = """
  smixer zoo push runs/mine org/name                       after hf auth login, or with HF_TOKEN
  smixer zoo push runs/mine org/name --private --message "Trained for 300 epochs"
  smixer zoo push runs/smixer-4-384-cifar10 org/name --pin     a maintainer: pin the zoo's card to the new commit
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "push", text="verify a model folder and upload it to the Hub", examples=_EXAMPLES)
    parser.add_argument("folder", type=Path, help="written by smixer train, smixer zoo save or save_pretrained")
    parser.add_argument("repo_id", metavar="ORG/NAME", help="made where it does not exist")
    parser.add_argument("--private", action="store_true", help="where the repository is made now")
    parser.add_argument("--message", default="Upload model", help="of the commit")
    parser.add_argument(
        "--pin", action="store_true", help="write repository and commit into the zoo's card of this name"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Verify, upload, print what the card of the zoo needs."""
    check_repo_id("push", args.repo_id)
    found = problems(args.folder)
    if found:
        print(f"smixer: {args.folder} is not uploaded:", *found, sep="\n  ", file=sys.stderr)
        return 1
    card = Card.load(args.folder)
    if args.pin:
        _check_pin(card, args.folder)
    if card.repo_id != args.repo_id:
        card = dataclasses.replace(card, repo_id=args.repo_id, revision="")
        card.save(args.folder)
        (args.folder / README).write_text(model_readme(card), encoding="utf-8")
    done = push_folder(args.folder, args.repo_id, private=args.private, message=args.message)
    pinned = _pin(card.pinned(done.repo_id, done.revision)) if args.pin else None
    if args.json:
        files = {name: dataclasses.asdict(record) for name, record in card.files.items()}
        print_json({**dataclasses.asdict(done), "files": files, "pinned": None if pinned is None else str(pinned)})
        return 0
    print(f"{done.url} at {done.revision}")
    if pinned is not None:
        print(f"{pinned}: pinned; run smixer zoo cards")
        return 0
    print(f'\nIn {CARD} of the zoo (--pin writes it):\n\nrepo_id = "{done.repo_id}"\nrevision = "{done.revision}"')
    for name, record in sorted(card.files.items()):
        print(f'\n[files."{name}"]\nsha256 = "{record.sha256}"\nsize_bytes = {record.size_bytes}')
    return 0


def _check_pin(card: Card, folder: Path) -> None:
    """Refuse before the upload what could not be pinned after it."""
    if card.name not in registry.configured():
        raise CardError(
            f"push: --pin: the zoo has no folder {card.name}, the name in {folder / CARD}. Rename the card."
        )
    if Blueprint.load(folder) != Blueprint.load(registry.zoo_folder() / card.name):
        raise CardError(
            f"push: --pin: {folder / CONFIG} is not the configuration that the zoo has for {card.name}. Push it under "
            "another name, or change the zoo's first."
        )


def _pin(card: Card) -> Path:
    """The zoo's words stay; repository, commit, bytes and the results of these bytes are those of ``card``."""
    folder = registry.zoo_folder() / card.name
    theirs = {key: getattr(card, key) for key in ("repo_id", "revision", "files", "measured")}
    pinned = dataclasses.replace(Card.load(folder), **theirs)
    pinned.save(folder)
    return folder / CARD
