"""Two estimates side by side, and what the difference comes from: tokens, time steps, firing, the stem."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from snntorch_smixer.cost.estimate import CostReport, Row
from snntorch_smixer.cost.text import PJ_PER_MJ, aligned, mj, uj
from snntorch_smixer.errors import SettingError

CAUSES: Mapping[str, str] = {
    "tokens": "fewer positions or channels in layers behind the first one that changed its size",
    "steps": "fewer time steps in those layers",
    "firing": "fewer spikes per neuron and kept step: a cap, other inputs or weights",
    "stem": "everything in layers before the first one that changed its size, where one did",
    "removed": "layers that only the first has",
    "added": "layers that only the second has, as a negative saving",
    "static power": "shorter inference or fewer chips",
}
"""What a saving can come from."""


@dataclass(frozen=True)
class Comparison:
    """Two reports of one chip; ``print`` shows a table.

    Attributes:
        before: the first report.
        after: the second.
        saving_pj: per sample, by the names of `CAUSES`; the sum is the whole difference.
        layers: layers that both have, with energies before and after in pJ per sample.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist"), torch.rand(2, 1, 28, 28)
        >>> saving = cost.compare(cost.estimate(net, x), cost.estimate(net, x))
        >>> saving.saving_mj
        0.0
    """

    before: CostReport
    after: CostReport
    saving_pj: Mapping[str, float] = field(default_factory=dict)
    layers: tuple[tuple[str, float, float], ...] = ()

    @property
    def saving_mj(self) -> float:
        """The whole difference, per sample."""
        return sum(self.saving_pj.values()) / 10**9

    def __str__(self) -> str:
        return _to_text(self)


def compare(before: CostReport, after: CostReport) -> Comparison:
    """What ``after`` saves against ``before``, and why: attention against the mixer, a dense net against DSTSP.

    Layers are matched by path and operation. In each pair the energy is a product of three factors, number of steps,
    size per step and firing, and the difference is split among them by the logarithmic mean (LMDI): the parts add up
    exactly and do not depend on an order. A layer that falls silent counts as firing. Source: Ang, Energy Policy 33,
    2005.

    Args:
        before: for example of the dense net.
        after: for example of the pruned net; same chip.

    Raises:
        SettingError: the reports are of different chips or assumptions.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist"), torch.rand(2, 1, 28, 28)
        >>> dense = cost.estimate(net, x)
        >>> pruned = cost.estimate(from_pretrained("smixer-2-64-fmnist-dstsp"), x)
        >>> cost.compare(dense, pruned).saving_mj > 0
        True
    """
    if before.profile.name != after.profile.name or before.assume != after.assume:
        raise SettingError(
            f"compare: got {before.profile.name} with {before.assume} and {after.profile.name} with {after.assume}, "
            "expected the same chip and assumptions. Estimate both alike."
        )
    first, second = _by_key(before), _by_key(after)
    saving = dict.fromkeys(CAUSES, 0.0)
    saving["removed"] = sum(row.total_pj for key, row in first.items() if key not in second)
    saving["added"] = -sum(row.total_pj for key, row in second.items() if key not in first)
    saving["static power"] = before.static_power_pj - after.static_power_pj
    shared = [key for key in first if key in second]
    pairs = [(first[key], second[key], _size(first[key], before) / _size(second[key], after)) for key in shared]
    changed = next((i for i, pair in enumerate(pairs) if _resized(*pair)), 0)
    for i, (a, b, sizes) in enumerate(pairs):
        parts = {"stem": a.total_pj - b.total_pj} if i < changed else _split(a, b, sizes)
        for cause, pj in parts.items():
            saving[cause] += pj
    layers = tuple((" ".join(key[:2]), first[key].total_pj, second[key].total_pj) for key in shared)
    least = 1e-9 * sum(row.total_pj for row in (*before.rows, *after.rows))  # below it only rounding is left
    return Comparison(before, after, {cause: pj for cause, pj in saving.items() if abs(pj) > least}, layers)


def _by_key(report: CostReport) -> dict[tuple[str, str, int], Row]:
    """Rows by layer, operation and how many of that kind came before."""
    seen: dict[tuple[str, str], int] = {}
    out = {}
    for row in report.rows:
        key = (row.record.layer, row.record.op)
        seen[key] = seen.get(key, -1) + 1
        out[(*key, seen[key])] = row
    return out


def _size(row: Row, report: CostReport) -> float:
    """Work of a layer if everything fired, per sample."""
    r = row.record
    return (r["synapses"] or r["updates"] or sum(r.counts.values()) or 1) / report.records.samples


def _resized(a: Row, b: Row, sizes: float) -> bool:
    return a.record.steps != b.record.steps or not math.isclose(sizes, 1.0)


def _split(a: Row, b: Row, sizes: float) -> dict[str, float]:
    """The difference of one layer by cause."""
    difference = a.total_pj - b.total_pj
    if not a.total_pj or not b.total_pj:
        return {"firing": difference}
    energies, steps = a.total_pj / b.total_pj, a.record.steps / b.record.steps
    mean = a.total_pj if math.isclose(energies, 1.0) else difference / math.log(energies)
    factors = {"steps": steps, "tokens": sizes / steps, "firing": energies / sizes}
    return {cause: mean * math.log(factor) for cause, factor in factors.items() if not math.isclose(factor, 1.0)}


def _to_text(comparison: Comparison) -> str:
    """Both totals, the saving by cause, and the layers that changed most."""
    a, b = comparison.before, comparison.after
    share = f" ({comparison.saving_mj / a.energy_mj:.1%})" if a.energy_mj else ""
    lines = [
        f"{a.records.model} to {b.records.model} on {a.profile.title}: {mj(a.energy_mj)} to {mj(b.energy_mj)} per "
        f"sample, saving {mj(comparison.saving_mj)}{share}"
    ]
    whole, least = sum(comparison.saving_pj.values()), 1e-9 * a.energy_mj * PJ_PER_MJ
    for cause, pj in comparison.saving_pj.items():
        part = f"{pj / whole:.1%}" if abs(whole) > least else ""
        lines.append(f"  {cause:<13}{mj(pj / PJ_PER_MJ):>12}  {part:>7}  {CAUSES[cause]}")
    most = sorted(comparison.layers, key=lambda layer: -abs(layer[1] - layer[2]))[:10]
    cells = [["layer", "before, uJ", "after, uJ"], *([n, uj(x) or "0", uj(y) or "0"] for n, x, y in most)]
    cells.append(["total", uj(a.energy_mj * PJ_PER_MJ), uj(b.energy_mj * PJ_PER_MJ)])
    missing = sorted({entry.term for report in (a, b) for entry in report.unpriced})
    return "\n".join([*lines, *([f"without {', '.join(missing)}"] if missing else []), "", *aligned(cells, 1)])
