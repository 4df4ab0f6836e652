"""Audit of the SMixer paper's energies and FLOPs: what our own counts say of them, and what they cannot explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from snntorch_smixer.cost.published import PAPER_ABLATION, PAPER_ENERGY, PaperRow, PublishedLog, check_within
from snntorch_smixer.errors import SettingError, check_count

READINGS: Mapping[str, str] = {
    "plausible": "the trained rates of the log reach the figure",
    "above_trained_rates": "the figure needs more spikes than the trained network of the log fires",
    "tokens_too_few": "dropping these tokens saves less than the paper reports",
    "needs_fewer_spikes": "the figure needs kept tokens to spike less; pruning tokens does not do that",
    "scope_too_small": "leaving this part out of the count does not explain the figure either",
    "matches": "our count agrees within 5 %",
    "differs": "our count does not agree within 5 %",
    "unexplained": "the speed-up exceeds, by over 5 %, what this placement of the pruning removes in operations",
    "within_operations": "the speed-up stays within 5 % of what this placement of the pruning removes in operations",
}
"""Every `Finding.reading` and what it says."""


@dataclass(frozen=True)
class Finding:
    """One figure of the paper beside ours."""

    key: str  # what it is, in a word
    unit: str  # of both numbers
    paper: float  # the paper's figure
    ours: float  # what our counts give
    reading: str  # a key of `READINGS`

    @property
    def ratio(self) -> float:
        """Ours over the paper's."""
        return self.ours / self.paper


@dataclass(frozen=True)
class PartMacs:
    """Multiply-accumulates of an STMixer, per image and step. All sums run over the blocks."""

    analog: float  # layers that read real values: the two convolutions on the image, the head where it is counted
    stem: tuple[float, ...]  # spiking convolutions of the stem, one number each
    projections: float  # the two 1x1 projections of each block, as large as each other
    mixing: float  # products with W_M
    ffn: float  # the two layers of each MLP, as large as each other
    blocks: int  # number of blocks

    def __post_init__(self) -> None:
        for name in ("analog", "projections", "mixing", "ffn"):
            check_within("PartMacs", name, getattr(self, name))
        for value in self.stem:
            check_within("PartMacs", "stem", value)
        check_count("PartMacs", "blocks", self.blocks)
        if not self.in_blocks:
            raise SettingError(
                "PartMacs: projections, mixing and ffn are all 0. Expected MACs. Pass counts of a network."
            )

    @property
    def in_blocks(self) -> float:
        """What pruned tokens can save: everything behind the stem."""
        return self.projections + self.mixing + self.ffn

    @property
    def spiking(self) -> float:
        """Everything that spikes drive."""
        return sum(self.stem) + self.in_blocks

    def with_tokens(self, share: float) -> PartMacs:
        """The same with a share of the tokens behind the stem: ``W_M`` shrinks with its square."""
        check_within("PartMacs.with_tokens", "share", share, 0.0, 1.0)
        mixing = self.mixing * share**2
        return replace(self, projections=self.projections * share, mixing=mixing, ffn=self.ffn * share)


def energy_mj(macs: PartMacs, *, rate: float, mac_pj: float, ac_pj: float) -> float:
    """Energy of one step in mJ at one mean firing rate of all spiking layers.

    Raises:
        SettingError: a rate or price below 0.
    """
    check_within("energy_mj", "rate", rate)
    check_prices("energy_mj", mac_pj, ac_pj)
    return (mac_pj * macs.analog + ac_pj * rate * macs.spiking) * 1e-9


def rate_for(macs: PartMacs, *, mj: float, mac_pj: float, ac_pj: float) -> float:
    """Mean firing rate at which one step costs this many mJ: the inverse of `energy_mj`.

    Raises:
        SettingError: prices that are not positive, or an energy that the MACs on the image alone exceed.
    """
    check_prices("rate_for", mac_pj, ac_pj)
    spent = mac_pj * macs.analog * 1e-9
    check_within("rate_for", "mj", mj, spent)
    return (mj - spent) / (ac_pj * macs.spiking * 1e-9)


def check_prices(where: str, mac_pj: float, ac_pj: float) -> None:
    """Raise `SettingError` unless both prices are finite, and an accumulate costs more than nothing."""
    check_within(where, "mac_pj", mac_pj)
    check_within(where, "ac_pj", ac_pj)
    if ac_pj == 0:
        raise SettingError(f"{where}: ac_pj=0 prices no event. Expected more than 0. Pass pJ per accumulate.")


