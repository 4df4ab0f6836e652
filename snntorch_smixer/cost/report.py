"""What an estimate found, per layer and in all, and how it is shown: text, JSON, CSV and markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from numbers import Real
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from snntorch_smixer.cost.profile import Profile
from snntorch_smixer.cost.records import COUNTS, Record, Records
from snntorch_smixer.cost.text import PJ_PER_MJ, mj, narrow, si, uj
from snntorch_smixer.errors import SettingError, check_choice, check_count

_STEPS_SHOWN = 16
_CLASSES_SHOWN = 10
_COLUMNS = (
    *("layer", "op", "input", "rate", "dense", "spike events", "MAC", "act x act", "updates", "other", "packets"),
    *("params", "bytes", "uJ", ""),
)


STATIC = ("as_run", "once", "every_step")
BATCH_NORM = ("fold", "count")


@dataclass(frozen=True)
class Assumptions:
    """What an estimate needs and a run does not tell.

    Attributes:
        static_input: linear maps of a static image: "as_run" as the model computes them, "once" for all time steps, or
            "every_step", as most papers count.
        batch_norm: "fold" into the linear map before it, or "count" its scale and shift.
        hops: mean number of hops of a packet between cores; None leaves routing unpriced.
        latency_ms: time of one inference; None leaves static power unpriced.
        chips: chips that are switched on for that time.
        fold: linear layers in a row, without a neuron in between, are one linear layer where that is cheaper; only with
            ``batch_norm="fold"``, and never by the rule of the papers.

    Raises:
        SettingError: a setting is out of range.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist"), torch.rand(2, 1, 28, 28)
        >>> report = cost.estimate(net, x, chip="loihi1", assume=cost.Assumptions(hops=2))
    """

    static_input: str = "as_run"
    batch_norm: str = "fold"
    hops: float | None = None
    latency_ms: float | None = None
    chips: int = 1
    fold: bool = True

    def __post_init__(self) -> None:
        for name, choices in ("static_input", STATIC), ("batch_norm", BATCH_NORM):
            value = getattr(self, name)
            check_choice("Assumptions", name, value if type(value).__module__ == "builtins" else repr(value), choices)
        check_count("Assumptions", "chips", self.chips)
        if type(self.fold) is not bool:
            raise SettingError(f"Assumptions: fold={self.fold!r} must be True or False.")
        for name in ("hops", "latency_ms"):
            value = getattr(self, name)
            number = type(value) is not bool and isinstance(value, Real)
            if value is not None and not (number and 0 <= float(value) < inf):
                raise SettingError(f"Assumptions: {name}={value!r} must be a finite number of at least 0, or None.")


@dataclass(frozen=True)
class Row:
    """One layer of a report."""

    record: Record  # what it did
    energy_pj: Mapping[str, float]  # by the names of `TERMS`, per sample; only what has a price

    @property
    def total_pj(self) -> float:
        """Priced energy of the layer per sample."""
        return sum(self.energy_pj.values())


@dataclass(frozen=True)
class Unpriced:
    """Work that happened and that the profile has no price for."""

    term: str  # of `TERMS`, "packets" where hops are unknown, "static power" or "clock power"
    price: str  # key of the price that is missing
    amount: float  # how much of it there is, per sample
    reason: str  # why there is no price


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
        return (sum(self.terms_pj.values()) + self.static_power_pj) / PJ_PER_MJ

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
        return tuple(pj / PJ_PER_MJ for pj in total)

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
            weight = row.total_pj * (self.records.samples if by_sample else 1) / max(sum(sums), 1) / PJ_PER_MJ
            out += [0.0] * (len(sums) - len(out))
            out = [mj + count * weight for mj, count in zip(out, sums + [0] * (len(out) - len(sums)), strict=True)]
        return tuple(out)

    def to_text(self, *, merged: bool = True) -> str:
        """What `print` shows: with ``merged`` a layer and the neurons that it drives are one row."""
        table = narrow(_cells(self, merged=merged))
        return "\n".join([*_summary(self), "", *table, *_footnotes(self, merged=merged)])

    def to_json(self, path: str | Path | None = None) -> str:
        """Everything as JSON; also written to ``path`` if given."""
        r, p = self.records, self.profile
        content = {
            "model": r.model,
            "samples": r.samples,
            "steps": r.steps,
            "coverage": r.coverage,
            "chip": {"name": p.name, "title": p.title, "node": p.node, "voltage_v": p.voltage_v, "rule": p.rule},
            "assumptions": asdict(self.assume),
            "energy_mj": self.energy_mj,
            "band_mj": [self.low_pj / PJ_PER_MJ, self.high_pj / PJ_PER_MJ],
            "terms_pj": dict(self.terms_pj),
            "static_power_pj": self.static_power_pj,
            "static_image_saving_pj": self.static_saving_pj,
            "without": [asdict(entry) for entry in self.unpriced],
            "included": dict(self.included),
            "prices": {key: asdict(figure) for key, figure in p.prices.items()},
            "by_step_mj": self.by_step_mj,
            "by_sample_mj": self.by_sample_mj,
            "sample_mj": self.sample_mj,
            "interval_mj": self.interval_mj,
            "classes": r.classes,
            "folded": {name: list(layers) for name, layers in self.folded.items()},
            "counts_are_of": f"all {r.samples} samples; energies are per sample",
            "uncounted": [asdict(entry) for entry in r.uncounted],
            "free": dict(r.free),
            "layers": [_layer(row) for row in self.rows],
        }
        return _written(json.dumps(content, indent=1), path)

    def to_csv(self, path: str | Path | None = None) -> str:
        """One line per layer and operation as CSV, all per sample: counts, bytes of activations, pJ by term.

        The column ``samples`` says over how many samples the counts are means; bytes of weights are those of the model.
        It is also written to ``path`` if given.
        """
        terms, samples = list(self.terms_pj), self.records.samples
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        bytes_ = ("weight_bytes", "state_bytes", "activation_bytes")
        writer.writerow(
            [
                *("layer", "op", "input", "samples", "calls", "steps"),
                *(*COUNTS, "parameters", *bytes_),
                *(*(f"{t} pJ" for t in terms), "total pJ"),
            ]
        )
        for row in self.rows:
            r = row.record
            counts = [_share(r[name], samples) for name in COUNTS]
            sizes = [r.parameters, r.weight_bytes, r.state_bytes, _share(r.activation_bytes, samples)]
            energies = [row.energy_pj.get(term, 0.0) for term in terms]
            named = [r.layer, r.op, r.operand, samples, r.calls, r.steps]
            writer.writerow([*named, *counts, *sizes, *energies, row.total_pj])
        return _written(out.getvalue(), path)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """The table of `print` as markdown; also written to ``path`` if given."""
        head, *body = _cells(self, merged=True)
        rows = (head, ["---"] * len(head), *body)
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in rows]
        summary = [f"- {line}" for line in _summary(self)]
        return _written("\n".join([*summary, "", *lines, "", *_footnotes(self, merged=True)]) + "\n", path)

    def __str__(self) -> str:
        return self.to_text()


def _by_events(row: Row) -> float:
    """The part of a layer's energy that its events cause: all of a linear map or product, spikes and hops of others."""
    if row.record.geometry is not None or row.record.op == "act_act":
        return row.total_pj
    return sum(pj for term, pj in row.energy_pj.items() if term in ("spikes sent", "hops"))


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


