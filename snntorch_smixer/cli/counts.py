"""Parameters of a model without building it where that would take long."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

from snntorch_smixer.cards.card import WEIGHTS
from snntorch_smixer.cards.folder import tensor_shapes
from snntorch_smixer.models import architectures
from snntorch_smixer.models.saving import Blueprint
from snntorch_smixer.zoo.hub import construct

Shapes = Mapping[str, tuple[int, ...]]

# State that is no parameter: BatchNorm's statistics, and the constants and membrane of snnTorch's neurons.
_BUFFERS = {"running_mean", "running_var", "num_batches_tracked", "mem"}
_BUFFERS |= {"threshold", "beta", "graded_spikes_factor", "reset_mechanism_val"}


def parameter_shapes(blueprint: Blueprint, folder: Path | None = None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters.

    Args:
        blueprint: of the model.
        folder: where its weights may be.
    """
    if folder is not None and (folder / WEIGHTS).is_file():
        shapes = tensor_shapes(folder / WEIGHTS)
    elif blueprint.wrapped is None:
        return architectures.parameter_shapes(blueprint.config)
    else:
        # What wrapping adds is known only once it is done.
        return {name: tuple(p.shape) for name, p in construct(blueprint).named_parameters()}
    return {name: shape for name, shape in shapes.items() if name.rpartition(".")[2] not in _BUFFERS}


def count(shapes: Shapes, end: str = "") -> int:
    """Numbers in all tensors whose name ends in ``end``."""
    return sum(prod(shape) for name, shape in shapes.items() if name.endswith(end))
