"""The audit of the paper: energy over the firing rate, DSTSP at one step, and the FLOPs column."""

from dataclasses import replace

import pytest

from snntorch_smixer.cost.audit import (
    READINGS,
    PartMacs,
    PruningAudit,
    audit_energy,
    audit_flops,
    audit_pruning,
    energy_mj,
    mapped_events,
    rate_for,
)
from snntorch_smixer.cost.published import published_log
from snntorch_smixer.errors import SettingError

PJ = {"mac_pj": 4.6, "ac_pj": 0.9}
LOG = published_log("spikingformer_8_768")
BLOCKS = {"projections": 16 * 768**2 * 196, "mixing": 8 * 768 * 196**2, "ffn": 16 * 768 * 3072 * 196, "blocks": 8}
ANALOG = 224**2 * 27 * 96 + 196 * 768 * 96


def conv(side: int, inputs: int, outputs: int, *, padding: bool) -> int:
    """A 3x3 convolution of stride 2 and padding 1: only the first row and column of its output touch the padding."""
    return (3 * side - (not padding)) ** 2 * inputs * outputs


def stem(*, padding: bool) -> tuple[int, ...]:
    sizes = ((112, 96, 192), (56, 192, 384), (28, 384, 768), (14, 768, 672))
    return tuple(conv(*size, padding=padding) for size in sizes)


MACS = PartMacs(ANALOG, stem(padding=False), **BLOCKS)
DENSE = replace(MACS, stem=stem(padding=True))


def pruning(held: float | None = None) -> PruningAudit:
    return audit_pruning(MACS, tokens=196, kept=137, held=held, **PJ)


def test_counts_are_those_of_the_network():
    assert MACS.analog / 1e9 == pytest.approx(0.1445, abs=5e-5)
    assert sum(MACS.stem) / 1e9 == pytest.approx(7.02, abs=5e-3)
    assert (MACS.projections + MACS.mixing + MACS.ffn) == MACS.in_blocks
    assert [BLOCKS[name] / 1e9 for name in ("projections", "mixing", "ffn")] == pytest.approx(
        [1.85, 0.236, 7.40], abs=5e-3
    )
    assert MACS.spiking / 1e9 == pytest.approx(16.508, abs=5e-4)
    assert MACS.mixing / MACS.spiking == pytest.approx(0.014, abs=5e-4)


def test_energy_over_the_rate():
    audit = audit_energy(MACS, log=LOG, rates=(0.0, 0.1, 0.2), **PJ)
    assert audit.curve == (
        (0.0, pytest.approx(4.6e-9 * ANALOG)),
        (0.1, pytest.approx(2.150, abs=5e-4)),
        (0.2, pytest.approx(3.636, abs=5e-4)),
    )
    assert audit.rate_needed == pytest.approx(0.255, abs=5e-4)
    assert energy_mj(MACS, rate=audit.rate_needed, **PJ) == pytest.approx(4.45)
    assert [rate for rate, _ in audit_energy(MACS, log=LOG, **PJ).curve][:2] == [0.05, 0.1]


@pytest.mark.parametrize(
    ("macs", "mj"),
    [(MACS, 2.989), (DENSE, 3.004), (replace(DENSE, analog=ANALOG + 768_000), 3.008)],
    ids=["existing synapses", "dense, as the log's rates", "dense, with the head on real values"],
)
def test_energy_at_trained_rates(macs: PartMacs, mj: float):
    audit = audit_energy(macs, log=LOG, **PJ)
    assert audit.mapped_mj == pytest.approx(mj, abs=5e-4)
    assert audit.mapped_rate == pytest.approx(0.1563, abs=2e-4)
    (finding,) = audit.figures
    assert (finding.paper, finding.ours, finding.reading) == (4.45, audit.mapped_mj, "above_trained_rates")
    assert finding.ratio == pytest.approx(mj / 4.45, abs=5e-4)