def _share(count: int, samples: int) -> int | float:
    """A count per sample, whole where it is."""
    return count / samples if count % samples else count // samples


def _layer(row: Row) -> dict[str, Any]:
    record = asdict(row.record)
    record["counts"] = dict(row.record.counts)
    return record | {"energy_pj": dict(row.energy_pj), "total_pj": row.total_pj}


def _summary(report: CostReport) -> list[str]:
    r, p = report.records, report.profile
    low, high = report.low_pj / PJ_PER_MJ, report.high_pj / PJ_PER_MJ
    band = f" (band {mj(low)} to {mj(high)})" if high > low else ""
    lines = [
        f"{r.model} on {p.title} ({p.node}): {mj(report.energy_mj)} per sample{band}",
        f"{r.samples} samples, {r.steps} time steps; coverage {r.coverage:.1%} of {r.calls} operations",
    ]
    total = sum(report.terms_pj.values()) + report.static_power_pj
    parts = sorted(report.terms_pj.items(), key=lambda item: -item[1])
    parts += [("static power", report.static_power_pj)] if report.static_power_pj else []
    if total:
        lines.append("of it " + ", ".join(f"{name} {mj(pj / PJ_PER_MJ)} ({pj / total:.1%})" for name, pj in parts))
    if report.unpriced:
        lines.append("without " + ", ".join(_missing(report)))
    steps = report.by_step_mj
    if steps is not None and len(steps) > 1:
        shown = ", ".join(map(mj, steps[:_STEPS_SHOWN])) + (" ..." if len(steps) > _STEPS_SHOWN else "")
        lines.append(f"linear maps and products by time step: {shown}")
    if report.static_saving_pj:
        saving = report.static_saving_pj / PJ_PER_MJ
        lines.append(
            f"the image's own layers: computing them once instead of {r.steps} times is {mj(saving)}; "
            f"counted here: {report.assume.static_input.replace('_', ' ')}"
        )
    spread = report.interval_mj
    if spread is not None and _varies(report):
        lines.append(f"95 % interval of the mean over {r.samples} samples: {mj(spread[0])} to {mj(spread[1])}")
    lines += _by_class(report)
    return lines


def _varies(report: CostReport) -> bool:
    """True where the samples differ in energy."""
    energies = report.sample_mj or (0.0,)
    return max(energies) - min(energies) > 1e-9 * max(energies)


