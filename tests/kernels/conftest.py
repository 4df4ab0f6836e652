"""What a fused kernel keeps for backward, as measured on the graph."""

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor


class _Held:
    """One tensor of the graph; dies with its node."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()

    def get(self) -> Tensor:
        return self.tensor


@pytest.fixture
def saved_storages() -> Callable[[Callable[[], object]], dict[int, int]]:
    """Runs a forward pass and returns the bytes of each distinct storage that the graph holds at its end."""

    def measure(forward: Callable[[], object]) -> dict[int, int]:
        refs: list[weakref.ref[_Held]] = []

        def hold(tensor: Tensor) -> _Held:
            held = _Held(tensor)
            refs.append(weakref.ref(held))
            return held

        with torch.autograd.graph.saved_tensors_hooks(hold, _Held.get):
            out = forward()
        alive = [ref() for ref in refs]
        storages = [held.tensor.untyped_storage() for held in alive if held is not None]
        del out
        return {storage.data_ptr(): storage.nbytes() for storage in storages}

    return measure
