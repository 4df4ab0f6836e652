"""The published forms of STMixer and SDT-V3 in full: the stand-ins of tests/fakes shorten their convolutions."""

from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from tests.fakes import sdt_v3, stmixer
from tests.fakes.calibrate import calibrate, images
from tests.fakes.neurons import StoredTLIF

DIM, HEADS, CLASSES = 24, 3, 5


class Stem(nn.Module):
    """The published SPSV2: growing widths, BatchNorm on both paths, the short one first."""

    def __init__(self, T: int, in_channels: int, dim: int, times: int) -> None:
        super().__init__()
        widths = (in_channels, dim // 8, dim // 4, dim // 2, dim, dim * 7 // 8)
        layers: list[nn.Module] = []
        for i, (inside, outside) in enumerate(pairwise(widths)):
            stride = 2 if i >= 5 - times else 1
            layers += [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), StoredTLIF(T)]
        self.proj_conv = nn.Sequential(*layers[:-1])
        side = 2**times
        short = nn.Conv2d(in_channels, dim // 8, side, side, bias=False)
        self.short_proj1 = nn.Sequential(short, nn.BatchNorm2d(dim // 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.short_proj1(x), self.proj_conv(x)), 1).flatten(-2)


class STMixerV3(stmixer.STMixerV3):
    """16 tokens; images of 16 pixels, or of 64 with ``times=4``; with 2 channels, batch-first event frames."""

    def __init__(self, T: int = 4, *, in_channels: int = 3, times: int = 2, sml: bool = False) -> None:
        super().__init__(T, DIM, HEADS, num_classes=CLASSES)
        self.patch_embd = Stem(T, in_channels, DIM, times)
        if in_channels == 2:
            del self.expand
        if sml:  # only training calls it
            self.sml1 = nn.Sequential(nn.Conv1d(DIM, DIM, 1, bias=False), nn.BatchNorm1d(DIM))

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x) if hasattr(self, "expand") else x.transpose(0, 1).flatten(0, 1)
        x = self.patch_embd(x)
        for block in self.block:
            x = block(x)
        x = x.mean(-1)
        return self.head(x.reshape(self.T, -1, x.shape[-1])).mean(0)


class ConvBlock(sdt_v3.MS_ConvBlock_spike_SepConv):
    """The published block: a 7x7 kernel, four times the width inside, no biases."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.Conv.dwconv[0] = nn.Conv2d(2 * dim, 2 * dim, 7, padding=3, groups=2 * dim, bias=False)
        self.conv1, self.bn1 = nn.Conv2d(dim, 4 * dim, 3, padding=1, bias=False), nn.BatchNorm2d(4 * dim)
        self.conv2, self.bn2 = nn.Conv2d(4 * dim, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim)


class MetaFormer(sdt_v3.Spiking_vit_MetaFormer_Spike_SepConv):
    """16 tokens of a 64x64 image; dims 12, 16, 24, 30, 2 and 1 blocks with attention, 3 heads."""

    def __init__(self) -> None:
        super().__init__()
        for name, dim in (("1_1", 6), ("1_2", 12), ("2_1", 16), ("2_2", 16)):
            setattr(self, f"ConvBlock{name}", nn.ModuleList([ConvBlock(dim)]))


def frames(batch: int = 2, seed: int = 0, *, steps: int = 4, size: int = 64) -> Tensor:
    """(B, T, 2, size, size)."""
    return images(batch * steps, seed, size=size, channels=2).unflatten(0, (batch, steps))


@cache
def published_stmixer(T: int = 4, sml: bool = False) -> STMixerV3:
    """Calibrated so that every neuron fires; not to be changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(T)
        return calibrate(STMixerV3(T, sml=sml), images, drive=0.3)


@cache
def published_events() -> STMixerV3:
    """The same for event frames, of 4 steps and 64 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return calibrate(STMixerV3(4, in_channels=2, times=4), frames, drive=0.3)


@cache
def published_sdt_v3() -> MetaFormer:
    """Calibrated so that every neuron fires; not to be changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return calibrate(MetaFormer(), large_images, drive=0.0)


def large_images(batch: int = 2, seed: int = 0) -> Tensor:
    """(B, 3, 64, 64)."""
    return images(batch, seed, size=64)
