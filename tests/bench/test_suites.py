"""The benchmarks, tiny; and the goals that do not depend on the machine, on the real network."""

import functools
from dataclasses import replace

import pytest
import torch

from snntorch_smixer.bench import peers, suite_memory, suite_neuron, suite_train_step
from snntorch_smixer.bench.goals import judged
from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.bench.peak import peak_bytes
from snntorch_smixer.bench.suite_memory import memory
from snntorch_smixer.bench.suite_neuron import neuron
from snntorch_smixer.bench.suite_train_step import train_step
from snntorch_smixer.bench.variants import VARIANTS, noise, variant
from snntorch_smixer.errors import SettingError
from snntorch_smixer.layers.memory import KeepsLess
from snntorch_smixer.models.config import CONFIGS, SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet

TINY = SMixerConfig((16, 16), 2, 5, 2, dim=16, depth=1, heads=2)
IMAGES = replace(TINY, in_channels=3, T=4)
CIFAR = "smixer-4-384"


def value(result, key: str, **where: str) -> float:
    (row,) = [r for r in result.rows if all(r[k] == v for k, v in where.items())]
    return row[key]


@functools.cache
def saved_mib(how: str, pruning: str = "none", dtype: str = "fp32") -> float:
    net = SMixerNet(replace(CONFIGS[CIFAR], prune=None if pruning == "none" else suite_memory.PRUNED))
    autocast = torch.bfloat16 if dtype == "bf16" else None
    return saved_bytes(variant(net, how), noise(net.config, 16)[0], fake=True, autocast=autocast) / 2**20


@pytest.mark.parametrize(
    ("goal", "bound", "how", "pruning", "dtype"),
    [
        ("G1", 24, "fused", "none", "fp32"),
        ("G2", 4.5, "recompute", "none", "fp32"),
        ("G3", 10.5, "fused", "ps=0.3 t=1", "fp32"),
        ("G3", 1.8, "recompute", "ps=0.3 t=1", "fp32"),
        ("G4", 12.5, "fused", "none", "bf16"),
        ("G4", 4.5, "recompute", "none", "bf16"),
    ],
)
def test_goals_of_kept_bytes(goal: str, bound: float, how: str, pruning: str, dtype: str):
    got = saved_mib(how, pruning, dtype)
    assert 0 < got <= bound
    row = {"net": CIFAR, "pruning": pruning, "dtype": dtype, "variant": how, "saved_mib": got}
    (judged_row,) = judged([row], suite_memory.GOALS)
    assert judged_row["goals"] == f"{goal} saved_mib {got:.4g} <= {bound:g} met"


def test_goal_of_the_share():
    """G1; the base is what STMixer's own code keeps, as measured."""
    assert saved_mib("naive") == pytest.approx(83.3, rel=0.01)
    assert saved_mib("fused") <= 0.29 * saved_mib("naive")


@pytest.mark.parametrize(("how", "bound"), [("fused", 29), ("recompute", 17)])
def test_goals_of_the_peak(how: str, bound: float):
    """G5."""
    net = SMixerNet(CONFIGS[CIFAR])
    got = peak_bytes(variant(net, how), noise(net.config, 16)[0], fake=True) / 2**20
    assert saved_mib(how) < got <= bound


def test_every_goal_is_about_a_row_that_the_benchmark_gives():
    keys = {"net", "dtype", "pruning", "variant"}
    for goal in suite_memory.GOALS:
        assert set(goal.where) == keys
        assert goal.where["net"] in suite_memory.NETS
        assert goal.where["variant"] in VARIANTS


def test_memory_has_a_row_for_each_case():
    ways = ("naive", "snntorch_loop", "recompute")
    result = memory({"images": replace(IMAGES, T=2)}, batch=2, variants=ways, dtypes=("fp32",), peers=False)
    # The loop of snnTorch cannot prune.
    assert [(row["variant"], row["pruning"]) for row in result.rows] == [
        *((how, "none") for how in ways),
        ("naive", "ps=0.3 t=1"),
        ("recompute", "ps=0.3 t=1"),
    ]
    assert result.command == "smixer bench memory images --batch 2"
    naive, loop, lean = result.rows[:3]
    assert lean["saved_mib"] < loop["saved_mib"] < naive["saved_mib"] < naive["peak_mib"]
    assert result.rows[4]["saved_share"] == result.rows[4]["saved_mib"] / naive["saved_mib"]
    assert loop["kernels"] > naive["kernels"] > 0


