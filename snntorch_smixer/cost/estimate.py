"""Counts times prices: what a run costs on a chip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from snntorch_smixer.cost.measure import measure
from snntorch_smixer.cost.profile import Profile, load_profile
from snntorch_smixer.cost.records import Folding, Record, Records
from snntorch_smixer.cost.terms import TERMS, Assumptions, Setting
from snntorch_smixer.errors import SettingError

_PJ_PER_MJ = 10**9


@dataclass(frozen=True)
class Row:
    """One layer of a report.

    Attributes:
        record: what it did.
        energy_pj: by the names of `TERMS`, per sample; only what has a price.
    """

    record: Record
    energy_pj: Mapping[str, float]

    @property
    def total_pj(self) -> float:
        """Priced energy of the layer per sample."""
        return sum(self.energy_pj.values())


@dataclass(frozen=True)
class Unpriced:
    """Work that happened and that the profile has no price for.

    Attributes:
        term: of `TERMS`, "packets" where hops are unknown, "static power" or "clock power".
        price: key of the price that is missing.
        amount: how much of it there is, per sample.
        reason: why there is no price.
    """

    term: str
    price: str
    amount: float
    reason: str


@dataclass(frozen=True)
class CostReport:
    """What a run costs on a chip, per sample. ``print`` shows a table.

    Attributes:
        records: what ran, linear layers in a row folded where `Assumptions.fold` says so.
        profile: the chip.
        assume: what was assumed.
        rows: layers in the order of the run.
        terms_pj: energy by term.
        static_power_pj: switched-on chips for the time of one inference; 0 where it is unpriced.
        low_pj: the total at the lower ends of the bands of the prices.
        high_pj: at their upper ends.
        unpriced: what the total is without.
        included: terms that cost nothing extra on this chip, with the reason.
        static_saving_pj: difference between computing a static image at every time step and once.
        folded: linear layers that `records` holds as one, by the name of that one.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist"), torch.rand(2, 1, 28, 28)
        >>> report = cost.estimate(net, x, chip="horowitz45-fp32")
        >>> "weight reads" in {entry.term for entry in report.unpriced}  # no price on this chip
        True
    """

    records: Records
    profile: Profile
    assume: Assumptions
    rows: tuple[Row, ...]
    terms_pj: Mapping[str, float]
    static_power_pj: float
    low_pj: float
    high_pj: float
    unpriced: tuple[Unpriced, ...]
    included: Mapping[str, str]
    static_saving_pj: float
    folded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def energy_mj(self) -> float:
        """Priced energy per sample in mJ; read `unpriced` with it."""
        return (sum(self.terms_pj.values()) + self.static_power_pj) / _PJ_PER_MJ

    @property
    def by_step_mj(self) -> tuple[float, ...] | None:
        """Energy of linear maps and products of activations by time step, in mJ per sample.

        None where a layer does not tell which axis is time.
        """
        return self._split(by_sample=False)

    @property
    def by_sample_mj(self) -> tuple[float, ...] | None:
        """The same by sample, in mJ."""
        return self._split(by_sample=True)

    @property
    def sample_mj(self) -> tuple[float, ...] | None:
        """The whole energy of every sample, in mJ; their mean is `energy_mj`.

        Linear maps and products are shared out by their events, spikes and hops by the spikes, all else evenly. None
        where a layer does not tell which axis is samples.
        """
        n = self.records.samples
        total = [self.static_power_pj] * n
        for row in self.rows:
            by_events = _by_events(row)
            even = row.total_pj - by_events
            counts = [1] * n
            if by_events:
                if row.record.events is None or len(row.record.events[0]) != n:
                    return None
                counts = [sum(steps) for steps in zip(*row.record.events, strict=True)]
            share = by_events * n / sum(counts) if any(counts) else 0.0
            even += 0.0 if any(counts) else by_events
            total = [pj + even + count * share for pj, count in zip(total, counts, strict=True)]
        return tuple(pj / _PJ_PER_MJ for pj in total)

    @property
    def interval_mj(self) -> tuple[float, float] | None:
        """95 % confidence interval of the mean energy per sample, in mJ; None for fewer than two samples."""
        return interval(self.sample_mj)

    @property
    def by_class_mj(self) -> Mapping[int, tuple[float, ...]] | None:
        """Energies of the samples of each class, in mJ; None where the records hold no classes."""
        energies, classes = self.sample_mj, self.records.classes
        if energies is None or classes is None:
            return None
        return {
            label: tuple(mj for mj, of in zip(energies, classes, strict=True) if of == label)
            for label in sorted(set(classes))
        }

    def _split(self, *, by_sample: bool) -> tuple[float, ...] | None:
        out = [0.0] * (self.records.samples if by_sample else self.records.steps)
        for row in self.rows:
            if row.record.geometry is None and row.record.op != "act_act":
                continue
            if row.record.events is None:
                return None
            sums = [sum(line) for line in (zip(*row.record.events, strict=True) if by_sample else row.record.events)]
            sums = sums if any(sums) else [1] * len(sums)  # silent, but its inputs were read
            weight = row.total_pj * (self.records.samples if by_sample else 1) / max(sum(sums), 1) / _PJ_PER_MJ
            out += [0.0] * (len(sums) - len(out))
            out = [mj + count * weight for mj, count in zip(out, sums + [0] * (len(out) - len(sums)), strict=True)]
        return tuple(out)

    def to_text(self, *, merged: bool = True) -> str:
        """What `print` shows: with ``merged`` a layer and the neurons that it drives are one row."""
        return str(_text().to_text(self, merged=merged))

    def to_json(self, path: str | Path | None = None) -> str:
        """Everything as JSON; also written to ``path`` if given."""
        return _written(_text().to_json(self), path)

    def to_csv(self, path: str | Path | None = None) -> str:
        """One line per layer and operation as CSV, all per sample; also written to ``path`` if given."""
        return _written(_text().to_csv(self), path)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """The table of `print` as markdown; also written to ``path`` if given."""
        return _written(_text().to_markdown(self), path)

    def __str__(self) -> str:
        return str(_text().to_text(self))


_EVENT_TERMS = frozenset({"spikes sent", "hops"})


def _by_events(row: Row) -> float:
    """The part of a layer's energy that its events cause: all of a linear map or product, spikes and hops of others."""
    if row.record.geometry is not None or row.record.op == "act_act":
        return row.total_pj
    return sum(pj for term, pj in row.energy_pj.items() if term in _EVENT_TERMS)


