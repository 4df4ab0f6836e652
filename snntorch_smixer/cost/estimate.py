"""Counts times prices: what a run costs on a chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

from snntorch_smixer.cost.measure import measure
from snntorch_smixer.cost.profile import Profile, load_profile
from snntorch_smixer.cost.records import Record, Records
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
        records: what ran.
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

    def to_json(self, path: str | Path | None = None) -> str:
        """Everything as JSON; also written to ``path`` if given."""
        return _written(_text().to_json(self), path)

    def to_csv(self, path: str | Path | None = None) -> str:
        """One line per layer as CSV; also written to ``path`` if given."""
        return _written(_text().to_csv(self), path)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """The table of `print` as markdown; also written to ``path`` if given."""
        return _written(_text().to_markdown(self), path)

    def __str__(self) -> str:
        return str(_text().to_text(self))


def estimate(
    subject: Records | nn.Module,
    what: Profile | str | Path | Tensor | Sequence[Tensor] | None = None,
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
        what: with a model, the batch to measure it on. With records, the chip.
        chip: a name of `list_profiles`, your own TOML file, or a `Profile`; "horowitz45-fp32" if none is named.
        assume: what the run does not tell; the defaults of `Assumptions`.
        axes: with a model, the leading axes of the batch, see `measure`: they say what a sample is.
        steps: with a model, T, see `measure`.

    Raises:
        ProfileError: unknown chip, or malformed profile.
        MeasureError: the model cannot be measured.
        SettingError: neither records nor a model, no batch, or two chips.
    """
    usage = "Call estimate(records, chip) or estimate(model, batch, chip=...)."
    if isinstance(subject, nn.Module):
        if not isinstance(what, Tensor | list | tuple):
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
    )


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