@dataclass(frozen=True)
class EnergyAudit:
    """The paper's energy without pruning, as a function of the firing rate."""

    curve: tuple[tuple[float, float], ...]  # (rate, mJ) pairs
    rate_needed: float  # mean rate, weighted by operations, at which the energy is the paper's
    mapped_rate: float  # the same mean with the trained rates of the log
    mapped_mj: float  # energy with them; see `mapped_events` for the mapping
    figures: tuple[Finding, ...]  # the paper's beside ours


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
    """One row of the paper's ablation beside our counts."""

    paper: PaperRow  # the row
    after_stem: Finding  # "FLOPs" in G: ours with steps and tokens dropped behind the stem, as we prune
    before_stem: Finding  # the same with the dropped steps left out of the stem too
    after_speedup: float  # operations of the first row over ``after_stem``; the most that fewer operations can speed up
    before_speedup: float  # the same for ``before_stem``
    speedup: float  # the paper's images per second over those of its first row; its reading is for ``after_stem``
    speedup_reading: str
    speedup_before_reading: str  # the reading of the same speed-up for ``before_stem``


@dataclass(frozen=True)
class FlopsAudit:
    """The column "FLOPs" of the paper's ablation on CIFAR-100.

    The paper's first three rows alone give ``F = S + (1 - P_T) (1 - P_S) B``; the fourth is predicted from them.
    """

    rows: tuple[FlopsRow, ...]  # in the paper's order
    fitted_stem_g: float  # S, what no pruning touches, G
    fitted_blocks_g: float  # B, what both prunings shrink, G
    predicted: Finding  # the fourth row by that formula
    one_placement: bool  # True where one of the two placements agrees with both columns in all rows


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
    good = {("matches", "within_operations")}
    after = {(row.after_stem.reading, row.speedup_reading) for row in rows} == good
    before = {(row.before_stem.reading, row.speedup_before_reading) for row in rows} == good
    return FlopsAudit(rows, *fitted, _flops("flops_by_fit", last, predicted), after or before)


