"""``smixer cost audit-paper``: the paper's energies and FLOPs, rebuilt from counts of our own networks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import torch

from snntorch_smixer.cost import Records, load_profile, measure
from snntorch_smixer.cost.audit import (
    EnergyAudit,
    FlopsAudit,
    PartMacs,
    PruningAudit,
    audit_energy,
    audit_flops,
    audit_pruning,
    audit_to_text,
)
from snntorch_smixer.cost.published import LOGS, PAPER_ABLATION, published_log
from snntorch_smixer.models.config import CONFIGS
from snntorch_smixer.patching.wrap import wrap
from snntorch_smixer.pruning.spatial import tokens_kept
from snntorch_smixer.zoo.hub import create_model

IMAGENET, CIFAR = "smixer-8-768", "smixer-4-384"


Audit = tuple[PartMacs, EnergyAudit, PruningAudit, FlopsAudit]


def text() -> str:
    """The paper's figures beside ours, for people."""
    return audit_to_text(*audit())


def as_dict() -> dict[str, object]:
    """The same for programs."""
    macs, energy, pruning, flops = audit()
    return {"macs": asdict(macs), "energy": asdict(energy), "pruning": asdict(pruning), "flops": asdict(flops)}


def audit() -> Audit:
    """Count the networks of the paper (a few seconds on a CPU) and lay its figures beside ours."""
    profile = load_profile("papers45")
    mac, ac = (profile.prices[key].value or 0.0 for key in ("mac_pj", "ac_pj"))
    macs = part_macs(count(IMAGENET))
    tokens = CONFIGS[IMAGENET].num_tokens
    energy = audit_energy(macs, log=published_log(LOGS[0]), mac_pj=mac, ac_pj=ac)
    pruning = audit_pruning(macs, tokens=tokens, kept=tokens_kept(tokens, 0.3), mac_pj=mac, ac_pj=ac)
    steps = CONFIGS[CIFAR].T
    rows = [count(CIFAR, ps=row.ps, t=round(steps * (1 - row.pt))) for row in PAPER_ABLATION]
    stem = sum(r["dense"] for r in rows[0].layers if r.layer.startswith("stem"))
    flops = audit_flops([_giga(row) for row in rows], stem_g=stem / steps / 1e9, steps=steps)
    return macs, energy, pruning, flops


def count(name: str, *, ps: float = 0.0, t: int | None = None) -> Records:
    """One image through a named network, pruned behind the stem. Dense counts do not depend on weights or image."""
    net = create_model(name).eval()
    if ps or (t is not None and t < CONFIGS[name].T):
        net = wrap(net, ps=ps, t=t)
    return measure(net, torch.zeros(1, 3, *CONFIGS[name].img_size))


def part_macs(records: Records) -> PartMacs:
    """Dense multiply-accumulates of a network by part, for one step."""
    layers = {record.layer: record for record in records.layers if record["dense"]}

    def total(names: Iterable[str]) -> float:
        return float(sum(layers[name]["dense"] for name in names)) / records.steps

    first = [name for name in layers if name in ("stem.units.0.linear", "stem.short.linear", "head.linear")]
    stem = [name for name in layers if name.startswith("stem.units") and name not in first]
    blocks = [name for name in layers if name.startswith("blocks.")]
    return PartMacs(
        analog=total(first),
        stem=tuple(total([name]) for name in stem),
        projections=total(n for n in blocks if ".mixer." in n and not n.endswith("w_m")),
        mixing=total(n for n in blocks if n.endswith("w_m")),
        ffn=total(n for n in blocks if ".mlp." in n),
        blocks=len({name.split(".")[1] for name in blocks}),
    )


def _giga(records: Records) -> float:
    """Multiply-accumulates of the layers with weights in G; what ranking and merging tokens takes is left out."""
    return sum(r["dense"] for r in records.layers if r.geometry is not None) / 1e9