def test_what_a_benchmark_goes_through_can_be_watched():
    seen = []

    def watch(items, text: str):
        for item in items:
            yield item
            seen.append(text)

    memory({"images": IMAGES}, batch=2, variants=("fused",), dtypes=("fp32",), peers=False, progress=watch)
    neuron(batch=2, tokens=2, dim=8, rounds=2, compiled=False, progress=watch)
    train_step({"tiny": IMAGES}, batch=2, rounds=2, compiled=False, progress=watch)
    warmup, parts = 2, 4  # both parts, with gradients and without
    assert seen == ["networks"] * 2 + ["rounds"] * (parts + 1) * (warmup + 2)


def test_memory_of_event_frames_under_autocast_without_the_naive_twin():
    wide, _, half, _ = memory({"events": TINY}, batch=2, variants=("fused",), peers=False).rows
    assert (wide["dtype"], half["dtype"]) == ("fp32", "bf16")
    assert half["saved_mib"] < wide["saved_mib"]
    assert wide["saved_share"] is None


def test_the_peers(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("spikingjelly")
    plain, lean = peers.spikingjelly_peers(2)
    assert (plain[0], lean[0]) == ("spikformer_cifar10", "spikformer_cifar10 memopt")
    assert plain[1](plain[2]).shape == lean[1](lean[2]).shape == (2, 100)
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert peers.spikingjelly_peers(2) == []


def test_variants():
    net = SMixerNet(IMAGES)
    modes = {
        how: [(m.memory, m.chunks) for m in variant(net, how).modules() if isinstance(m, KeepsLess)]
        for how in VARIANTS[3:]
    }
    assert {how: set(found) for how, found in modes.items()} == {
        "reference": {("reference", 1)},
        "fused": {("fused", 1)},
        "recompute": {("recompute", 1)},
        "recompute_chunks": {("recompute", 16)},
    }
    assert variant(net, "fused") is not net
    with pytest.raises(SettingError, match="how"):
        variant(net, "fast")


def test_noise_is_what_the_network_takes():
    x, axis = noise(IMAGES, 3)
    assert (tuple(x.shape), axis) == ((3, 3, 16, 16), 0)
    x, axis = noise(TINY, 3)
    assert (tuple(x.shape), axis) == ((2, 3, 2, 16, 16), 1)


def test_train_step():
    result = train_step({"tiny": IMAGES}, batch=2, rounds=2, compiled=False)
    assert [row["variant"] for row in result.rows[:5]] == [
        "naive",
        "snntorch_layers",
        "reference",
        "fused",
        "recompute",
    ]
    assert len(result.rows) == 10
    assert result.rows[0]["ratio"] == 1
    assert result.rows[1]["to_snntorch"] == 1
    assert all(row["low"] <= row["ratio"] <= row["high"] for row in result.rows)
    assert value(result, "kernels", variant="naive", pruning="none") > value(
        result, "kernels", variant="fused", pruning="none"
    )
    assert value(result, "goals", variant="fused", pruning="none").startswith("R2 ratio ")
    assert result.command == "smixer bench train_step tiny --batch 2 --rounds 2"


def test_the_compiled_rows_are_asked_for_and_judged():
    calls = suite_train_step._steps(IMAGES, 2, compiled=True)
    assert [name for name in calls if name.endswith("|compile")] == [
        f"{how}|{pruning}|compile" for pruning in ("none", "ps=0.3 t=1") for how in ("fused", "recompute")
    ]
    named = {goal.name for goal in (*suite_train_step.GOALS, *suite_neuron.GOALS)}
    assert named == {"R1", "R2", "R3", "R4", "R5", "G9"}


def test_neuron():
    result = neuron(batch=2, tokens=4, dim=8, rounds=2, compiled=False)
    found = {(row["part"], row["neuron"]): row["saved_bytes"] for row in result.rows}
    assert found["LIF", "fire"] == 4  # the input
    assert found["BN+LIF", "norm_fire"] == pytest.approx(4 + 2 * 4 / (4 * 2 * 4))  # and two numbers per channel
    assert found["LIF", "snntorch.Leaky loop"] > 4
    assert found["BN+LIF", "snntorch.Leaky loop"] >= found["LIF", "snntorch.Leaky loop"] + 4
    for row in result.rows:
        if row["neuron"] == "snntorch.Leaky loop":
            assert row["train_ratio"] == row["forward_ratio"] == 1
    assert result.command == "smixer bench neuron --batch 2 --rounds 2"