@pytest.mark.parametrize("part", ["projections", "mixing", "ffn"])
def test_each_part_takes_its_own_rates(part: str):
    only = replace(MACS, stem=(0, 0, 0, 0), **{name: 8.0 if name == part else 0 for name in BLOCKS if name != "blocks"})
    expected = {
        "projections": sum((block.qkv + block.proj) / 2 for block in LOG.blocks),
        "mixing": sum(block.v for block in LOG.blocks),
        "ffn": sum((block.fc1 + block.fc2) / 2 for block in LOG.blocks),
    }
    assert mapped_events(only, log=LOG) == pytest.approx(expected[part])


def test_the_same_rate_with_fewer_tokens():
    scope = pruning().scopes[0]
    assert (scope.name, scope.pruned.reading) == ("all", "tokens_too_few")
    # 3.79 with exactly 70 % of the tokens; 137 of 196 are 69.9 %.
    assert scope.pruned.ours == pytest.approx(3.784, abs=5e-4)
    assert 1 - scope.pruned.ours / 4.45 == pytest.approx(0.15, abs=1e-3)
    exact = audit_pruning(MACS, tokens=10, kept=7, **PJ).scopes[0]
    assert exact.pruned.ours == pytest.approx(3.786, abs=5e-4)


def test_the_lower_bound_and_what_it_leaves():
    audit = pruning()
    assert audit.bound.ours == pytest.approx(3.31, abs=5e-3)
    assert audit.bound.reading == "needs_fewer_spikes"
    assert audit.fewer_spikes_at_bound == pytest.approx(0.36, abs=2e-3)
    assert audit.rate_for_paper == pytest.approx(0.138, abs=1e-3)
    assert audit.explained == pytest.approx(0.319, abs=1e-3)
    assert audit.explained_at_most == pytest.approx(0.545, abs=1e-3)


def test_the_floor_is_the_least_of_all_rates():
    """All rates in 0..1 per part that give 4.45 mJ: the mixer's at 1, for its products fall with the square."""
    share, mixing = 137 / 196, 0.9e-9 * MACS.mixing
    analog = 4.6e-9 * ANALOG
    expected = analog + mixing * share**2 + (4.45 - analog - mixing) * share
    assert pruning().floor_mj == pytest.approx(expected)
    assert pruning().floor_mj == pytest.approx(3.266, abs=5e-4)
    assert 2.36 < pruning().floor_mj < pruning().bound.ours


def test_the_stem_is_not_pruned():
    """At its unpruned rate it leaves the blocks 1.4 %."""
    audit = pruning()
    assert audit.block_rate_for_paper == pytest.approx(0.0143, abs=5e-5)


def test_counting_only_a_part_explains_it_no_better():
    _, no_stem, blocks = pruning().scopes
    assert (no_stem.rate, no_stem.pruned.ours) == (pytest.approx(0.443, abs=5e-4), pytest.approx(3.291, abs=5e-4))
    assert (blocks.rate, blocks.pruned.ours) == (pytest.approx(0.521, abs=5e-4), pytest.approx(3.087, abs=5e-4))
    assert blocks.pruned.ours / 4.45 == pytest.approx(0.694, abs=5e-4)
    assert blocks.fewer_spikes == pytest.approx(0.236, abs=5e-4)
    assert {scope.pruned.reading for scope in (no_stem, blocks)} == {"scope_too_small"}


def test_quiet_tokens_take_fewer_spikes_along():
    assert pruning().held_mj is None
    alike, quiet = pruning(137 / 196).held_mj, pruning(0.85).held_mj
    assert alike == pytest.approx(pruning().scopes[0].pruned.ours)
    assert quiet == pytest.approx(4.110, abs=5e-4)


def test_no_cap_binds_at_one_step():
    assert pruning().cap_binds is False


