"""Audit of the paper's energy with DSTSP: what dropping 30 % of the tokens at T = 1 can and cannot explain."""

from __future__ import annotations

from dataclasses import dataclass

from snntorch_smixer.cost.paper.part_macs import Finding, PartMacs, check_prices, energy_mj, rate_for
from snntorch_smixer.cost.paper.published import PAPER_ENERGY, check_within
from snntorch_smixer.errors import SettingError, check_count

SCOPES = ("all", "no_spiking_stem", "blocks_only")


@dataclass(frozen=True)
class Scope:
    """The paper's two energies, if only a part of the network were counted.

    Attributes:
        name: "all"; "no_spiking_stem": blocks and the layers that read the image; "blocks_only".
        rate: mean rate that the paper's energy without pruning then needs.
        pruned: energy with the tokens dropped at that rate, beside the paper's.
        fewer_spikes: share by which the mean rate must fall besides, for the paper's figure.
    """

    name: str
    rate: float
    pruned: Finding
    fewer_spikes: float


@dataclass(frozen=True)
class PruningAudit:
    """What pruning tokens explains of the step from the paper's energy without DSTSP to that with it.

    Attributes:
        share: N'/N.
        scopes: by what is counted; the first is everything.
        held_mj: energy where the kept tokens hold more than their share of the spikes; None where that was not given.
        bound: least energy at equal rates if all events fell in the blocks and shrank with the tokens.
        floor_mj: the same with every input of W_M a spike, whose products shrink with the square: nothing is lower.
        fewer_spikes_at_bound: share by which spikes of kept tokens must fall besides, at ``bound``.
        rate_for_paper: mean rate, over all spiking layers, that the paper's pruned energy needs.
        block_rate_for_paper: rate of the blocks that it needs if the stem, which is not pruned, keeps its rate;
            negative where that is impossible.
        explained: share of the paper's saving that the dropped tokens explain at equal rates.
        explained_at_most: the same at ``bound``.
        cap_binds: False at one step: a neuron fires once at most, so no cap of one or more spikes changes anything.
    """

    share: float
    scopes: tuple[Scope, ...]
    held_mj: float | None
    bound: Finding
    floor_mj: float
    fewer_spikes_at_bound: float
    rate_for_paper: float
    block_rate_for_paper: float
    explained: float
    explained_at_most: float
    cap_binds: bool


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
    share = _share(tokens, kept, held)
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


def _share(tokens: int, kept: int, held: float | None) -> float:
    check_count("audit_pruning", "tokens", tokens)
    check_count("audit_pruning", "kept", kept)
    if kept > tokens:
        raise SettingError(f"audit_pruning: kept={kept} is outside 1..{tokens} tokens. Keep fewer.")
    if held is not None:
        check_within("audit_pruning", "held", held, kept / tokens, 1.0)
    return kept / tokens


def _scope(name: str, macs: PartMacs, share: float, *, mac_pj: float, ac_pj: float) -> Scope:
    counted = PartMacs(
        analog=0.0 if name == "blocks_only" else macs.analog,
        stem=macs.stem if name == "all" else (),
        projections=macs.projections,
        mixing=macs.mixing,
        ffn=macs.ffn,
        blocks=macs.blocks,
    )
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