def _by_class(report: CostReport) -> list[str]:
    """Means of the classes with their intervals, the dearest first."""
    groups = report.by_class_mj or {}
    shown = sorted(groups, key=lambda label: -fmean(groups[label]))
    lines = []
    for label in shown[:_CLASSES_SHOWN]:
        ends = interval(groups[label])
        between = "" if ends is None else f", {mj(ends[0])} to {mj(ends[1])}"
        lines.append(f"class {label}: {mj(fmean(groups[label]))} per sample ({len(groups[label])} samples{between})")
    return [*lines, *([f"and {len(shown) - _CLASSES_SHOWN} classes more"] if len(shown) > _CLASSES_SHOWN else [])]


def _missing(report: CostReport) -> list[str]:
    units = {"static_mw": "mW", "clock_uw_per_mhz": "uW/MHz"}
    shown = []
    for entry in report.unpriced:
        unit = units.get(entry.price)
        amount = si(entry.amount) if unit is None else f"{entry.amount:g} {unit}" if entry.amount else "unknown"
        shown.append(f"{entry.term} ({amount})")
    return shown


def _footnotes(report: CostReport, *, merged: bool) -> list[str]:
    lines = [
        f"{name}: {len(layers)} linear layers without a neuron in between, priced as the one that they fold into; "
        "Assumptions(fold=False) prices them apart"
        for name, layers in report.folded.items()
    ]
    if merged and any(neurons for _, neurons in _merged(report)):
        lines.append("+n: with the neurons that the layer drives; to_text(merged=False) shows them apart")
    lines += [f"without {entry.term}: {entry.reason} ({entry.price})" for entry in report.unpriced]
    lines += [f"no extra cost for {name}: {reason}" for name, reason in report.included.items()]
    lines += [
        f"NOT COUNTED: {entry.op} in {entry.layer or 'the model'}, {entry.calls} calls, {si(entry.elements)} numbers"
        for entry in report.records.uncounted
    ]
    used = [figure for key, figure in report.profile.prices.items() if figure.value is not None]
    grades = sorted({f"{figure.grade}, read {figure.read}" for figure in used})
    return [*lines, f"prices: {'; '.join(grades)}. Sources: snntorch_smixer/cost/profiles/{report.profile.name}.toml"]


def _merged(report: CostReport) -> list[tuple[Row, list[Row]]]:
    """Rows of layers, each with the neurons that it alone drives; other rows without."""
    rows = [row for row in report.rows if row.energy_pj or set(row.record.counts) - {"batch_norm"}]
    out: list[tuple[Row, list[Row]]] = []
    for row in rows:
        sources = row.record.sources or ()
        last = next((entry for entry in reversed(out) if entry[0].record.layer in sources[-1:]), None)
        if row.record.op == "neuron" and last is not None and last[0].record.op != "neuron":
            last[1].append(row)
        else:
            out.append((row, []))
    return out


def _cells(report: CostReport, *, merged: bool) -> list[list[str]]:
    """Header, a line per layer that does more than what folds away, and the sum; counts per sample."""
    samples, total = report.records.samples, sum(report.terms_pj.values())
    per_sample = [
        lambda row: row.record["dense"],
        lambda row: row.record["ac"] + row.record["graded"],
        lambda row: row.record["mac"],
        lambda row: row.record["act_act"] + row.record["gates"],
        lambda row: row.record["updates"],
        lambda row: sum(row.record[name] for name in ("adds", "muls", "compares", "special")),
        lambda row: row.record["packets"],
    ]
    sizes = [lambda row: row.record.parameters, lambda row: row.record.weight_bytes + row.record.state_bytes]
    lines = [list(_COLUMNS)]
    groups = _merged(report)
    for row, neurons in groups if merged else [(row, []) for group in groups for row in (group[0], *group[1])]:
        r, every = row.record, (row, *neurons)
        counts = [si(value / samples) if (value := sum(map(get, every))) else "" for get in per_sample]
        counts += [si(value) if (value := sum(map(get, every))) else "" for get in sizes]
        energy = sum(entry.total_pj for entry in every)
        share = f"{energy / total:.1%}" if total and energy else ""
        op = f"{r.op}+n" if neurons else r.op
        lines.append([r.layer or "(model)", op, r.operand, _rate(row), *counts, uj(energy), share])
    sums = [si(sum(map(get, report.rows)) / samples) for get in per_sample]
    sums += [si(sum(map(get, report.rows))) for get in sizes]
    lines.append(["total", "", "", "", *sums, uj(total), "100%" if total else ""])
    return lines


def _rate(row: Row) -> str:
    """Spikes per neuron and step, or nonzeros per input."""
    r = row.record
    of, among = (r["spikes"], r["updates"]) if r["updates"] else (r["packets"], r["inputs"])
    return f"{of / among:.1%}" if among else ""


def _written(text: str, path: str | Path | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text
