"""Families of foreign models that `wrap` knows by their parts; one file each, one name in `FAMILIES`."""

from __future__ import annotations

from torch import nn

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.families.base import Family as Family
from snntorch_smixer.families.base import Sites as Sites
from snntorch_smixer.families.qkformer import QKFormerFamily
from snntorch_smixer.families.sdt_v1 import SDTV1Family
from snntorch_smixer.families.sdt_v3 import SDTV2Family, SDTV3Family
from snntorch_smixer.families.spikeyolo import SpikeYOLOFamily
from snntorch_smixer.families.spikformer import SpikformerFamily
from snntorch_smixer.families.stmixer import STMixerFamily

FAMILIES: list[Family] = [
    STMixerFamily(),
    SpikeYOLOFamily(),
    SDTV3Family(),
    SDTV2Family(),
    QKFormerFamily(),
    SDTV1Family(),
    SpikformerFamily(),
]
"""Asked in this order; the first that lacks nothing wins."""


def register(family: Family) -> Family:
    """Add a family of your own; it is asked before those that are there. Usable as a decorator of an instance.

    Raises:
        FamilyError: it lacks a name or one of the methods, or the name is taken.

    Examples:
        >>> from snntorch_smixer import dstsp
        >>> class Mine:
        ...     name = "mine"
        ...     def missing(self, model):  # empty for a model of this family
        ...         return [] if hasattr(model, "rungs") else ["rungs, a list of blocks"]
        ...     def sites(self, model):
        ...         return dstsp.Sites(tuple(f"rungs.{i}" for i in range(len(model.rungs))))
        ...     def stored_steps(self, model):
        ...         return []
        >>> dstsp.register(Mine()).name
        'mine'
        >>> del dstsp.FAMILIES[0]
    """
    absent = [n for n in ("name", "missing", "sites", "stored_steps") if not hasattr(family, n)]
    if absent or isinstance(family, type):
        what = "a class; pass an instance" if isinstance(family, type) else f"an object without {', '.join(absent)}"
        raise FamilyError(f"register: got {what}. Expected name, missing(model), sites(model), stored_steps(model).")
    if any(known.name == family.name for known in FAMILIES):
        raise FamilyError(f"register: there is a family {family.name!r} already. Choose another name.")
    FAMILIES.insert(0, family)
    return family


def detect(model: nn.Module) -> Family | None:
    """The family of ``model``, or None."""
    return next((family for family in FAMILIES if not family.missing(model)), None)


def nearest(model: nn.Module) -> tuple[Family, list[str]] | None:
    """The family of which ``model`` lacks one thing and has others, and what it lacks; None where none is near."""
    nothing = nn.Module()
    found = ((family, family.missing(model)) for family in FAMILIES)
    return next(((f, lacks) for f, lacks in found if len(lacks) == 1 and lacks != f.missing(nothing)), None)
