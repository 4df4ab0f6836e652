"""Parameters and multiply-accumulates: formulas, the published networks, and what runs once for a static image.

Big networks are built from fake tensors, which have shapes and no memory.
"""

import dataclasses
import re
from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from snntorch_smixer.models.config import CONFIGS, SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.pruning.pruner import DSTSPConfig

CIFAR_4_384 = dataclasses.replace(CONFIGS["smixer-4-384"], num_classes=100, T=1)
CIFAR_10_384 = dataclasses.replace(CONFIGS["smixer-10-384"], num_classes=100, T=1)
ODD = SMixerConfig((24, 16), 2, 7, dim=40, depth=3, heads=5, mlp_ratio=2.5, strides=(1, 2, 1, 2, 1), T=3)


def stem_convolutions(config: SMixerConfig) -> list[tuple[int, int, int]]:
    """(input channels * kernel area, output channels, output pixels) of the five convolutions and the short path."""
    d, (height, width) = config.dim, config.img_size
    channels = [config.in_channels, d // 8, d // 4, d // 2, d, 7 * d // 8]
    found = []
    for a, b, stride in zip(channels[:-1], channels[1:], config.strides, strict=True):
        height, width = height // stride, width // stride
        found.append((9 * a, b, height * width))
    stride = config.img_size[0] // height
    return [*found, (config.in_channels * stride**2, d // 8, height * width)]


def parameters(config: SMixerConfig) -> int:
    d, n, h, r = config.dim, config.num_tokens, config.heads, config.mlp_ratio
    stem = sum(k * b + 2 * b for k, b, _ in stem_convolutions(config))
    mixer = 2 * d * d + h * n * n + 2 * 2 * d
    mlp = 2 * d * round(r * d) + 2 * (round(r * d) + d)
    return stem + config.depth * (mixer + mlp) + (d + 1) * config.num_classes


def macs(config: SMixerConfig, *, shown_once: bool) -> dict[str, int]:
    d, n, steps, depth = config.dim, config.num_tokens, config.T, config.depth
    first, *rest, short = [k * b * pixels for k, b, pixels in stem_convolutions(config)]
    return {
        "stem": (first + short) * (1 if shown_once else steps) + sum(rest) * steps,
        "proj": depth * steps * 2 * n * d * d,
        "mix": depth * steps * n * n * d,
        "ffn": depth * steps * 2 * n * d * round(config.mlp_ratio * d),
        "head": steps * d * config.num_classes,
    }


def counted_macs(net: SMixerNet, x: torch.Tensor) -> dict[str, float]:
    """Per sample, by the part of the network that holds the counted layer."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x)
    parts = {
        "stem": r"SMixerNet\.stem",
        "proj": r"SMixerNet\.blocks\.\d+\.mixer\.(value|proj)",
        "mix": r"SMixerNet\.blocks\.\d+\.mixer\.w_m",
        "ffn": r"SMixerNet\.blocks\.\d+\.mlp",
        "head": r"SMixerNet\.head",
    }
    totals: Counter[str] = Counter()
    for module, flops in counter.get_flop_counts().items():
        for part, pattern in parts.items():
            if re.fullmatch(pattern, module):
                totals[part] += sum(flops.values())
    assert sum(totals.values()) == counter.get_total_flops(), "some operation lies outside the named parts"
    batch = x.shape[-4]
    return {part: flops / 2 / batch for part, flops in totals.items()}


def image(config: SMixerConfig, batch: int = 1) -> torch.Tensor:
    return torch.zeros(batch, config.in_channels, *config.img_size)


@pytest.mark.parametrize(
    ("config", "number"),
    [
        (CIFAR_4_384, 8_258_324),
        (CIFAR_10_384, 17_531_156),
        (CONFIGS["smixer-8-384"], 19_214_232),
        (CONFIGS["smixer-8-512"], 30_125_608),
        (CONFIGS["smixer-8-768"], 61_167_432),
        (dataclasses.replace(CONFIGS["smixer-8-768"], heads=32), 66_084_680),
        (CONFIGS["smixer-2-256"], None),
        (ODD, None),
    ],
    ids=lambda value: f"{value.depth}-{value.dim}-{value.heads}" if isinstance(value, SMixerConfig) else None,
)
def test_parameters(config, number):
    with FakeTensorMode():
        net = SMixerNet(config)
    counted = sum(p.numel() for p in net.parameters())
    assert counted == parameters(config)
    assert number in (None, counted)
    assert sum(block.mixer.w_m.weight.numel() for block in net.blocks) == (
        config.depth * config.heads * config.num_tokens**2
    )


# MACs of one step in millions, as the original network was measured: stem, projections, W_M, MLP.
@pytest.mark.parametrize(
    ("config", "measured"),
    [
        (CIFAR_4_384, (458, 75.5, 6.3, 302)),
        (CIFAR_10_384, (458, 189, 15.7, 755)),
        (CONFIGS["smixer-8-384"], (1861, 462, 118, 1850)),
        (CONFIGS["smixer-8-512"], (3276, 822, 157, 3288)),
        (CONFIGS["smixer-8-768"], (7298, 1850, 236, 7399)),
    ],
    ids=["4-384", "10-384", "8-384", "8-512", "8-768"],
)
def test_macs_of_the_published_networks(config, measured):
    with FakeTensorMode():
        counted = counted_macs(SMixerNet(config), image(config))
    assert counted == macs(config, shown_once=True)
    for part, millions in zip(("stem", "proj", "mix", "ffn"), measured, strict=True):
        assert counted[part] / 1e6 == pytest.approx(millions, rel=1e-2, abs=0.05)


def test_a_static_image_passes_the_first_convolutions_once():
    with FakeTensorMode():
        net = SMixerNet(ODD)
        shown = counted_macs(net, image(ODD, batch=2))
        frames = counted_macs(net, image(ODD).expand(ODD.T, 2, -1, -1, -1))
    assert shown == macs(ODD, shown_once=True)
    assert frames == macs(ODD, shown_once=False)
    # 24 x 16 pixels of a 3 x 3 kernel on 2 channels to 5, and 6 x 4 pixels of a 4 x 4 kernel; two more times
    assert frames["stem"] - shown["stem"] == 2 * (24 * 16 * 18 * 5 + 6 * 4 * 32 * 5)


@pytest.mark.parametrize("w_prime", ["crop", "gather"])
def test_pruning_shrinks_all_but_the_stem(w_prime):
    pruned = dataclasses.replace(ODD, prune=DSTSPConfig(ps=0.5, t=2, merge="drop", w_prime=w_prime))
    x = image(ODD, batch=2)
    net = SMixerNet(pruned).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x)
    flops = {module: sum(counts.values()) / 2 / 2 for module, counts in counter.get_flop_counts().items()}
    whole = macs(ODD, shown_once=True)
    assert flops["SMixerNet.stem"] == whole["stem"]
    # 12 of 24 tokens and 2 of 3 steps
    assert sum(flops[f"SMixerNet.blocks.{i}.mlp"] for i in range(3)) == whole["ffn"] / 3
    assert sum(flops[f"SMixerNet.blocks.{i}.mixer.{p}"] for i in range(3) for p in ("value", "proj")) == (
        whole["proj"] / 3
    )
    assert flops["SMixerNet.head"] == whole["head"] * 2 / 3
    if w_prime == "crop":
        assert sum(flops[f"SMixerNet.blocks.{i}.mixer"] for i in range(3)) == whole["proj"] / 3 + whole["mix"] / 6
