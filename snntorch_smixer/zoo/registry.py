"""Names of models: the folders of the zoo, the architectures, and what belongs to each."""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from snntorch_smixer.cards.card import CONFIG, WEIGHTS, Card
from snntorch_smixer.detect.detector import DetectorConfig
from snntorch_smixer.errors import CardError
from snntorch_smixer.models.architectures import CONFIGS
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.models.saving import Blueprint
from snntorch_smixer.pruning.pruner import DSTSPConfig

TWIN = "-dstsp"
_PRUNED = {SMixerConfig: DSTSPConfig(), DetectorConfig: DSTSPConfig(ps=0.2, t=1, merge="drop")}
"""Configurations of networks that prune by themselves, with the paper's settings."""


@cache
def zoo_folder() -> Path:
    """Folder of the zoo's models: inside an installed package, or beside the package in a checkout."""
    here = Path(__file__).parent
    inside = here / "models"
    return inside if inside.is_dir() else here.parents[1] / "zoo"


def configured() -> list[str]:
    """Names of the folders of the zoo, with weights or without."""
    return sorted(p.parent.name for p in zoo_folder().glob(f"*/{CONFIG}"))


def shipped() -> list[str]:
    """Names of the models whose weights come with the package."""
    return [name for name in configured() if (zoo_folder() / name / WEIGHTS).is_file()]


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names that `create_model` knows, sorted.

    Args:
        pattern: shell pattern, for example ``"smixer-8*"``.
        pretrained: only those with weights, shipped or published on the Hub.

    Examples:
        >>> from snntorch_smixer import list_models
        >>> [name for name in list_models(pretrained=True) if name.endswith("fmnist")]
        ['smixer-2-64-fmnist']
    """
    if pretrained:
        here = set(shipped())
        names = {name for name in configured() if name in here or model_card(name).is_published}
    else:
        names = set(configured()) | set(CONFIGS)
        names |= {name + TWIN for name in CONFIGS if type(CONFIGS[name]) in _PRUNED}
    return sorted(name for name in names if fnmatch(name, pattern))


def is_model(name: str) -> bool:
    """True for a name that `create_model` knows.

    Examples:
        >>> from snntorch_smixer import is_model
        >>> is_model("smixer-8-768-dstsp")
        True
    """
    return name in list_models()


def near_names(name: str) -> list[str]:
    """Up to three known names that look like ``name``."""
    return get_close_matches(name, list_models(), n=3)


def family_of(name: str) -> list[str]:
    """Models of the zoo that are trainings of the architecture ``name``; empty where it is none."""
    if name.removesuffix(TWIN) not in CONFIGS:
        return []
    wanted = _architecture(name)
    return [other for other in configured() if _same_but_input(Blueprint.load(zoo_folder() / other), wanted)]


def model_blueprint(name: str) -> Blueprint:
    """What a named model is built from; a ``-dstsp`` twin of an architecture prunes with the paper's defaults.

    Raises:
        CardError: the name is unknown; close matches are named.
    """
    if name in configured():
        return Blueprint.load(zoo_folder() / name)
    if is_model(name):
        return _architecture(name)
    near = near_names(name)
    hint = f"Did you mean {', '.join(near)}?" if near else "See list_models()."
    raise CardError(f"zoo: no model is called {name!r}. {hint}")


def model_card(name: str) -> Card:
    """Card of a model of the zoo: input, classes, licence, files, measured and reported results.

    Raises:
        CardError: the zoo has no folder of this name, or its card is broken.
    """
    if name not in configured():
        raise CardError(f"model_card: {name!r} has no card; there are cards of {', '.join(configured()) or 'none'}.")
    return Card.load(zoo_folder() / name)


def _architecture(name: str) -> Blueprint:
    config = CONFIGS[name.removesuffix(TWIN)]
    if name.endswith(TWIN) and type(config) in _PRUNED:
        config = dataclasses.replace(config, prune=_PRUNED[type(config)])  # type: ignore[call-arg]
    return Blueprint(config)


def _same_but_input(one: Blueprint, other: Blueprint) -> bool:
    def shape(b: Blueprint) -> tuple[object, ...]:
        c = b.config
        sizes = tuple(getattr(c, key, None) for key in ("dim", "depth", "heads"))
        return (type(c), *sizes, b.prune is None)

    return shape(one) == shape(other)