def _flops_row(paper: PaperRow, counted: float, full: float, *, dropped_g: float) -> FlopsRow:
    speedup = paper.images_per_second / PAPER_ABLATION[0].images_per_second
    after, before = full / counted, full / (counted - dropped_g)
    readings = ["unexplained" if speedup > 1.05 * most else "within_operations" for most in (after, before)]
    return FlopsRow(
        paper=paper,
        after_stem=_flops("flops_after_stem", paper, counted),
        before_stem=_flops("flops_before_stem", paper, counted - dropped_g),
        after_speedup=after,
        before_speedup=before,
        speedup=speedup,
        speedup_reading=readings[0],
        speedup_before_reading=readings[1],
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


SCOPES = ("all", "no_spiking_stem", "blocks_only")


@dataclass(frozen=True)
class Scope:
    """The paper's two energies, if only a part of the network were counted."""

    name: str  # "all"; "no_spiking_stem": blocks and the layers that read the image; "blocks_only"
    rate: float  # mean rate that the paper's energy without pruning then needs
    pruned: Finding  # energy with the tokens dropped at that rate, beside the paper's
    fewer_spikes: float  # share by which the mean rate must fall besides, for the paper's figure


@dataclass(frozen=True)
class PruningAudit:
    """What pruning tokens explains of the step from the paper's energy without DSTSP to that with it."""

    share: float  # N'/N
    scopes: tuple[Scope, ...]  # by what is counted; the first is everything
    # energy where the kept tokens hold more than their share of the spikes; None where that was not given
    held_mj: float | None
    bound: Finding  # least energy at equal rates if all events fell in the blocks and shrank with the tokens
    floor_mj: float  # the same with every input of W_M a spike, whose products shrink with the square: nothing is lower
    fewer_spikes_at_bound: float  # share by which spikes of kept tokens must fall besides, at ``bound``
    rate_for_paper: float  # mean rate, over all spiking layers, that the paper's pruned energy needs
    # rate of the blocks that it needs if the stem, which is not pruned, keeps its rate; negative where that is
    # impossible
    block_rate_for_paper: float
    explained: float  # share of the paper's saving that the dropped tokens explain at equal rates
    explained_at_most: float  # the same at ``bound``
    cap_binds: bool  # False at one step: a neuron fires once at most, so no cap of one or more spikes changes anything


def audit_pruning(
    macs: PartMacs, *, tokens: int, kept: int, mac_pj: float, ac_pj: float, held: float | None = None
) -> PruningAudit:
    """Decompose the paper's energy of STMixer-8-768 with DSTSP.

    Args:
        macs: our counts of that network at 224 x 224, unpruned.
        tokens: N.
        kept: N'.
        mac_pj: price of a multiply-accumulate.
        ac_pj: price of an accumulate.
        held: share of the blocks' spikes that the kept tokens hold, N'/N..1: the least busy tokens go, so it exceeds
            N'/N.

    Raises:
        SettingError: N' above N, ``held`` outside its range, a bad price, or counts whose MACs on the image alone
            exceed the paper's energy.
    """
    for name, count in (("tokens", tokens), ("kept", kept)):
        check_count("audit_pruning", name, count)
    if kept > tokens:
        raise SettingError(f"audit_pruning: kept={kept} is outside 1..{tokens} tokens. Keep fewer.")
    share = kept / tokens
    if held is not None:
        check_within("audit_pruning", "held", held, share, 1.0)
    check_prices("audit_pruning", mac_pj, ac_pj)
    paper, event_mj = PAPER_ENERGY, ac_pj * 1e-9
    small = macs.with_tokens(share)
    rate = rate_for(macs, mj=paper.base_mj, mac_pj=mac_pj, ac_pj=ac_pj)
    analog_mj = mac_pj * macs.analog * 1e-9
    events_mj, wanted_mj = paper.base_mj - analog_mj, paper.pruned_mj - analog_mj
    full_mixing = min(event_mj * macs.mixing, events_mj)
    bound = analog_mj + share * events_mj
    scopes = tuple(_scope(name, macs, share, mac_pj=mac_pj, ac_pj=ac_pj) for name in SCOPES)
    held_events = None if held is None else held * (macs.projections + macs.ffn + macs.mixing * share)
    claimed = paper.base_mj - paper.pruned_mj
    return PruningAudit(
        share=share,
        scopes=scopes,
        held_mj=None if held_events is None else analog_mj + event_mj * rate * (sum(macs.stem) + held_events),
        bound=Finding("bound", "mJ", paper.pruned_mj, bound, _reading(bound)),
        floor_mj=bound - full_mixing * (share - share**2),
        fewer_spikes_at_bound=1 - wanted_mj / (share * events_mj),
        rate_for_paper=wanted_mj / (event_mj * small.spiking),
        block_rate_for_paper=(wanted_mj / event_mj - rate * sum(macs.stem)) / small.in_blocks,
        explained=(paper.base_mj - scopes[0].pruned.ours) / claimed,
        explained_at_most=(paper.base_mj - bound) / claimed,
        cap_binds=paper.steps > 1,
    )


def _scope(name: str, macs: PartMacs, share: float, *, mac_pj: float, ac_pj: float) -> Scope:
    analog, stem = 0.0 if name == "blocks_only" else macs.analog, macs.stem if name == "all" else ()
    counted = replace(macs, analog=analog, stem=stem)
    rate = rate_for(counted, mj=PAPER_ENERGY.base_mj, mac_pj=mac_pj, ac_pj=ac_pj)
    small = counted.with_tokens(share)
    pruned = energy_mj(small, rate=rate, mac_pj=mac_pj, ac_pj=ac_pj)
    needed = rate_for(small, mj=PAPER_ENERGY.pruned_mj, mac_pj=mac_pj, ac_pj=ac_pj)
    figure = Finding(f"pruned_{name}", "mJ", PAPER_ENERGY.pruned_mj, pruned, _reading(pruned, scope=name))
    return Scope(name, rate, figure, 1 - needed / rate)


def _reading(ours: float, *, scope: str = "") -> str:
    if ours <= 1.05 * PAPER_ENERGY.pruned_mj:
        return "matches"
    return {"": "needs_fewer_spikes", "all": "tokens_too_few"}.get(scope, "scope_too_small")


_SCOPES = {"all": "all layers", "no_spiking_stem": "image layers and blocks", "blocks_only": "blocks only"}


def audit_to_text(macs: PartMacs, energy: EnergyAudit, pruning: PruningAudit, flops: FlopsAudit) -> str:
    """The whole audit: energy as a function of the firing rate, what pruning explains, the FLOPs column."""
    parts = (_energy_lines(macs, energy), _pruning_lines(pruning), _flops_lines(flops))
    return "\n\n".join("\n".join(lines) for lines in parts)


def _energy_lines(macs: PartMacs, audit: EnergyAudit) -> list[str]:
    paper = PAPER_ENERGY
    curve = "  ".join(f"{rate:.0%}: {mj:.2f}" for rate, mj in audit.curve)
    return [
        f"1. Energy without pruning, STMixer-8-768, T = {paper.steps}: paper {paper.base_mj} mJ",
        f"   our counts: {macs.analog / 1e9:.4f} G MAC on real values; spikes drive {macs.spiking / 1e9:.3f} G: stem "
        f"{sum(macs.stem) / 1e9:.3f}, projections {macs.projections / 1e9:.3f}, W_M {macs.mixing / 1e9:.3f}, MLP "
        f"{macs.ffn / 1e9:.3f}",
        f"   mJ by mean firing rate   {curve}",
        f"   {paper.base_mj} mJ is a mean rate of {audit.rate_needed:.1%}",
        f"   with the trained rates of Spikingformer-8-768, layer by layer (mean {audit.mapped_rate:.1%}): "
        f"{audit.mapped_mj:.2f} mJ",
        f"   -> {READINGS[audit.figures[0].reading]}",
    ]


def _pruning_lines(audit: PruningAudit) -> list[str]:
    paper = PAPER_ENERGY
    lines = [
        f"2. Energy with DSTSP, ps = 0.3, t = 1: paper {paper.pruned_mj} mJ, "
        f"{1 - paper.pruned_mj / paper.base_mj:.0%} less; N'/N = {audit.share:.3f}, and no step to drop at T = 1"
    ]
    for scope in audit.scopes:
        lines.append(
            f"   counting {_SCOPES[scope.name] + ',':<25} rate {scope.rate:.1%}: {scope.pruned.ours:.2f} mJ at equal "
            f"rates; for {paper.pruned_mj} mJ the rest must spike {scope.fewer_spikes:.0%} less"
        )
    lines += [
        f"   if all events fell in the blocks and shrank with the tokens: {audit.bound.ours:.2f} mJ (least possible at "
        f"equal rates {audit.floor_mj:.2f}); {paper.pruned_mj} mJ needs {audit.fewer_spikes_at_bound:.0%} fewer spikes "
        "even then",
        f"   {paper.pruned_mj} mJ is a mean rate of {audit.rate_for_paper:.1%}, or {audit.block_rate_for_paper:.1%} in "
        "the blocks if the stem, which is not pruned, keeps its rate",
        f"   dropped tokens explain {audit.explained:.0%} of the saving, at most {audit.explained_at_most:.0%}",
        f"   -> {READINGS[audit.bound.reading]}",
    ]
    if not audit.cap_binds:
        lines.append("   a cap on spikes per neuron changes nothing at one step: a neuron fires once at most")
    return lines


def _flops_lines(audit: FlopsAudit) -> list[str]:
    lines = [
        "3. FLOPs of the ablation, STMixer-4-384, CIFAR-100, T = 4 (G MAC; the image's layers run once)",
        f"   {'P_S':>5}{'P_T':>6}{'paper':>8}{'ours':>8}{'':>8}{'steps dropped in the stem too':>32}"
        f"{'speed-up, paper':>18}{'by operations':>16}",
    ]
    for row in audit.rows:
        lines.append(
            f"   {row.paper.ps:>5}{row.paper.pt:>6}{row.paper.flops_g:>8.2f}{row.after_stem.ours:>8.3f}"
            f"{row.after_stem.ratio - 1:>+8.1%}{row.before_stem.ours:>32.3f}{row.speedup:>17.2f}x"
            f"{f'{row.after_speedup:.2f}x, {row.before_speedup:.2f}x':>16}"
        )
    lines += [
        f"   the paper's first three rows fit {audit.fitted_stem_g:.2f} + (1 - P_T)(1 - P_S) "
        f"{audit.fitted_blocks_g:.2f} and predict {audit.predicted.ours:.2f} for the fourth",
        "   one placement of the pruning explains both columns"
        if audit.one_placement
        else "   no one placement of the pruning explains FLOPs and throughput: "
        + READINGS[next(r.speedup_reading for r in audit.rows if r.speedup_reading == "unexplained")],
    ]
    return lines
