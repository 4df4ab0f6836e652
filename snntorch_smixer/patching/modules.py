"""Modules that patching puts into a model."""

from __future__ import annotations

from snntorch_smixer.pruning.pruner import DSTSP


class WrappedDSTSP(DSTSP):
    """A `DSTSP` that `wrap` put in and `unwrap` takes out again; its class is the undo record."""
