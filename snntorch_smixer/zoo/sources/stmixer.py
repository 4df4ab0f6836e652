"""Published STMixer checkpoints (brain-intelligence-lab/STMixer_demo, models/STMixer.py, STMixerV3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from math import isqrt

import torch
from torch import Tensor

from snntorch_smixer.errors import CardError
from snntorch_smixer.layers.stem import CIFAR_STRIDES, IMAGENET_STRIDES
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.zoo.sources.read import NUM_HEADS, checked, count_blocks, shape

DROPPED: tuple[str, ...] = ("sml[0-9]*.*",)
"""Patterns of the surrogate branches: networks without spikes that only training uses."""

STRIDES = {4: CIFAR_STRIDES, 16: IMAGENET_STRIDES}
"""Strides of the stem by the kernel of its short path, which is their product."""

PARTS = {
    "mixer.value": "token_mix.fc1",
    "mixer.proj": "token_mix.fc2",
    "mlp.expand": "channel_mix.fc1",
    "mlp.contract": "channel_mix.fc2",
}
"""Our units of a block and the ``nn.Sequential`` of each: neuron 0, convolution 1, BatchNorm 2."""

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def convert(state: Mapping[str, Tensor]) -> tuple[SMixerConfig, dict[str, Tensor]]:
    """Configuration and state dict of our `SMixerNet`, less the constants of its neurons, which the first sets.

    The weights tell everything but the steps: T is 1, as in the published script. Neurons of both decay by 0.5 and fire
    at 1. Published ones fire at exactly the threshold too, ours above it. The published stem puts the short path first,
    ours last, so every tensor that reads or writes the stream between the blocks is rolled by D/8 channels.

    Args:
        state: state dict of a published model, with or without surrogate branches.

    Raises:
        CardError: a tensor is missing, unknown or of a shape that no published model has.
    """
    where = "convert stmixer"
    config = _config(where, state)
    names = dict(_names(config.depth))
    mixers = {f"blocks.{b}.mixer.w_m.weight": _matrices(b, config.heads) for b in range(config.depth)}
    wanted = {*names.values(), *(key for keys in mixers.values() for key in keys)}
    _check_names(where, state, wanted)
    ours = {name: _rolled(name, _linear(state[key]), config.dim // 8) for name, key in names.items()}
    for name, keys in mixers.items():
        sizes = {tuple(state[key].shape) for key in keys}
        if sizes != {(config.num_tokens,) * 2}:
            raise CardError(f"{where}: {keys[0]} and its neighbours have shapes {sizes}, expected one N x N for all.")
        ours[name] = torch.cat([state[key] for key in keys]).unsqueeze(2)
    return config, ours


def _config(where: str, state: Mapping[str, Tensor]) -> SMixerConfig:
    classes, dim = shape(where, state, "head.weight", 2)
    tokens = shape(where, state, _matrices(0, 1)[0], 2)[0]
    kernel = shape(where, state, "patch_embd.short_proj1.0.weight", 4)[2]
    in_channels = shape(where, state, "patch_embd.proj_conv.0.weight", 4)[1]
    hidden = shape(where, state, "block.0.channel_mix.fc1.1.weight", 2)[0]
    side, heads = isqrt(tokens), count_blocks(state, "block.0.token_mix.attn.linear_mix.")
    if side * side != tokens or kernel not in STRIDES:
        raise CardError(
            f"{where}: {tokens} tokens from patches of {kernel} pixels; published models have a square number of "
            "tokens from patches of 4 or 16. Convert a checkpoint of STMixerV3."
        )
    if NUM_HEADS in state and int(state[NUM_HEADS]) != heads:
        raise CardError(f"{where}: heads={int(state[NUM_HEADS])}, but the weights have {heads}. Leave heads out.")

    def config() -> SMixerConfig:
        return SMixerConfig(
            img_size=(side * kernel, side * kernel),
            in_channels=in_channels,
            num_classes=classes,
            T=1,
            dim=dim,
            depth=count_blocks(state, "block."),
            heads=heads,
            mlp_ratio=hidden / dim,
            strides=STRIDES[kernel],
        )

    return checked(where, config)


def _names(depth: int) -> Iterator[tuple[str, str]]:
    """(our name, published name) of every tensor but ``W_M``."""
    units = [(f"stem.units.{i}", "patch_embd.proj_conv", 3 * i) for i in range(5)]
    units.append(("stem.short", "patch_embd.short_proj1", 0))
    units += [(f"blocks.{b}.{ours}", f"block.{b}.{part}", 1) for b in range(depth) for ours, part in PARTS.items()]
    for ours, theirs, place in units:
        yield f"{ours}.linear.weight", f"{theirs}.{place}.weight"
        yield from ((f"{ours}.norm.{name}", f"{theirs}.{place + 1}.{name}") for name in NORM)
    yield from ((f"head.linear.{name}", f"head.{name}") for name in ("weight", "bias"))


def _matrices(block: int, heads: int) -> list[str]:
    return [f"block.{block}.token_mix.attn.linear_mix.{h}.weight" for h in range(heads)]


def _check_names(where: str, state: Mapping[str, Tensor], wanted: set[str]) -> None:
    found = {key for key in state if key != NUM_HEADS and not any(fnmatchcase(key, p) for p in DROPPED)}
    problems = {"missing": sorted(wanted - found), "unknown": sorted(found - wanted)}
    texts = [f"{len(keys)} {what}: {', '.join(keys[:3])}" for what, keys in problems.items() if keys]
    if texts:
        raise CardError(
            f"{where}: the tensors are not those of STMixerV3; {'; '.join(texts)}. Pass the state dict of the "
            "published model."
        )


def _linear(tensor: Tensor) -> Tensor:
    """A 1x1 convolution ``(out, in, 1)`` as a linear map ``(out, in)``; anything else as it is."""
    return tensor.squeeze(2) if tensor.dim() == 3 else tensor


def _rolled(name: str, tensor: Tensor, short: int) -> Tensor:
    """``tensor`` for a stream whose first ``short`` channels moved to the end."""
    if name.endswith((".value.linear.weight", ".expand.linear.weight", "head.linear.weight")):
        return tensor.roll(-short, 1)
    writes = ".proj." in name or ".contract." in name
    return tensor.roll(-short, 0) if writes and tensor.dim() else tensor