def test_flops_of_the_ablation():
    audit = audit_flops((3.37, 2.75, 2.60, 2.10), stem_g=0.458)
    errors = [row.after_stem.ratio - 1 for row in audit.rows]
    assert errors == pytest.approx([-0.023, 0.011, 0.024, 0.029], abs=6e-4)
    assert {row.after_stem.reading for row in audit.rows} == {"matches"}
    assert (audit.fitted_stem_g, audit.fitted_blocks_g) == (
        pytest.approx(1.63, abs=5e-3),
        pytest.approx(1.82, abs=5e-3),
    )
    assert audit.predicted.ours == pytest.approx(1.95, abs=5e-3)


def test_neither_placement_explains_flops_and_throughput():
    audit = audit_flops((3.37, 2.75, 2.60, 2.10), stem_g=0.458)
    assert audit.one_placement is False
    _, tokens, steps, both = audit.rows
    assert (steps.speedup, steps.after_speedup, steps.before_speedup) == pytest.approx((2.52, 1.30, 2.00), abs=5e-3)
    assert (steps.speedup_reading, steps.speedup_before_reading) == ("unexplained", "unexplained")
    assert (both.speedup, both.after_speedup, both.before_speedup) == pytest.approx((2.77, 1.60, 4.64), abs=5e-3)
    assert (both.speedup_reading, both.speedup_before_reading) == ("unexplained", "within_operations")
    assert [row.before_stem.reading for row in (steps, both)] == ["differs", "differs"]
    assert (steps.before_stem.ours, both.before_stem.ours) == pytest.approx((1.684, 0.726))
    assert tokens.before_stem.ours == tokens.after_stem.ours


def test_every_reading_is_explained():
    flops = audit_flops((3.37, 2.75, 2.60, 2.10), stem_g=0.458)
    used = {finding.reading for finding in audit_energy(MACS, log=LOG, **PJ).figures}
    used |= {scope.pruned.reading for scope in pruning().scopes} | {pruning().bound.reading}
    for row in flops.rows:
        used |= {row.after_stem.reading, row.before_stem.reading, row.speedup_reading, row.speedup_before_reading}
    assert used | {"plausible"} == set(READINGS)


def test_bad_input():
    with pytest.raises(SettingError, match=r"PartMacs: analog=-1 must be a finite number of at least 0"):
        replace(MACS, analog=-1)
    with pytest.raises(SettingError, match=r"PartMacs: projections, mixing and ffn are all 0"):
        replace(MACS, projections=0, mixing=0, ffn=0)
    with pytest.raises(SettingError, match=r"energy_mj: rate=-0.1 must be"):
        energy_mj(MACS, rate=-0.1, **PJ)
    with pytest.raises(SettingError, match=r"rate_for: ac_pj=0 prices no event"):
        rate_for(MACS, mj=4.45, mac_pj=4.6, ac_pj=0)
    with pytest.raises(SettingError, match=r"rate_for: mj=0.1 must be a finite number of at least 0.66"):
        rate_for(MACS, mj=0.1, **PJ)
    with pytest.raises(SettingError, match=r"mapped_events: got 4 spiking stem convolutions and 4 blocks. Expected 4"):
        mapped_events(replace(MACS, blocks=4), log=LOG)
    with pytest.raises(SettingError, match=r"audit_pruning: kept=197 is outside 1..196 tokens"):
        audit_pruning(MACS, tokens=196, kept=197, **PJ)
    with pytest.raises(SettingError, match=r"audit_pruning: held=0.5 must be a finite number in \[0.69"):
        pruning(0.5)
    with pytest.raises(SettingError, match=r"audit_flops: got 3 counts. Expected 4, one for each row"):
        audit_flops((3.37, 2.75, 2.60), stem_g=0.458)
    with pytest.raises(SettingError, match=r"audit_flops: counted_g=2.1 must be a finite number of at least 4"):
        audit_flops((5.0, 5.0, 5.0, 2.1), stem_g=1.0)
