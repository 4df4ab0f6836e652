"""What W_M' keeps for backward is what the choice between its two forms counts."""

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.kernels.token_mix import grid_is_cheaper
from snntorch_smixer.layers.mixer import SpikingTokenMixer
from snntorch_smixer.pruning.spatial import tokens_kept
from snntorch_smixer.selection import Selection

BATCH = 4


class Mix(nn.Module):
    """Only the mixing, behind something that needs a gradient and keeps nothing of its own."""

    def __init__(self, mixer: SpikingTokenMixer, kept: Selection) -> None:
        super().__init__()
        self.mixer, self.kept = mixer, kept
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.mixer.mix(x + self.shift, self.kept)


@pytest.mark.parametrize(
    ("steps", "heads", "channels", "grid"),
    [(1, 16, 64, True), (4, 16, 64, True), (1, 1, 256, False), (4, 16, 768, False)],
)
def test_bytes_kept_are_those_of_the_form_that_was_chosen(steps, heads, channels, grid):
    full = 64
    keep = tokens_kept(full, 0.3)
    tokens = torch.stack([torch.randperm(full)[:keep].sort().values for _ in range(BATCH)])
    kept = Selection(torch.arange(steps).repeat(BATCH, 1), tokens, steps, full)
    x = (torch.rand(steps, BATCH, keep, channels) < 0.3).float()
    assert grid_is_cheaper(x, heads, kept) is grid
    mix = Mix(SpikingTokenMixer(channels, num_tokens=full, heads=heads), kept)
    numbers = steps * full * channels if grid else heads * keep**2 + steps * keep * channels
    indices = 8 * (2 * full + 3 * keep + BATCH)  # int64, per sample at most
    assert 4 * numbers <= saved_bytes(mix, x, batch_axis=1) <= 4 * numbers + indices
