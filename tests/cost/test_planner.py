"""The planner of W_M': the numbers of two networks by hand, placement on two chips, and what is refused."""

from dataclasses import replace

import pytest

from snntorch_smixer.cost.profile import load_profile
from snntorch_smixer.cost.records import Geometry, Record, Records
from snntorch_smixer.cost.w_prime import (
    IMPLEMENTATIONS,
    Band,
    Cores,
    MemoryPrices,
    MixerLoad,
    WPrimePlan,
    core_steps,
    cores_on,
    memory_prices,
    plan_w_prime,
)
from snntorch_smixer.errors import SettingError
from snntorch_smixer.pruning.spatial import tokens_kept

IMAGENET = MixerLoad(tokens=196, kept=137, channels=768, heads=16, blocks=8, steps=1, rate=0.158, held=0.85)
# 3.90 M events imply this rate; at the 0.158 of the larger network they would be 3.98 M.
CIFAR = MixerLoad(tokens=64, kept=44, channels=384, heads=16, blocks=4, steps=4, rate=0.155, held=0.85)
MEMORY = MemoryPrices(Band(162.5, 325.0, "recalled", "DRAM"), Band(5.0, 5.0, "assumed", "SRAM"))
TRUENORTH, LOIHI = (cores_on(load_profile(name)) for name in ("truenorth", "loihi1"))


def core(**limits: object) -> Cores:
    """A chip like Loihi but for these limits."""
    loihi = load_profile("loihi1")
    return cores_on(replace(loihi, capacity=replace(loihi.capacity, **limits)))


def plan(load: MixerLoad, event_pj: float = 0.9, *, gate_destination: bool = False) -> WPrimePlan:
    return plan_w_prime(load, event_pj=event_pj, memory=MEMORY, gate_destination=gate_destination)


@pytest.mark.parametrize(
    ("load", "full", "f", "s", "source", "destination"),
    [(IMAGENET, 37.3, 31.7, 22.2, 5.0, 8.6), (CIFAR, 3.90, 3.32, 2.28, 0.5, 0.9)],
    ids=["8-768", "4-384"],
)
def test_events(load: MixerLoad, full: float, f: float, s: float, source: float, destination: float):
    result = plan(load)
    digits = 0.05 if full > 10 else 0.005
    assert result.full_events / 1e6 == pytest.approx(full, abs=digits)
    assert result.option("F").events / 1e6 == pytest.approx(f, abs=digits)
    assert result.option("S").events / 1e6 == pytest.approx(s, abs=digits)
    assert result.option("G").events == result.option("S").events
    assert result.source_gating_uj == pytest.approx(source, abs=0.05)
    assert result.destination_gating_uj == pytest.approx(destination, abs=0.05)
    assert [option.dropped for option in result.options] == pytest.approx([0.15 * load.spikes] * 3)


@pytest.mark.parametrize(
    ("load", "megabytes", "low", "high"),
    [(IMAGENET, 2.402432, 402.4, 792.8), (CIFAR, 0.123904, 20.75, 40.89)],
    ids=["8-768", "4-384"],
)
def test_the_reload_of_gather(load: MixerLoad, megabytes: float, low: float, high: float):
    gather = plan(load).option("G")
    assert gather.reload_bytes == megabytes * 1e6
    assert gather.reload_uj == (pytest.approx(low, abs=0.05), pytest.approx(high, abs=0.05))
    assert plan(load).option("F").reload_bytes == plan(load).option("S").reload_bytes == 0


@pytest.mark.parametrize(
    ("load", "event_pj", "low", "high"),
    [(IMAGENET, 0.9, 47, 92), (IMAGENET, 23.6, 1.8, 3.5), (CIFAR, 0.9, 22, 44), (CIFAR, 23.6, 0.85, 1.67)],
)
def test_reload_over_saving(load: MixerLoad, event_pj: float, low: float, high: float):
    assert plan(load, event_pj).reload_over_saving == (pytest.approx(low, rel=0.015), pytest.approx(high, rel=0.015))


