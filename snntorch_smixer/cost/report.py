"""Cost reports as text, JSON, CSV and markdown."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from snntorch_smixer.cost.compare import CAUSES, Comparison
from snntorch_smixer.cost.estimate import CostReport, Row, interval
from snntorch_smixer.cost.fits import Fit
from snntorch_smixer.cost.records import COUNTS

_PJ_PER_MJ = 10**9
_STEPS_SHOWN = 16
_WIDTH = 110
_LEAST_NAME = 16
_CLASSES_SHOWN = 10
_COLUMNS = (
    *("layer", "op", "input", "rate", "dense", "spike events", "MAC", "act x act", "updates", "other", "packets"),
    *("params", "bytes", "uJ", ""),
)
_SHORT = {"spike events": "events", "act x act": "a x a", "elementwise": "elem."}
_SI = re.compile(r"(\d) ([kMGT])$")
_LEFT_OUT = ("dense", "packets")
"""Columns that a terminal has no room for; markdown and CSV have them."""


def to_text(report: CostReport, *, merged: bool = True) -> str:
    """Summary and table for the terminal; the table is at most 110 columns wide."""
    table = _narrow(_cells(report, merged=merged))
    return "\n".join([*_summary(report), "", *table, *_footnotes(report, merged=merged)])


def _narrow(cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table without columns that are empty or have no room, and with long names cut in the middle."""
    head, *body = cells
    shown = [
        i
        for i, name in enumerate(head)
        if name not in _LEFT_OUT and (not name or any(line[i].strip("0") for line in body))
    ]
    texts = [[_SHORT.get(line[i], line[i]) for i in shown] for line in cells]
    table = [[line[0], *(_SI.sub(r"\1\2", cell) for cell in line[1:])] for line in texts]
    others = sum(max(len(line[i]) for line in table) for i in range(1, len(shown)))
    columns = len(shown) - 1
    gap = 2 if _WIDTH - others - 2 * columns >= _LEAST_NAME else 1
    room = max(_LEAST_NAME, _WIDTH - others - gap * columns)
    return _aligned([[_cut(line[0], room), *line[1:]] for line in table], gap=gap)


def _cut(name: str, room: int) -> str:
    """A name of at most so many characters, its middle left out."""
    front = (room - 2) // 2
    return name if len(name) <= room else f"{name[:front]}..{name[len(name) - (room - 2 - front) :]}"


def comparison_to_text(comparison: Comparison) -> str:
    """Both totals, the saving by cause, and the layers that changed most."""
    a, b = comparison.before, comparison.after
    share = f" ({comparison.saving_mj / a.energy_mj:.1%})" if a.energy_mj else ""
    lines = [
        f"{a.records.model} to {b.records.model} on {a.profile.title}: {_mj(a.energy_mj)} to {_mj(b.energy_mj)} per "
        f"sample, saving {_mj(comparison.saving_mj)}{share}"
    ]
    whole, least = sum(comparison.saving_pj.values()), 1e-9 * a.energy_mj * _PJ_PER_MJ
    for cause, pj in comparison.saving_pj.items():
        part = f"{pj / whole:.1%}" if abs(whole) > least else ""
        lines.append(f"  {cause:<13}{_mj(pj / _PJ_PER_MJ):>12}  {part:>7}  {CAUSES[cause]}")
    most = sorted(comparison.layers, key=lambda layer: -abs(layer[1] - layer[2]))[:10]
    cells = [["layer", "before, uJ", "after, uJ"], *([n, _uj(x) or "0", _uj(y) or "0"] for n, x, y in most)]
    cells.append(["total", _uj(a.energy_mj * _PJ_PER_MJ), _uj(b.energy_mj * _PJ_PER_MJ)])
    missing = sorted({entry.term for report in (a, b) for entry in report.unpriced})
    return "\n".join([*lines, *([f"without {', '.join(missing)}"] if missing else []), "", *_aligned(cells, 1)])


