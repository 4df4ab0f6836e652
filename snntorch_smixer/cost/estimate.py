"""Counts times prices: what a run costs on a chip, and where two estimates differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from snntorch_smixer.cost.measure import measure
from snntorch_smixer.cost.profile import Profile, load_profile
from snntorch_smixer.cost.records import Folding, Record, Records
from snntorch_smixer.cost.report import Assumptions as Assumptions
from snntorch_smixer.cost.report import CostReport as CostReport
from snntorch_smixer.cost.report import Row as Row
from snntorch_smixer.cost.report import Unpriced as Unpriced
from snntorch_smixer.cost.report import interval as interval
from snntorch_smixer.cost.text import PJ_PER_MJ, aligned, mj, uj
from snntorch_smixer.errors import SettingError


@dataclass(frozen=True)
class Setting:
    """What the amount of a term depends on besides the record."""

    profile: Profile
    assume: Assumptions
    steps: int

    @property
    def papers(self) -> bool:
        """Dense count times firing rate, as papers do."""
        return self.profile.rule == "papers"

    def cost_of(self, key: str) -> float | None:
        """Price in pJ, 0 where another price includes it, None where it is unknown."""
        return 0.0 if key in self.profile.includes else self.profile.prices[key].value

    def price(self, key: str) -> float | None:
        """The same, None also where the price is included in another or rests on an assumption that is not made."""
        included = key in self.profile.includes or (key == "hop_pj" and self.assume.hops is None)
        return None if included or self.free(key) else self.profile.prices[key].value

    def free(self, key: str) -> bool:
        """True for the neuron updates of a chip that does them for nothing."""
        return self.profile.updates == "free" and key in ("update_pj", "update_idle_pj")


Amount = Callable[[Record, Setting], float]


@dataclass(frozen=True)
class Term:
    """One kind of work."""

    name: str  # for people
    price: str  # key of `PRICES`
    amount: Amount  # how many a record holds, for the whole batch


def _events(record: Record, s: Setting) -> float:
    if s.papers:
        return 0 if record.op == "act_act" else record["rate_sop"]
    if not s.profile.graded_spikes:
        return record["ac"] + record["graded_ac"]
    return record["ac"] + sum(level * n for level, n in _added(record, s).items())


def _graded(record: Record, s: Setting) -> float:
    return record["graded"] - sum(_added(record, s).values()) if s.profile.graded_spikes and not s.papers else 0


def _added(record: Record, s: Setting) -> Mapping[int, int]:
    """Of the graded events of a chip with graded spikes, by value, those that cost less as so many additions."""
    once, whole = s.cost_of("ac_pj"), s.cost_of("graded_pj")
    if once is None:
        return {}
    most = 1 if whole is None else whole / once if once else inf
    return {level: n for level, n in record.levels.items() if level <= most}


def _mac(record: Record, s: Setting) -> float:
    count = {
        "as_run": record["mac"],
        "once": record["mac"] - record["static_mac"],
        "every_step": record["mac"] + record["static_once"] * (s.steps - 1),
    }[s.assume.static_input]
    return count * record["dense"] / max(record["synapses"], 1) if s.papers else count


def _act_act(record: Record, s: Setting) -> float:
    if s.papers:
        return record["rate_sop"] if record.op == "act_act" else 0
    return record["gates"] + (record["act_act"] if s.profile.graded_spikes else record["act_act_units"])


def _idle(record: Record, s: Setting) -> float:
    return record["updates"] - record["triggered"] if s.profile.updates == "clocked" else 0


def _synaptic(record: Record, s: Setting) -> float:
    """Accesses of a weight: a graded event reads its weight once, however it is added up."""
    events = record["ac"] + record["graded" if s.profile.graded_spikes else "graded_ac"]
    return 0 if s.papers else events + _mac(record, s)


def _state_bits(record: Record, s: Setting) -> float:
    """A sum is read and written at every event, a membrane at every update."""
    touched = _synaptic(record, s) + record["triggered"] + _idle(record, s)
    return 2 * touched * s.profile.state_bits


def _activation_bits(record: Record, s: Setting) -> float:
    wide = 1 if record.operand == "spikes" else s.profile.activation_bits
    return record["inputs"] * wide


def _batch_norm(record: Record, s: Setting) -> float:
    return record["batch_norm"] if s.assume.batch_norm == "count" else 0


def _of(name: str) -> Amount:
    return lambda record, _: record[name]


TERMS: tuple[Term, ...] = (
    Term("spike events", "ac_pj", _events),
    Term("graded events", "graded_pj", _graded),
    Term("multiply-accumulates", "mac_pj", _mac),
    Term("activation x activation", "act_act_pj", _act_act),
    Term("neuron updates", "update_pj", _of("triggered")),
    Term("idle neuron updates", "update_idle_pj", _idle),
    Term("spikes sent", "spike_pj", _of("spikes")),
    Term("hops", "hop_pj", lambda record, s: record["packets"] * (1.0 if s.assume.hops is None else s.assume.hops)),
    Term("weight reads", "weight_read_pj_per_bit", lambda record, s: _synaptic(record, s) * s.profile.weight_bits),
    Term("state accesses", "state_pj_per_bit", _state_bits),
    Term("activation reads", "activation_pj_per_bit", _activation_bits),
    Term("additions", "add_pj", _of("adds")),
    Term("multiplications", "mul_pj", _of("muls")),
    Term("comparisons", "compare_pj", _of("compares")),
    Term("special functions", "special_pj", _of("special")),
    Term("batch norm", "batch_norm_pj", _batch_norm),
)
"""Every term of an estimate, in the order in which reports show them."""

BY_PRICE: Mapping[str, Term] = {term.price: term for term in TERMS}


def estimate(
    subject: Records | nn.Module,
    what: Profile | str | Path | Tensor | Sequence[Tensor] | Iterable[Any] | None = None,
    *,
    chip: Profile | str | Path | None = None,
    assume: Assumptions | None = None,
    axes: str | None = None,
    steps: int | None = None,
) -> CostReport:
    """What a run costs on a chip: ``estimate(records, "loihi1")``, or ``estimate(model, batch, chip="loihi1")``.

    Energies are per sample. What the chip's profile has no price for is no part of the total and is listed.

    Args:
        subject: `Records` from `measure`, or a model.
        what: with a model, the batch or batches to measure it on. With records, the chip.
        chip: a name of `list_profiles`, your own TOML file, or a `Profile`; "horowitz45-fp32" if none is named.
        assume: what the run does not tell; the defaults of `Assumptions`.
        axes: with a model, the leading axes of the batch, see `measure`: they say what a sample is.
        steps: with a model, T, see `measure`.

    Raises:
        ProfileError: unknown chip, or malformed profile.
        MeasureError: the model cannot be measured.
        SettingError: neither records nor a model, no batch, or two chips.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist"), torch.rand(2, 1, 28, 28)
        >>> report = cost.estimate(net, x, chip="loihi1")
        >>> report.energy_mj > 0
        True
    """
    usage = "Call estimate(records, chip) or estimate(model, batch, chip=...)."
    if isinstance(subject, nn.Module):
        if not isinstance(what, Iterable) or isinstance(what, str):
            raise SettingError(f"estimate: got a model and {what!r}, expected its input. {usage}")
        profile, records = _profile(chip), measure(subject, what, axes=axes, steps=steps)
    elif isinstance(subject, Records) and (what is None or isinstance(what, Profile | str | Path)):
        if what is not None and chip is not None:
            raise SettingError(f"estimate: got two chips, {what!r} and {chip!r}. {usage}")
        profile, records = _profile(chip if what is None else what), subject
    else:
        got = f"{type(subject).__name__} and {type(what).__name__}"
        raise SettingError(f"estimate: got {got}, expected records and a chip, or a model and a batch. {usage}")
    return _report(records, profile, assume or Assumptions())


def _profile(chip: Profile | str | Path | None) -> Profile:
    return chip if isinstance(chip, Profile) else load_profile("horowitz45-fp32" if chip is None else chip)


def _report(records: Records, profile: Profile, assume: Assumptions) -> CostReport:
    setting = Setting(profile, assume, records.steps)
    chosen = _cheaper(records, setting)
    folded = {e.record.layer: tuple(records.layers[i].layer for i in e.members) for e in chosen}
    records = records.folded(chosen)
    amounts = [{term.name: term.amount(record, setting) for term in TERMS} for record in records.layers]
    prices = {term.name: setting.price(term.price) for term in TERMS}
    rows = tuple(
        Row(record, {n: a * price / records.samples for n, a in mine.items() if a and (price := prices[n]) is not None})
        for record, mine in zip(records.layers, amounts, strict=True)
    )
    totals = {term.name: sum(mine[term.name] for mine in amounts) / records.samples for term in TERMS}
    terms = {n: total * price for n, total in totals.items() if total and (price := prices[n]) is not None}
    static, unknown = _static_power(profile, assume)
    bands = {t.name: profile.prices[t.price].band or (prices[t.name] or 0.0,) * 2 for t in TERMS if t.name in terms}
    ends = [sum(totals[name] * band[i] for name, band in bands.items()) for i in (0, 1)]
    return CostReport(
        records=records,
        profile=profile,
        assume=assume,
        rows=rows,
        terms_pj=terms,
        static_power_pj=static,
        low_pj=ends[0] + static,
        high_pj=ends[1] + static,
        unpriced=(*_unpriced(setting, totals), *unknown),
        included={t.name: profile.includes[t.price] for t in TERMS if totals[t.name] and t.price in profile.includes},
        static_saving_pj=_static_saving(records, setting),
        folded=folded,
    )


def _cheaper(records: Records, setting: Setting) -> list[Folding]:
    """Foldings that cost less than their layers apart, of each row of layers the one that leaves the least."""
    if not setting.assume.fold or setting.assume.batch_norm != "fold" or setting.papers:
        return []
    best: dict[int, tuple[float, Folding]] = {}
    for folding in sorted(records.foldings, key=lambda entry: len(entry.members)):
        apart, once = [records.layers[i] for i in folding.members], [folding.record]
        (energy, free), (together, missing) = _cost(apart, setting), _cost(once, setting)
        # Work without a price is no reason to stay apart, and new work without one is no saving.
        saving = energy - together if missing <= free else -1.0
        saving = max(saving, 0.0) if missing < free else saving
        start = folding.members[0]
        if saving >= 0 and (start not in best or saving >= best[start][0]):
            best[start] = saving, folding
    return [folding for _, folding in best.values()]


def _cost(layers: Sequence[Record], setting: Setting) -> tuple[float, set[str]]:
    """Priced energy in pJ, and the terms that have no price."""
    total, missing = 0.0, set()
    for term in TERMS:
        amount = sum(term.amount(record, setting) for record in layers)
        total += amount * (setting.price(term.price) or 0.0)
        figure = setting.profile.prices.get(term.price)
        if amount and figure is not None and figure.value is None:
            missing.add(term.name)
    return total, missing


def _unpriced(setting: Setting, totals: Mapping[str, float]) -> Iterator[Unpriced]:
    """Terms without a price."""
    for term in TERMS:
        key, total = term.price, totals[term.name]
        if setting.free(key) or not total or key in setting.profile.includes:
            continue
        figure = setting.profile.prices[key]
        if figure.value is None:
            yield Unpriced(term.name, key, total, figure.note)
        elif key == "hop_pj" and setting.assume.hops is None:
            yield Unpriced("packets", key, total, "hops per packet are not assumed")


def _static_power(profile: Profile, assume: Assumptions) -> tuple[float, list[Unpriced]]:
    """Energy of chips that are switched on, in pJ per sample, and what of it is unknown."""
    if profile.rule == "papers":
        return 0.0, []
    figures = [(key, profile.power.get(key)) for key in ("static_mw", "base_uw", "clock_uw_per_mhz")]
    known = {key: figure.value for key, figure in figures if figure is not None and figure.value is not None}
    clock = known.pop("clock_uw_per_mhz", None)
    unknown = [] if clock is None else [Unpriced("clock power", "clock_uw_per_mhz", clock, "the clock is not assumed")]
    if not known:
        return 0.0, [Unpriced("static power", "static_mw", 0.0, "the profile has no figure"), *unknown]
    power_mw = known.get("static_mw", 0.0) + known.get("base_uw", 0.0) / 1000
    if assume.latency_ms is None:
        reason = "the time of one inference is not assumed"
        return 0.0, [Unpriced("static power", "static_mw", power_mw, reason), *unknown]
    return power_mw * assume.latency_ms * assume.chips * 10**6, unknown


def _static_saving(records: Records, setting: Setting) -> float:
    price, counts = setting.price("mac_pj"), []
    for how in ("once", "every_step"):
        same = replace(setting, assume=replace(setting.assume, static_input=how))
        counts.append(sum(_mac(record, same) for record in records.layers))
    return (counts[1] - counts[0]) * price / records.samples if price is not None else 0.0


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