@pytest.mark.parametrize(
    ("load", "event_pj", "low", "high"),
    [(IMAGENET, 0.9, 46.9, 92.3), (IMAGENET, 23.6, 1.79, 3.52), (CIFAR, 0.9, 89.0, 175.4), (CIFAR, 23.6, 3.40, 6.69)],
)
def test_break_even_steps(load: MixerLoad, event_pj: float, low: float, high: float):
    slots, gather, against_slots = plan(load, event_pj).break_even
    assert (gather.name, gather.against) == ("G", "F")
    assert gather.steps == (pytest.approx(low, rel=2e-3), pytest.approx(high, rel=2e-3))
    assert (slots.name, slots.against) == ("S", "F")
    assert slots.steps is not None
    assert slots.steps[1] < 0.01
    assert (against_slots.name, against_slots.against, against_slots.steps) == ("G", "S", None)


def test_break_even_is_where_the_energies_meet():
    steps = 90
    load = replace(IMAGENET, steps=steps)
    full, gather = (plan(load).option(name) for name in "FG")
    wait = plan(load).break_even[1].steps
    assert wait == (pytest.approx(46.859, abs=1e-3), pytest.approx(92.319, abs=1e-3))
    table_uj = (gather.control_bits - full.control_bits) / 8 * 5.0 * 1e-6
    saved = (full.events_uj - gather.events_uj) / steps
    assert wait[0] * saved == pytest.approx(gather.reload_uj[0] + table_uj)


@pytest.mark.parametrize(("load", "table", "mask"), [(IMAGENET, 1096, 196), (CIFAR, 528, 128)])
def test_control_traffic(load: MixerLoad, table: int, mask: int):
    full, slots, gather = plan(load).options
    assert slots.control_bits_each_step == gather.control_bits_each_step == 8 * table
    assert full.control_bits_each_step == 8 * mask
    assert slots.control_bits * load.steps == 8 * table


def test_weights_slots_and_barriers():
    full, slots, gather = plan(IMAGENET).options
    assert (full.resident_bytes, full.slots) == (8 * 16 * 196**2, 8 * 768 * 196)
    assert (slots.resident_bytes, slots.slots) == (8 * 16 * 137**2, 8 * 768 * 137)
    assert slots.resident_bytes / full.resident_bytes == pytest.approx(0.49, abs=0.005)
    assert gather.off_core_bytes == full.resident_bytes
    assert [option.barriers for option in (full, slots, gather)] == [1, 1, 2]
    assert (plan(IMAGENET).rank_buffer_bits, plan(IMAGENET).rank_counters) == (196 * 768, 196)
    assert plan(replace(IMAGENET, weight_bits=4)).option("F").resident_bytes * 2 == full.resident_bytes
    assert set(IMPLEMENTATIONS) == {option.name for option in plan(IMAGENET).options}


def test_gated_destinations_leave_nothing_to_save():
    result = plan(IMAGENET, gate_destination=True)
    assert result.option("F").events == result.option("S").events
    assert [entry.steps for entry in result.break_even] == [None, None, None]
    assert result.reload_over_saving == plan(IMAGENET).reload_over_saving


def test_nothing_pruned():
    result = plan(replace(IMAGENET, kept=196, held=1.0))
    assert {option.events for option in result.options} == {result.full_events}
    assert result.reload_over_saving is None
    assert all(entry.steps is None for entry in result.break_even)


def test_truenorth_frees_cores_in_steps():
    first, second, *_ = core_steps(IMAGENET, cores=TRUENORTH)
    assert (first.kept, first.cores) == (196, 768)
    assert (second.kept, second.cores) == (128, 384)
    assert second.pruned == pytest.approx(0.347, abs=5e-4)
    counts = {ps: TRUENORTH(mixer(tokens_kept(196, ps))) for ps in (0.0, 0.30, 0.34, 0.35)}
    assert counts == {0.0: 768, 0.30: 768, 0.34: 768, 0.35: 384}
    assert [TRUENORTH(mixer(n, channels=384)) for n in (64, tokens_kept(64, 0.3))] == [96, 77]


def test_rounding_of_the_kept_tokens():
    assert (tokens_kept(64, 0.3), tokens_kept(196, 0.3)) == (45, 137)


def mixer(tokens: int, channels: int = 768) -> Geometry:
    return Geometry(fan_in=tokens, outputs=tokens, blocks=channels, weight_sets=16)


