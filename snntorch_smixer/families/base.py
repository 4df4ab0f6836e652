"""What a family of models says about itself. Everything else is found by running parts of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

IN_FRONT = "in front of the place where tokens are dropped"
"""A reason for `Sites.left`."""


@dataclass(frozen=True)
class Sites:
    """Where a model can be patched. Paths are dotted names of modules.

    Attributes:
        blocks: blocks behind the token pruning, in the order of their calls.
        time: the block in front of which steps are dropped; None for the first of ``blocks``.
        keeps_grid: True where a two-dimensional operation follows, so that dropped tokens keep their place.
        tokens: N in front of ``blocks``, None where the model does not tell.
        steps: T, None where the model does not tell.
        virtual_steps: True where there is no time axis and T counts the levels of integer neurons.
        left: parts with neurons that are not pruned, and why; the plan says so.

    Examples:
        >>> from snntorch_smixer import dstsp
        >>> dstsp.Sites(blocks=("blocks.0", "blocks.1")).blocks
        ('blocks.0', 'blocks.1')
    """

    blocks: tuple[str, ...]
    time: str | None = None
    keeps_grid: bool = False
    tokens: int | None = None
    steps: int | None = None
    virtual_steps: bool = False
    left: Mapping[str, str] = field(default_factory=dict)


class Family(Protocol):
    """A kind of model, recognised by its parts.

    Examples:
        >>> from snntorch_smixer import dstsp
        >>> "spikformer" in {family.name for family in dstsp.FAMILIES}
        True
    """

    name: str

    def missing(self, model: nn.Module) -> list[str]:
        """What ``model`` lacks to be of this family; empty when it is."""

    def sites(self, model: nn.Module) -> Sites:
        """Where to patch a model that lacks nothing."""

    def stored_steps(self, model: nn.Module) -> list[str]:
        """Dotted attributes behind the pruning that store T, "block.0.lif.T"; they follow while fewer steps run."""


def stored_in(model: nn.Module, blocks: tuple[str, ...], *names: str) -> list[str]:
    """Dotted attributes that hold a whole number under one of ``names``: in ``blocks`` and, if any, in the root."""
    found = [
        f"{block}.{path}.{name}" if path else f"{block}.{name}"
        for block in blocks
        for path, module in model.get_submodule(block).named_modules()
        for name in names
        if type(getattr(module, name, None)) is int
    ]
    return found + [name for name in names if found and type(getattr(model, name, None)) is int]


def children_of(model: nn.Module, *names: str) -> tuple[str, ...]:
    """Paths of the blocks in the first of the named lists that ``model`` has."""
    for name in names:
        blocks = getattr(model, name, None)
        if isinstance(blocks, (nn.ModuleList, nn.Sequential)):
            return tuple(f"{name}.{i}" for i in range(len(blocks)))
    return ()


def lacks(model: nn.Module, *names: str) -> list[str]:
    """The names, alternatives separated by "|", of which ``model`` has no module."""
    return [name for name in names if not any(isinstance(getattr(model, n, None), nn.Module) for n in name.split("|"))]


def child(module: nn.Module, *names: str) -> nn.Module | None:
    """The first of the named children that ``module`` has."""
    return next((c for n in names if isinstance(c := getattr(module, n, None), nn.Module)), None)


def whole_number(module: nn.Module | None, *names: str) -> int | None:
    """The first of the named attributes that is a positive whole number."""
    return next((v for n in names if type(v := getattr(module, n, None)) is int and v > 0), None)


def spatial_parts(modules: Iterator[nn.Module]) -> Iterator[nn.Module]:
    """Convolutions and poolings that look at neighbours in two dimensions or more."""
    pools = (nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d)
    convs = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
    for module in modules:
        if isinstance(module, pools) or (isinstance(module, convs) and max(module.kernel_size) > 1):
            yield module
