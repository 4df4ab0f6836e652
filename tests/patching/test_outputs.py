"""Outputs beside the logits, and what reads the stream beside the blocks."""

import pytest
import torch
from torch import nn

from snntorch_smixer import dstsp
from snntorch_smixer.errors import SMixerError
from snntorch_smixer.patching.modules import Current
from snntorch_smixer.patching.outputs import check_outputs
from tests.fakes.stmixer import STMixerV3


def dropped() -> Current:
    """A forward that left 1 of 4 steps and 6 of 9 tokens."""
    current = Current()
    current.stream, current.left = (4, 4, 9), (1, 6)
    return current


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((4, 5), (4, 5)),
        ((4, 4, 5), (1, 4, 5)),  # logits of each step
        ((16, 8, 9), (4, 8, 6)),  # (T*B, C, N)
    ],
)
def test_an_output_may_lose_the_steps_and_tokens_that_were_dropped(before, after) -> None:
    check_outputs((before,), (after,), dropped())


@pytest.mark.parametrize(("before", "after"), [((4, 5), (1, 5)), ((4, 5), (4, 3)), ((4, 5), (4,))])
def test_an_output_that_loses_samples_is_refused(before, after) -> None:
    with pytest.raises(SMixerError, match="output 1"):
        check_outputs(((2, 2), before), ((2, 2), after), dropped())


class SideHead(STMixerV3):
    """Reads the stream behind the blocks with a number of steps under a name that nobody knows."""

    def forward(self, x):
        seen = []
        handle = self.block[0].register_forward_hook(lambda *call: seen.append(call[2]))
        out = super().forward(x)
        handle.remove()
        return out, seen[0].reshape(-1, self.rounds, *seen[0].shape[1:]).mean((1, 3))


def side_head() -> nn.Module:
    net = SideHead().eval()
    net.rounds = net.T
    return net


@pytest.mark.parametrize("samples", [3, 4])
def test_a_side_head_with_steps_of_its_own_is_refused_in_the_first_forward(samples: int) -> None:
    net = side_head()
    x = torch.randn(samples, 3, 16, 16)
    dstsp.wrap(net, ps=0, t=1)
    for _ in range(2):
        with pytest.raises(SMixerError, match="does not run with its tokens pruned"):
            net(x)
    net.dstsp.t = None
    assert net(x)[1].shape[0] == samples


def test_a_side_head_with_steps_of_its_own_is_refused_with_an_example() -> None:
    net = side_head()
    with pytest.raises(SMixerError, match="output 1"):
        dstsp.wrap(net, ps=0, t=1, example_input=torch.randn(net.T, 3, 16, 16))
    assert not hasattr(net, "dstsp")
