"""The weights that a wrapped model had before something adapted them to the pruning; `unwrap` restores them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

Weights = Mapping[str, Tensor]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers of ``model``, by dotted name; membranes of neurons are no weights."""
    persistent = model.state_dict(keep_vars=True).keys()
    named = chain(model.named_parameters(), model.named_buffers())
    return {name: value.detach().clone() for name, value in named if name in persistent}


@torch.no_grad()
def put_back(model: nn.Module, weights: Weights) -> None:
    """Write ``weights`` into the parameters and buffers of these names; those that are gone are left out."""
    named = dict(chain(model.named_parameters(), model.named_buffers()))
    for name, value in weights.items():
        if name in named:
            named[name].copy_(value)


def put_back_unpruned(model: nn.Module, dstsp: Any) -> None:
    """Restore what `snntorch_smixer.dstsp.recover` changed, where it did."""
    if dstsp.unpruned is not None:
        put_back(model, dstsp.unpruned)
        dstsp.unpruned = None
