"""Where the weights behind a name are: shipped, in a folder, on the Hub, or nowhere yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from snntorch_smixer.cards.card import CARD, CONFIG, WEIGHTS, Card, is_repo_id
from snntorch_smixer.cards.folder import PICKLES, read_checked
from snntorch_smixer.errors import CardError
from snntorch_smixer.zoo.download import download
from snntorch_smixer.zoo.registry import configured, family_of, is_model, model_card, near_names, zoo_folder


@dataclass(frozen=True)
class Located:
    """A model folder on this machine, and the bytes in it that are those of its card.

    Attributes:
        folder: with ``config.json`` and ``model.safetensors``.
        card: None where the folder has none.
        config: bytes of ``config.json``.
        weights: bytes of ``model.safetensors``. Both are read once, whatever is written to the folder meanwhile.
    """

    folder: Path
    card: Card | None
    config: bytes = field(repr=False)
    weights: bytes = field(repr=False)


def locate(name: str | Path, *, cache_dir: str | Path | None = None) -> Located:
    """Find, and where needed download, a model folder.

    A name of the zoo wins over a folder of that name, a folder over a repository.

    Raises:
        CardError: unknown name, weights that nobody has published, a pickle, or files that are missing or not those of
            the card.
    """
    if isinstance(name, str) and name in configured():
        return _of_the_zoo(name, cache_dir)
    if Path(name).suffix in PICKLES and (isinstance(name, Path) or not is_repo_id(name) or Path(name).exists()):
        raise CardError(
            f"from_pretrained: {name} is a pickle by its name, and pickles can run code when they are loaded. Only "
            "safetensors are loaded here; `smixer zoo convert` turns a checkpoint that you trust into a model."
        )
    if isinstance(name, Path) or (name and _is_folder(name)):
        return _of_a_folder(Path(name))
    repo_id, _, revision = name.partition("@")
    if is_repo_id(repo_id) and (revision or "@" not in name):
        found = download(repo_id, revision=revision or "main", cache_dir=cache_dir)
        return Located(found.folder, found.card, found.contents[CONFIG], found.contents[WEIGHTS])
    raise CardError(_unknown(name))


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def _of_the_zoo(name: str, cache_dir: str | Path | None) -> Located:
    card, folder = model_card(name), zoo_folder() / name
    if (folder / WEIGHTS).is_file():
        return _of_a_folder(folder)
    if not card.is_published:
        raise CardError(
            f"from_pretrained: nobody has published weights of {name} yet. Its card, {folder / CARD}, names no "
            f"{_missing(card)}. To train them: "
            f"{card.trains or 'smixer train ' + name + ' --data DATA'}. To publish them: smixer zoo push runs/{name} "
            f"{card.repo_id or 'org/' + name}. create_model({name!r}) builds the network untrained."
        )
    found = download(card.repo_id, revision=card.revision, cache_dir=cache_dir, files=card.files)
    return Located(found.folder, card, found.contents[CONFIG], found.contents[WEIGHTS])


def _of_a_folder(folder: Path) -> Located:
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        found = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLES)
        why = f" It holds {found[0]}, a pickle, which is never loaded; see `smixer zoo convert`." if found else ""
        raise CardError(
            f"from_pretrained: {folder / missing[0]} does not exist.{why} Train the model, or name another folder."
        )
    card = Card.load(folder) if (folder / CARD).is_file() else None
    config, weights = (
        read_checked(folder / name, card.files.get(name) if card else None, owner=card.name if card else "")
        for name in (CONFIG, WEIGHTS)
    )
    return Located(folder, card, config, weights)


def _missing(card: Card) -> str:
    absent = [] if card.repo_id else ["repository"]
    absent += [] if card.revision else [f"pinned revision{' of ' + card.repo_id if card.repo_id else ''}"]
    absent += [] if WEIGHTS in card.files else [f"SHA-256 of {WEIGHTS}"]
    return " and no ".join(absent)


def _unknown(name: str) -> str:
    trained = family_of(name)
    if trained:
        return (
            f"from_pretrained: {name} is an architecture, weights belong to a data set. Pass one of "
            f"{', '.join(trained)}; create_model({name!r}) builds it untrained."
        )
    if is_model(name):
        return (
            f"from_pretrained: {name} is an architecture, and nobody has trained it for the zoo. See "
            f"list_models(pretrained=True) for weights. create_model({name!r}) builds it untrained; `smixer train "
            f"{name} --data DATA --dataset ID --recipe FILE` trains it."
        )
    near = near_names(name)
    hint = f"Did you mean {', '.join(near)}?" if near else "See list_models(); others are org/name or a folder."
    return f"zoo: no model is called {name!r}. {hint}"