def interval(values: Sequence[float] | None) -> tuple[float, float] | None:
    """95 % confidence interval of a mean, by Student's t; None for fewer than two values."""
    if values is None or len(values) < 2:
        return None
    half = _student(len(values) - 1) * stdev(values) / len(values) ** 0.5
    return fmean(values) - half, fmean(values) + half


def _student(freedom: int) -> float:
    """The 97.5 % point of Student's t: a table up to 4 degrees of freedom, then the expansion of Cornish and Fisher."""
    exact = (12.7062, 4.3027, 3.1824, 2.7764)
    if freedom <= len(exact):
        return exact[freedom - 1]
    z = 1.959964
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


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
    prices = {term.name: _price(profile, assume, term.price) for term in TERMS}
    rows = tuple(
        Row(record, {n: a * price / records.samples for n, a in mine.items() if a and (price := prices[n]) is not None})
        for record, mine in zip(records.layers, amounts, strict=True)
    )
    totals = {term.name: sum(mine[term.name] for mine in amounts) / records.samples for term in TERMS}
    terms = {n: total * price for n, total in totals.items() if total and (price := prices[n]) is not None}
    unpriced, static = _unpriced(profile, assume, totals)
    ends = [
        sum(totals[term.name] * _end(profile, term.price, i) for term in TERMS if term.name in terms) for i in (0, 1)
    ]
    return CostReport(
        records=records,
        profile=profile,
        assume=assume,
        rows=rows,
        terms_pj=terms,
        static_power_pj=static,
        low_pj=ends[0] + static,
        high_pj=ends[1] + static,
        unpriced=unpriced,
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
        price = _price(setting.profile, setting.assume, term.price)
        total += amount * (price or 0.0)
        figure = setting.profile.prices.get(term.price)
        if amount and figure is not None and figure.value is None:
            missing.add(term.name)
    return total, missing


def _price(profile: Profile, assume: Assumptions, key: str) -> float | None:
    """Price of one unit in pJ; None where it is unknown, included in another, or rests on an assumption not made."""
    free = profile.updates == "free" and key in ("update_pj", "update_idle_pj")
    if free or key in profile.includes or (key == "hop_pj" and assume.hops is None):
        return None
    return profile.prices[key].value


def _end(profile: Profile, key: str, i: int) -> float:
    figure = profile.prices[key]
    return (figure.band[i] if figure.band else figure.value) or 0.0


def _unpriced(
    profile: Profile, assume: Assumptions, totals: Mapping[str, float]
) -> tuple[tuple[Unpriced, ...], float]:  # and static power in pJ, 0 where it is among them
    """Terms without a price, and static power in pJ per sample."""
    missing = []
    for term in TERMS:
        free = profile.updates == "free" and term.price in ("update_pj", "update_idle_pj")
        if free or not totals[term.name] or term.price in profile.includes:
            continue
        figure = profile.prices[term.price]
        if figure.value is None:
            missing.append(Unpriced(term.name, term.price, totals[term.name], figure.note))
        elif term.price == "hop_pj" and assume.hops is None:
            missing.append(Unpriced("packets", term.price, totals[term.name], "hops per packet are not assumed"))
    static, unknown = _static_power(profile, assume)
    return (*missing, *unknown), static


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
    term = next(term for term in TERMS if term.price == "mac_pj")
    price = _price(setting.profile, setting.assume, term.price)
    if price is None:
        return 0.0
    counts = [
        sum(term.amount(r, replace(setting, assume=replace(setting.assume, static_input=how))) for r in records.layers)
        for how in ("once", "every_step")
    ]
    return (counts[1] - counts[0]) * price / records.samples


def _text() -> ModuleType:
    from snntorch_smixer.cost import report

    return report


def _written(text: str, path: str | Path | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text
