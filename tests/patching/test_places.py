"""Tokens that are no image tokens are told from tokens that only saturate."""

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.patching.observe import copied, observe
from snntorch_smixer.patching.places import special_tokens


class Full(nn.Module):
    """Gives tokens of which the first row is at its highest level for every input."""

    def forward(self, x: Tensor) -> Tensor:
        drive = torch.zeros(x.shape[2], 1)
        drive[0] = 1000.0
        return (x + drive).clamp(max=4)


class WithLearned(nn.Module):
    """Puts a learned row in place of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.learned = nn.Parameter(torch.rand(8, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.learned.expand(len(x), -1, -1, -1), x[:, :, 1:]], 2)


@pytest.mark.parametrize(("between", "found"), [(nn.Identity(), False), (WithLearned(), True)])
def test_tokens_that_saturate_late_in_a_model_are_not_taken_for_learned_ones(between: nn.Module, found: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Full(), between, nn.Conv2d(8, 8, 1)).eval()
    x = torch.rand(2, 3, 4, 4)
    seen = observe(copied(model), (x,))
    numbers, why = special_tokens(model, (x,), seen, places={"1": "b c y x", "3": "b c y x"}, steps=None)
    assert bool(numbers) == bool(why) == found
