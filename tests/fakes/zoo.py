"""The registry of the stand-ins."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn

from tests.fakes import braincog, odd, qkformer, sdt_v1, sdt_v2, sdt_v3, spikeyolo, spikformer, spikformer_v2, stmixer
from tests.fakes.calibrate import calibrate, events, images


def _same(out: object) -> Tensor:
    return out


@dataclass(frozen=True, repr=False)
class Fake:
    """One stand-in.

    Attributes:
        name: key in FAKES.
        make: an untrained model, parameters from torch's global generator.
        example: (batch, seed) to an input of the model.
        family: the family that should claim it, or "probe".
        tokens: N at each of ``sites``.
        attention_paths: dotted paths of the quadratic attentions, in the order of their calls.
        linear_paths: dotted paths of the attentions that are not quadratic.
        mixer_paths: dotted paths of the modules that are token mixers already.
        steps: T; where there is no time, the number of spike levels.
        logits: the model's output to one tensor, (B, ...).
        drive: see `calibrate`.
    """

    name: str
    make: Callable[[], nn.Module]
    example: Callable[..., Tensor]
    family: str
    tokens: tuple[int, ...] = ()
    attention_paths: tuple[str, ...] = ()
    linear_paths: tuple[str, ...] = ()
    mixer_paths: tuple[str, ...] = ()
    steps: int = 4
    logits: Callable[[object], Tensor] = _same
    drive: float = 0.8

    def __repr__(self) -> str:
        return f"FAKES[{self.name!r}]"

    @property
    def sites(self) -> tuple[str, ...]:
        """The paths that ``tokens`` counts: the quadratic attentions, or else the others, or else the mixers."""
        return self.attention_paths or self.linear_paths or self.mixer_paths

    def build(self, seed: int = 0) -> nn.Module:
        """A fresh model in evaluation mode whose every neuron fires; the same one each time."""
        return copy.deepcopy(calibrated(self, seed))


@cache
def calibrated(fake: Fake, seed: int) -> nn.Module:
    """What ``build`` copies, made once per process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return calibrate(fake.make(), fake.example, drive=fake.drive)


def paths(pattern: str, *indices: int) -> tuple[str, ...]:
    """The dotted paths that ``pattern`` gives for each index."""
    return tuple(pattern.format(i) for i in indices)


def _first(out: object) -> Tensor:
    return out[0]


def _first_over_time(out: object) -> Tensor:
    return out[0].mean(0)


def _maps(out: object) -> Tensor:
    return torch.cat([one.flatten(1) for one in out], 1)


def _sdt_v2() -> nn.Module:
    model = sdt_v2.Spiking_vit_MetaFormer()
    model.T = 4  # as callers do
    return model


_ALL = (
    Fake("spikformer_cifar", spikformer.Spikformer, images, "spikformer", (16, 16), paths("block.{}.attn", 0, 1)),
    Fake(
        "spikformer_imagenet",
        spikformer.SpikformerImagenet,
        images,
        "spikformer",
        (16, 16),
        paths("block.{}.attn", 0, 1),
    ),
    Fake("spikformer_dvs", spikformer.SpikformerDvs, events, "spikformer", (16, 16), paths("block.{}.attn", 0, 1)),
    Fake(
        "qkformer",
        qkformer.hierarchical_spiking_transformer,
        images,
        "qkformer",
        (16, 16),
        paths("stage3.{}.attn", 0, 1),
        ("stage1.0.tssa", "stage2.0.tssa"),
    ),
    Fake(
        "qkformer_dvs",
        qkformer.vit_snn,
        events,
        "qkformer",
        (16, 16),
        paths("stage2.{}.ssa", 0, 1),
        ("stage1.0.tssa",),
    ),
    Fake(
        "spikformer_v2",
        spikformer_v2.SpikformerV2,
        images,
        "spikformer",
        (16, 16),
        paths("block.{}.attn", 0, 1),
    ),
    Fake(
        "sdt_v1",
        sdt_v1.SpikeDrivenTransformer,
        images,
        "sdt_v1",
        (16, 16),
        linear_paths=paths("block.{}.attn", 0, 1),
        logits=_first,
        drive=0.0,
    ),
    Fake(
        "sdt_v1_dvs",
        partial(sdt_v1.SpikeDrivenTransformer, 2, dvs=True, TET=True),
        events,
        "sdt_v1",
        (16, 16),
        linear_paths=paths("block.{}.attn", 0, 1),
        logits=_first_over_time,
        drive=-0.4,
    ),
    Fake(
        "sdt_v2",
        _sdt_v2,
        partial(images, size=64),
        "sdt_v2",
        (16, 16, 16),
        ("block3.0.attn", "block3.1.attn", "block4.0.attn"),
    ),
    Fake(
        "sdt_v3",
        sdt_v3.Spiking_vit_MetaFormer_Spike_SepConv,
        partial(images, size=64),
        "sdt_v3",
        (16, 16, 16),
        ("block3.0.attn", "block3.1.attn", "block4.0.attn"),
        drive=0.0,
    ),
    Fake(
        "sdt_v3_large",
        sdt_v3.Spikformer,
        partial(images, size=64),
        "sdt_v3",
        (16, 16),
        paths("block3.{}.attn", 0, 1),
        drive=0.5,
    ),
    Fake(
        "stmixer",
        stmixer.STMixerV3,
        images,
        "stmixer",
        (16, 16),
        mixer_paths=paths("block.{}.token_mix.attn", 0, 1),
        drive=0.3,
    ),
    Fake("spikeyolo", spikeyolo.DetectionModel, partial(images, size=32), "spikeyolo", logits=_maps, drive=0.0),
    Fake("braincog", braincog.Spikformer, images, "spikformer", (16, 16), paths("block.{}.attn", 0, 1)),
    Fake("one_big_block", odd.OneBigNet, images, "probe", (16, 16), ("deck.0", "deck.1")),
    Fake("strided_keys", odd.StridedNet, images, "probe", (64, 64), ("rungs.0", "rungs.1")),
    Fake("einsum", odd.EinsumNet, images, "probe", (16, 16), ("chain.0.held", "chain.2.held")),
    Fake("root_attention", odd.RootAttention, images, "probe", (16, 16), ("look_one", "look_two")),
)
FAKES = {fake.name: fake for fake in _ALL}
