"""Running a network in a mode that is not its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_mode(net: nn.Module, *, training: bool) -> Iterator[None]:
    """Put ``net`` into training or evaluation mode; afterwards every submodule is in the mode in which it was."""
    modes = {module: module.training for module in net.modules()}
    net.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
