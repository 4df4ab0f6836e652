"""``smixer zoo cards``: the README of every zoo folder and the table of models, made from the cards."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from snntorch_smixer.cards.card import Card
from snntorch_smixer.cards.readme import README, model_readme, models_table
from snntorch_smixer.cli.arguments import Commands, add_command, add_json
from snntorch_smixer.cli.printing import print_json
from snntorch_smixer.errors import CardError
from snntorch_smixer.zoo import registry

BEGIN, END = "<!-- models -->", "<!-- /models -->"

_EXAMPLES = """
  smixer zoo cards              write zoo/*/README.md and the table in docs/reference/models.md
  smixer zoo cards --check      write nothing; name what is stale, and exit with 1
"""

_PAGE = f"""# Models

Every model that has a card in the zoo. "Measured here" are results of the weights themselves, with command, seed and
versions in the model's card; "reported in the paper" are those that a publication prints, and nobody measured them
here.

{BEGIN}
{END}

The table is made from `zoo/*/card.toml`: run `smixer zoo cards` after a card has changed.
`smixer zoo cards --check` fails where it is stale.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    text = "write the README of every zoo folder, and the table of models, from the cards"
    parser = add_command(commands, "cards", text=text, examples=_EXAMPLES)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a file is stale")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write what is stale, or only name it."""
    if not (page := _page()).parents[2].joinpath("pyproject.toml").is_file():
        raise CardError(f"zoo cards: {registry.zoo_folder()} is no checkout of the repository. Run it in one.")
    cards = [_described(name) for name in registry.configured()]
    stale = {path: text for path, text in rendered(cards, page).items() if not _is(path, text)}
    state = "stale" if args.check else "written"
    shown = [path.relative_to(registry.zoo_folder().parent).as_posix() for path in stale]
    for path, text in stale.items():
        if not args.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if args.json:
        print_json({state: shown})
    elif shown:
        print("\n".join(f"{state}: {path}" for path in shown))
    return int(args.check and bool(stale))


def rendered(cards: Sequence[Card], page: Path) -> dict[Path, str]:
    """What every README and the page of models should say, by path.

    Args:
        cards: of all models of the zoo.
        page: is made where it does not exist.

    Raises:
        CardError: the page has no place for the table.
    """
    texts = {registry.zoo_folder() / card.name / README: model_readme(card) for card in cards}
    text = page.read_text(encoding="utf-8") if page.is_file() else _PAGE
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise CardError(f"{page}: no {BEGIN} with {END} behind it. Put both where the table belongs.")
    return texts | {page: f"{before}{begin}\n{models_table(cards)}{end}{after}"}


def _page() -> Path:
    return registry.zoo_folder().parent / "docs" / "reference" / "models.md"


def _described(name: str) -> Card:
    folder = registry.zoo_folder() / name
    card = Card.load(folder)
    if card.name != name:
        raise CardError(f"{folder}: the card is called {card.name!r}. Give card and folder the same name.")
    return card


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text