def fit_to_text(fit: Fit) -> str:
    """Cores and chips, what binds in each layer, and what does not fit."""
    fitting = f"{fit.cores} cores" + _chips(fit.chips)
    bad = len(fit.problems)
    lines = [
        f"{fit.profile}: DOES NOT FIT, {bad} layer{'s' if bad > 1 else ''}" if bad else f"{fit.profile}: {fitting}"
    ]
    lines += [f"NOT CHECKED, though in the profile: {', '.join(fit.skipped)}"] if fit.skipped else []
    bound = f"{fit.least_cores} cores" + _chips(fit.least_chips)
    lines.append(f"{fit.neurons} neurons" + (f"; by neurons alone {bound}" if fit.least_cores else ""))
    lines += [f"not checked, for want of a figure: {', '.join(fit.unchecked)}"] if fit.unchecked else []
    cells = [["layer", "limit", "blocks/core", "neurons/block", "cores"]]
    for layer in fit.layers:
        sizes = ["", "", "-"] if layer.problem else [str(layer.blocks_per_core), str(layer.outputs_per_core), ""]
        sizes[2] = "-" if layer.cores is None else str(layer.cores)
        cells.append([layer.layer, layer.problem or layer.limit, *sizes])
    return "\n".join(
        [*lines, "", *_aligned([*cells, ["total", "", "", "", "-" if fit.problems else str(fit.cores)]], 2)]
    )


def _chips(count: int | None) -> str:
    return "" if not count else f", {count} chip{'s' if count > 1 else ''}"


def to_markdown(report: CostReport) -> str:
    """Summary and table as markdown."""
    head, *body = _cells(report, merged=True)
    lines = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        for cells in (head, ["---"] * len(head), *body)
    ]
    return (
        "\n".join([*(f"- {line}" for line in _summary(report)), "", *lines, "", *_footnotes(report, merged=True)])
        + "\n"
    )


def to_csv(report: CostReport) -> str:
    """One line per layer and operation, all per sample: counts, bytes of activations, energies in pJ by term.

    The column ``samples`` says over how many samples the counts are means; bytes of weights are those of the model.
    """
    terms, samples = list(report.terms_pj), report.records.samples
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
    for row in report.rows:
        r = row.record
        counts = [_share(r[name], samples) for name in COUNTS]
        sizes = [r.parameters, r.weight_bytes, r.state_bytes, _share(r.activation_bytes, samples)]
        energies = [row.energy_pj.get(term, 0.0) for term in terms]
        named = [r.layer, r.op, r.operand, samples, r.calls, r.steps]
        writer.writerow([*named, *counts, *sizes, *energies, row.total_pj])
    return out.getvalue()


def _share(count: int, samples: int) -> int | float:
    """A count per sample, whole where it is."""
    return count / samples if count % samples else count // samples


def to_json(report: CostReport) -> str:
    """Everything: totals, terms with their figures, layers with all counts, assumptions, what is missing."""
    r, p = report.records, report.profile
    content = {
        "model": r.model,
        "samples": r.samples,
        "steps": r.steps,
        "coverage": r.coverage,
        "chip": {"name": p.name, "title": p.title, "node": p.node, "voltage_v": p.voltage_v, "rule": p.rule},
        "assumptions": asdict(report.assume),
        "energy_mj": report.energy_mj,
        "band_mj": [report.low_pj / _PJ_PER_MJ, report.high_pj / _PJ_PER_MJ],
        "terms_pj": dict(report.terms_pj),
        "static_power_pj": report.static_power_pj,
        "static_image_saving_pj": report.static_saving_pj,
        "without": [asdict(entry) for entry in report.unpriced],
        "included": dict(report.included),
        "prices": {key: asdict(figure) for key, figure in p.prices.items()},
        "by_step_mj": report.by_step_mj,
        "by_sample_mj": report.by_sample_mj,
        "sample_mj": report.sample_mj,
        "interval_mj": report.interval_mj,
        "classes": r.classes,
        "folded": {name: list(layers) for name, layers in report.folded.items()},
        "counts_are_of": f"all {r.samples} samples; energies are per sample",
        "uncounted": [asdict(entry) for entry in r.uncounted],
        "free": dict(r.free),
        "layers": [_layer(row) for row in report.rows],
    }
    return json.dumps(content, indent=1)


def _layer(row: Row) -> dict[str, Any]:
    record = asdict(row.record)
    record["counts"] = dict(row.record.counts)
    return record | {"energy_pj": dict(row.energy_pj), "total_pj": row.total_pj}


