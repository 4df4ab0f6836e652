"""Sizes in plain Python: followed where a graph can hold them."""

import math

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.patching.program import Program
from snntorch_smixer.patching.trace import FIXED, trace


class Counts(nn.Module):
    """Computes with sizes as upstream code does."""

    def forward(self, x: Tensor) -> Tensor:
        steps, samples, tokens, width = x.shape
        half, rest = divmod(tokens, 2)
        count = int(tokens * 0.5) + round(tokens / 3) + math.floor(tokens / 2) + math.ceil(tokens / 4) + abs(-tokens)
        assert isinstance(count, int)
        y = x[:, :, : int(math.sqrt(tokens))] * float(width) ** -0.5
        return y.reshape(steps * samples, -1).sum(1) + count + half + rest + max(tokens, 5) + min(steps, 2)


@pytest.mark.parametrize("shape", [(2, 3, 9, 4), (1, 2, 4, 4), (4, 1, 16, 4)])
def test_sizes_in_plain_python_follow_the_input(shape: tuple[int, ...]) -> None:
    net, x = Counts(), torch.randn(*shape)
    graph = trace(net, {"x": torch.randn(2, 3, 9, 4)})
    assert torch.equal(Program(graph)(net, x), net(x))
    assert "int" not in globals()


def test_what_plain_python_took_is_noted() -> None:
    class Loops(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[step] for step in range(x.shape[0])])

    graph = trace(Loops(), {"x": torch.randn(2, 3)})
    assert [node.meta[FIXED] for node in graph.nodes if FIXED in node.meta] == ["loops or indexes by"]
