"""The formulas agree with what torch counts (goal G8), and with the design's own numbers."""

import dataclasses
from itertools import product

import pytest
import torch

from snntorch_smixer.bench.closed_form import closed_form_macs
from snntorch_smixer.bench.macs import dense_macs
from snntorch_smixer.models.config import CONFIGS, SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.pruning.place import PLACES
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.pruning.rates import Schedule

SMALL = SMixerConfig((16, 24), 2, 5, 4, dim=32, depth=3, heads=2, strides=(1, 2, 1, 2, 1))
MANY_HEADS = dataclasses.replace(SMALL, heads=16)


def counted(config: SMixerConfig, *, frames: bool = False) -> float:
    net, shape = SMixerNet(config), (2, config.in_channels, *config.img_size)
    return dense_macs(net, torch.randn(config.T, *shape) if frames else torch.randn(shape), batch_axis=int(frames))


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize(("place", "t", "ps"), list(product(PLACES, (None, 1, 3), (0, 0.3, 0.9))))
def test_every_rate_step_and_place(place, t, ps, frames):
    config = dataclasses.replace(SMALL, prune=DSTSPConfig(ps=ps, t=t, place=place))
    assert closed_form_macs(config, frames=frames).total == counted(config, frames=frames)


@pytest.mark.parametrize("base", [SMALL, MANY_HEADS])
@pytest.mark.parametrize(
    "changes",
    [
        {"merge": "drop"},
        {"merge": "sum"},
        {"merge": "fuse"},
        {"merge": "fuse", "w_prime": "crop"},
        {"w_prime": "crop"},
        {"w_prime": "shared"},
        {"ps": (0.1, 0.1, 0.5)},
        {"ps": Schedule(0.1, 0.6), "merge": "drop"},
        {"active": "train"},
        {"active": "eval"},
    ],
)
def test_every_way_of_pruning(base, changes):
    config = dataclasses.replace(base, prune=DSTSPConfig(**{"ps": 0.4, "t": 2, **changes}))
    assert closed_form_macs(config).total == counted(config)


def test_both_forms_of_the_mixer_are_met():
    few, many = (
        closed_form_macs(dataclasses.replace(config, prune=DSTSPConfig(ps=0.5, t=1))) for config in (SMALL, MANY_HEADS)
    )
    assert few.mixing < many.mixing


@pytest.mark.parametrize("changes", [{}, {"mixer": "ssa"}, {"mixer": "ssa", "prune": DSTSPConfig(ps=0.5, t=1)}])
def test_without_pruning_and_with_attention(changes):
    config = dataclasses.replace(SMALL, **changes)
    assert closed_form_macs(config).total == counted(config)


@pytest.mark.parametrize(
    ("prune", "millions"),
    [
        (None, 3363.3),
        (DSTSPConfig(ps=0.4, t=None), 2736),
        (DSTSPConfig(ps=0, t=2), 2595.4),
        (DSTSPConfig(ps=0.3, t=1), 2100),
        (DSTSPConfig(ps=0.3, t=1, place="lif2"), 857.8),
    ],
)
def test_the_table_of_the_paper(prune, millions):
    """Within 0.1 % of what was counted; the paper prints 3.45, 2.72, 2.54 and 2.04 G."""
    config = dataclasses.replace(CONFIGS["smixer-4-384"], prune=prune)
    assert closed_form_macs(config).total / 1e6 == pytest.approx(millions, rel=1e-3)


def test_the_stem_bounds_what_pruning_behind_it_can_save():
    assert closed_form_macs(CONFIGS["smixer-4-384"]).stem_share == pytest.approx(0.543, abs=2e-3)
    assert closed_form_macs(CONFIGS["smixer-2-256"], frames=True).stem_share == pytest.approx(0.76, abs=5e-3)