def test_loihi_with_and_without_shared_weights():
    alone = core(shares_weights=False)
    assert [LOIHI(mixer(n)) for n in (196, 137)] == [154, 110]
    assert [alone(mixer(n)) for n in (196, 137)] == [256, 128]
    full, slots, _ = plan_w_prime(IMAGENET, event_pj=0.9, memory=MEMORY, cores=LOIHI).options
    assert (full.cores_per_block, slots.cores_per_block) == (154, 110)
    assert plan(IMAGENET).option("F").cores_per_block is None


def test_a_channel_that_needs_several_cores_or_none():
    shared = {"fan_in": None, "synapse_bits_per_core": None}
    assert core(neurons_per_core=64, **shared)(mixer(196)) == 196 * 768 // 64
    # 196 eight-bit weights a neuron: 20 neurons in 4000 bytes. No core holds a whole channel, so p channels x q outputs
    # lie in each, p q <= 20: 1 x 20 take 768 * 10 = 7680 cores, 2 x 10 take 384 * 20 as many, and 5 x 4, which cut 196
    # without a rest, take ceil(768 / 5) * 49 = 154 * 49 = 7546. No fewer than 768 * 196 / 20 = 7526.4 can do.
    few = {"neurons_per_core": 64, "fan_in": None, "shares_weights": False}
    assert core(**few, synapse_bits_per_core=32_000)(mixer(196)) == 154 * 49 == 7546
    tiles = [(p, 20 // p) for p in range(1, 21)]
    assert min(-(-768 // p) * -(-196 // q) for p, q in tiles) == 7546
    assert core(**few, synapse_bits_per_core=1_000)(mixer(196)) is None
    assert core(fan_in=128)(mixer(196)) is None
    assert core_steps(IMAGENET, cores=core(neurons_per_core=256, fan_in=128))[0].kept == 128


def test_load_from_records():
    counts = {"inputs": 2 * 4 * 64 * 384, "packets": 2 * 4 * 64 * 96}
    layers = tuple(
        Record(f"blocks.{i}.mixer", "matmul", counts=counts, geometry=mixer(64, channels=384)) for i in (0, 1)
    )
    linear = Record("head", "linear", geometry=Geometry(384, 10, 1))
    records = Records("net", 2, 4, (*layers, linear), {}, (), 3)
    load = MixerLoad.from_records(records, layers=["blocks.0.mixer", "blocks.1.mixer"], kept=45, held=0.9)
    assert load == MixerLoad(64, 45, 384, 16, 2, 4, 0.25, 0.9)
    assert load.spikes == 2 * 4 * 64 * 96
    for wrong in (["head"], ["blocks.0.mixer", "head"], []):
        with pytest.raises(SettingError, match=r"MixerLoad: layers=.* are no token mixers of one shape"):
            MixerLoad.from_records(records, layers=wrong, kept=45, held=0.9)


def test_shipped_assumptions_say_what_they_are():
    shipped = memory_prices()
    assert (shipped.fetch.low, shipped.fetch.high) == (1300 / 8, 2600 / 8)
    assert (shipped.fetch.grade, shipped.write.grade) == ("recalled", "assumed")
    assert "Horowitz" in shipped.fetch.source


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kept", 197, r"MixerLoad: kept=197 is outside 1..196 tokens. Keep fewer."),
        ("kept", 0, r"MixerLoad: kept=0 must be a whole number of at least 1."),
        ("tokens", 19.6, r"MixerLoad: tokens=19.6 must be a whole number of at least 1."),
        ("heads", 7, r"MixerLoad: channels=768 is no multiple of heads=7. Change one."),
        ("held", 1.2, r"MixerLoad: held=1.2 must be a finite number in \[0, 1\]. Pass one."),
        ("rate", -0.1, r"MixerLoad: rate=-0.1 must be a finite number in \[0, 1\]. Pass one."),
        ("rate", True, r"MixerLoad: rate=True must be a finite number in \[0, 1\]. Pass one."),
    ],
)
def test_bad_loads(field: str, value: object, message: str):
    with pytest.raises(SettingError, match=message):
        replace(IMAGENET, **{field: value})


def test_bad_prices_and_limits():
    with pytest.raises(SettingError, match=r"plan_w_prime: event_pj=-0.9 must be a finite number of at least 0"):
        plan(IMAGENET, -0.9)
    with pytest.raises(SettingError, match=r"Band: high=1.0 must be a finite number of at least 2"):
        Band(2.0, 1.0, "assumed", "")
    with pytest.raises(KeyError):
        plan(IMAGENET).option("X")
