"""Audit of the SMixer paper's energies and FLOPs: what our own counts say of them, and what they cannot explain.

All energies are per image, by the convention of that literature: ``mac_pj * MACs on the image + ac_pj * synaptic
events``. Prices come in as arguments, counts from our own networks, the paper's figures from `published`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from snntorch_smixer.cost.paper.part_macs import READINGS as READINGS
from snntorch_smixer.cost.paper.part_macs import Finding as Finding
from snntorch_smixer.cost.paper.part_macs import PartMacs as PartMacs
from snntorch_smixer.cost.paper.part_macs import energy_mj as energy_mj
from snntorch_smixer.cost.paper.part_macs import rate_for as rate_for
from snntorch_smixer.cost.paper.published import PAPER_ABLATION, PAPER_ENERGY, PaperRow, PublishedLog, check_within
from snntorch_smixer.errors import SettingError, check_count


@dataclass(frozen=True)
class EnergyAudit:
    """The paper's energy without pruning, as a function of the firing rate.

    Attributes:
        curve: (rate, mJ) pairs.
        rate_needed: mean rate, weighted by operations, at which the energy is the paper's.
        mapped_rate: the same mean with the trained rates of the log.
        mapped_mj: energy with them; see `mapped_events` for the mapping.
        figures: the paper's beside ours.
    """

    curve: tuple[tuple[float, float], ...]
    rate_needed: float
    mapped_rate: float
    mapped_mj: float
    figures: tuple[Finding, ...]


def mapped_events(macs: PartMacs, *, log: PublishedLog) -> float:
    """Synaptic events of one step with the trained rates of a Spikingformer, layer by layer.

    Spiking convolution i of the stem takes the rate of the log's convolution i (the image's is left out), in each
    block the first projection that of q, k and v, W_M that of v in front of the attention product, the second
    projection that of the log's projection, and the two layers of the MLP theirs. The log's rates are events over dense
    operations, so dense counts fit them best.

    Raises:
        SettingError: the log has another number of blocks or of stem convolutions.
    """
    stem = log.stem[1:]
    if len(stem) != len(macs.stem) or len(log.blocks) != macs.blocks:
        raise SettingError(
            f"mapped_events: got {len(macs.stem)} spiking stem convolutions and {macs.blocks} blocks. "
            f"Expected {len(stem)} and {len(log.blocks)} as in {log.name}. Audit a network of that depth."
        )
    events = sum(count * row.rate for count, row in zip(macs.stem, stem, strict=True))
    for block in log.blocks:
        events += macs.projections / macs.blocks * (block.qkv + block.proj) / 2
        events += macs.mixing / macs.blocks * block.v
        events += macs.ffn / macs.blocks * (block.fc1 + block.fc2) / 2
    return events


def audit_energy(
    macs: PartMacs, *, log: PublishedLog, mac_pj: float, ac_pj: float, rates: Sequence[float] = ()
) -> EnergyAudit:
    """Rebuild the paper's energy of STMixer-8-768 at T = 1.

    Args:
        macs: our counts of that network at 224 x 224.
        log: trained rates of a Spikingformer with as many blocks.
        mac_pj: price of a multiply-accumulate.
        ac_pj: price of an accumulate.
        rates: rates of the curve; 0.05 to 0.5 by default.

    Raises:
        SettingError: see `energy_mj`, `rate_for` and `mapped_events`.
    """
    points = tuple(rates) or tuple(i / 20 for i in range(1, 11))
    paper = PAPER_ENERGY.base_mj
    needed = rate_for(macs, mj=paper, mac_pj=mac_pj, ac_pj=ac_pj)
    mapped_rate = mapped_events(macs, log=log) / macs.spiking
    mapped = energy_mj(macs, rate=mapped_rate, mac_pj=mac_pj, ac_pj=ac_pj)
    reading = "plausible" if mapped >= paper else "above_trained_rates"
    return EnergyAudit(
        curve=tuple((rate, energy_mj(macs, rate=rate, mac_pj=mac_pj, ac_pj=ac_pj)) for rate in points),
        rate_needed=needed,
        mapped_rate=mapped_rate,
        mapped_mj=mapped,
        figures=(Finding("energy_at_trained_rates", "mJ", paper, mapped, reading),),
    )


@dataclass(frozen=True)
class FlopsRow:
    """One row of the paper's ablation beside our counts.

    Attributes:
        paper: the row.
        after_stem: "FLOPs" in G: ours with steps and tokens dropped behind the stem, as we prune.
        before_stem: the same with the dropped steps left out of the stem too.
        after_speedup: operations of the first row over ``after_stem``; the most that fewer operations can speed up.
        before_speedup: the same for ``before_stem``.
        speedup: the paper's images per second over those of its first row; its reading is for ``after_stem``.
        speedup_before_reading: the reading of the same speed-up for ``before_stem``.
    """

    paper: PaperRow
    after_stem: Finding
    before_stem: Finding
    after_speedup: float
    before_speedup: float
    speedup: float
    speedup_reading: str
    speedup_before_reading: str


@dataclass(frozen=True)
class FlopsAudit:
    """The column "FLOPs" of the paper's ablation on CIFAR-100.

    The paper's first three rows alone give ``F = S + (1 - P_T) (1 - P_S) B``; the fourth is predicted from them.

    Attributes:
        rows: in the paper's order.
        fitted_stem_g: S, what no pruning touches, G.
        fitted_blocks_g: B, what both prunings shrink, G.
        predicted: the fourth row by that formula.
        one_placement: True where one of the two placements agrees with both columns in all rows.
    """

    rows: tuple[FlopsRow, ...]
    fitted_stem_g: float
    fitted_blocks_g: float
    predicted: Finding
    one_placement: bool


def audit_flops(counted_g: Sequence[float], *, stem_g: float, steps: int = 4) -> FlopsAudit:
    """Compare our counts with the ablation's FLOPs and throughput, for two placements of the pruning.

    Args:
        counted_g: our multiply-accumulates per image in G, one for each row of the paper, stem at full T.
        stem_g: those of the stem for one step, both convolutions on the image included.
        steps: T.

    Raises:
        SettingError: another number of rows, or a stem larger than a row.
    """
    check_count("audit_flops", "steps", steps)
    if len(counted_g) != len(PAPER_ABLATION):
        raise SettingError(
            f"audit_flops: got {len(counted_g)} counts. Expected {len(PAPER_ABLATION)}, one for each row of the "
            "paper's ablation. Pass them in its order."
        )
    check_within("audit_flops", "stem_g", stem_g)
    for count in counted_g:
        check_within("audit_flops", "counted_g", count, stem_g * steps)
    rows = tuple(
        _flops_row(paper, counted, counted_g[0], dropped_g=stem_g * steps * paper.pt)
        for paper, counted in zip(PAPER_ABLATION, counted_g, strict=True)
    )
    fitted = _fit(PAPER_ABLATION[:3])
    last = PAPER_ABLATION[3]
    predicted = fitted[0] + (1 - last.pt) * (1 - last.ps) * fitted[1]
    after = all(row.after_stem.reading == "matches" and row.speedup_reading == "within_operations" for row in rows)
    before = all(
        row.before_stem.reading == "matches" and row.speedup_before_reading == "within_operations" for row in rows
    )
    return FlopsAudit(rows, fitted[0], fitted[1], _flops("flops_by_fit", last, predicted), after or before)


def _flops_row(paper: PaperRow, counted: float, full: float, *, dropped_g: float) -> FlopsRow:
    speedup = paper.images_per_second / PAPER_ABLATION[0].images_per_second
    after, before = full / counted, full / (counted - dropped_g)
    return FlopsRow(
        paper=paper,
        after_stem=_flops("flops_after_stem", paper, counted),
        before_stem=_flops("flops_before_stem", paper, counted - dropped_g),
        after_speedup=after,
        before_speedup=before,
        speedup=speedup,
        speedup_reading="unexplained" if speedup > 1.05 * after else "within_operations",
        speedup_before_reading="unexplained" if speedup > 1.05 * before else "within_operations",
    )


def _flops(key: str, paper: PaperRow, ours: float) -> Finding:
    close = abs(ours / paper.flops_g - 1) <= 0.05
    return Finding(key, "G", paper.flops_g, ours, "matches" if close else "differs")


def _fit(rows: Sequence[PaperRow]) -> tuple[float, float]:
    """Least squares of ``flops_g = S + B (1 - pt) (1 - ps)``: (S, B)."""
    shares = [(1 - row.pt) * (1 - row.ps) for row in rows]
    mean, mean_g = sum(shares) / len(rows), sum(row.flops_g for row in rows) / len(rows)
    spread = sum((share - mean) ** 2 for share in shares)
    slope = sum((share - mean) * (row.flops_g - mean_g) for share, row in zip(shares, rows, strict=True)) / spread
    return mean_g - slope * mean, slope
