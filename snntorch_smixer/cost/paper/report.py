"""The audit of the paper's figures as text."""

from __future__ import annotations

from snntorch_smixer.cost.paper.audit import EnergyAudit, FlopsAudit
from snntorch_smixer.cost.paper.audit_pruning import PruningAudit
from snntorch_smixer.cost.paper.part_macs import READINGS, Finding, PartMacs
from snntorch_smixer.cost.paper.published import PAPER_ENERGY

_SCOPES = {
    "all": "all layers",
    "no_spiking_stem": "image layers and blocks",
    "blocks_only": "blocks only",
}


def audit_to_text(macs: PartMacs, energy: EnergyAudit, pruning: PruningAudit, flops: FlopsAudit) -> str:
    """The whole audit: energy as a function of the firing rate, what pruning explains, the FLOPs column."""
    parts = (_energy(macs, energy), _pruning(pruning), _flops(flops))
    return "\n\n".join("\n".join(lines) for lines in parts)


def _energy(macs: PartMacs, audit: EnergyAudit) -> list[str]:
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
        *_reading(audit.figures[0]),
    ]


def _pruning(audit: PruningAudit) -> list[str]:
    paper = PAPER_ENERGY
    lines = [
        f"2. Energy with DSTSP, ps = 0.3, t = 1: paper {paper.pruned_mj} mJ, "
        f"{1 - paper.pruned_mj / paper.base_mj:.0%} less; N'/N = {audit.share:.3f}, and no step to drop at T = 1",
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
        *_reading(audit.bound),
    ]
    if not audit.cap_binds:
        lines.append("   a cap on spikes per neuron changes nothing at one step: a neuron fires once at most")
    return lines


def _flops(audit: FlopsAudit) -> list[str]:
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


def _reading(finding: Finding) -> list[str]:
    return [f"   -> {READINGS[finding.reading]}"]
