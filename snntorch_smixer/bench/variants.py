"""One network in each of the ways of running a training step that the benchmarks compare."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from snntorch_smixer.bench.naive import naive_twin, snntorch_layers, snntorch_loop
from snntorch_smixer.errors import check_choice
from snntorch_smixer.layers.memory import set_memory
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet

MIB = 2**20

CHUNKS = 16
"""Pieces of the batch of "recompute_chunks"."""

VARIANTS = ("naive", "snntorch_layers", "snntorch_loop", "reference", "fused", "recompute", "recompute_chunks")
"""The plain loop of STMixer's authors, snnTorch layer by layer and step by step, and the modes of `set_memory`."""

_TWINS = {"naive": naive_twin, "snntorch_layers": snntorch_layers, "snntorch_loop": snntorch_loop}


def network(config: SMixerConfig) -> SMixerNet:
    """The network of a configuration, with the random weights of seed 0."""
    torch.manual_seed(0)
    return SMixerNet(config)


def variant(net: SMixerNet, how: str) -> nn.Module:
    """A copy of ``net`` that runs as ``how`` says, one of `VARIANTS`.

    Raises:
        SettingError: unknown variant, or "snntorch_loop" of a network that prunes.
    """
    check_choice("variant", "how", how, VARIANTS)
    if how in _TWINS:
        return _TWINS[how](net)
    twin = copy.deepcopy(net)
    mode, _, chunked = how.partition("_")
    set_memory(twin, mode, chunks=CHUNKS if chunked else 1)
    return twin


def noise(config: SMixerConfig, batch: int) -> tuple[Tensor, int]:
    """A batch of noise that the network takes, images or event frames, and the axis that counts samples."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(config.input_shape(batch), generator=generator), int(config.takes_frames)