def _summary(report: CostReport) -> list[str]:
    r, p = report.records, report.profile
    low, high = report.low_pj / _PJ_PER_MJ, report.high_pj / _PJ_PER_MJ
    band = f" (band {_mj(low)} to {_mj(high)})" if high > low else ""
    lines = [
        f"{r.model} on {p.title} ({p.node}): {_mj(report.energy_mj)} per sample{band}",
        f"{r.samples} samples, {r.steps} time steps; coverage {r.coverage:.1%} of {r.calls} operations",
    ]
    total = sum(report.terms_pj.values()) + report.static_power_pj
    parts = sorted(report.terms_pj.items(), key=lambda item: -item[1])
    parts += [("static power", report.static_power_pj)] if report.static_power_pj else []
    if total:
        lines.append("of it " + ", ".join(f"{name} {_mj(pj / _PJ_PER_MJ)} ({pj / total:.1%})" for name, pj in parts))
    if report.unpriced:
        lines.append("without " + ", ".join(_missing(report)))
    steps = report.by_step_mj
    if steps is not None and len(steps) > 1:
        shown = ", ".join(map(_mj, steps[:_STEPS_SHOWN])) + (" ..." if len(steps) > _STEPS_SHOWN else "")
        lines.append(f"linear maps and products by time step: {shown}")
    if report.static_saving_pj:
        saving = report.static_saving_pj / _PJ_PER_MJ
        lines.append(
            f"the image's own layers: computing them once instead of {r.steps} times is {_mj(saving)}; "
            f"counted here: {report.assume.static_input.replace('_', ' ')}"
        )
    spread = report.interval_mj
    if spread is not None and _varies(report):
        lines.append(f"95 % interval of the mean over {r.samples} samples: {_mj(spread[0])} to {_mj(spread[1])}")
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
        between = "" if ends is None else f", {_mj(ends[0])} to {_mj(ends[1])}"
        lines.append(f"class {label}: {_mj(fmean(groups[label]))} per sample ({len(groups[label])} samples{between})")
    return [*lines, *([f"and {len(shown) - _CLASSES_SHOWN} classes more"] if len(shown) > _CLASSES_SHOWN else [])]


def _missing(report: CostReport) -> list[str]:
    units = {"static_mw": "mW", "clock_uw_per_mhz": "uW/MHz"}
    shown = []
    for entry in report.unpriced:
        unit = units.get(entry.price)
        amount = _si(entry.amount) if unit is None else f"{entry.amount:g} {unit}" if entry.amount else "unknown"
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
        f"NOT COUNTED: {entry.op} in {entry.layer or 'the model'}, {entry.calls} calls, {_si(entry.elements)} numbers"
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
        counts = [_si(value / samples) if (value := sum(map(get, every))) else "" for get in per_sample]
        counts += [_si(value) if (value := sum(map(get, every))) else "" for get in sizes]
        energy = sum(entry.total_pj for entry in every)
        share = f"{energy / total:.1%}" if total and energy else ""
        op = f"{r.op}+n" if neurons else r.op
        lines.append([r.layer or "(model)", op, r.operand, _rate(row), *counts, _uj(energy), share])
    sums = [_si(sum(map(get, report.rows)) / samples) for get in per_sample]
    sums += [_si(sum(map(get, report.rows))) for get in sizes]
    lines.append(["total", "", "", "", *sums, _uj(total), "100%" if total else ""])
    return lines


def _rate(row: Row) -> str:
    """Spikes per neuron and step, or nonzeros per input."""
    r = row.record
    of, among = (r["spikes"], r["updates"]) if r["updates"] else (r["packets"], r["inputs"])
    return f"{of / among:.1%}" if among else ""


def _aligned(cells: Sequence[Sequence[str]], left: int = 3, *, gap: int = 2) -> list[str]:
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    texts = [
        [f"{c:{'<' if i < left else '>'}{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        for line in cells
    ]
    lines = [(" " * gap).join(text).rstrip() for text in texts]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:-1], "-" * max(map(len, lines)), lines[-1]]


def _si(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def _mj(mj: float) -> str:
    for size, unit in ((1.0, "mJ"), (1e-3, "uJ"), (1e-6, "nJ")):
        if abs(mj) >= size:
            return f"{mj / size:.4g} {unit}"
    return f"{mj / 1e-9:.4g} pJ" if mj else "0 mJ"


def _uj(pj: float) -> str:
    return f"{pj / 1e6:.4g}" if pj else ""
