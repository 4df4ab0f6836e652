"""A cost report as a picture: energy by layer and by kind of work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from snntorch_smixer.cost.estimate import TERMS, CostReport, Row
from snntorch_smixer.viz.style import COLOURS, new_figure, open_frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PJ_PER_UJ = 10**6


def draw_cost(report: CostReport, *, least_share: float = 0.005) -> Figure:
    """Stacked bars, one per layer, in uJ per sample; what the total is without stands in the title.

    Args:
        report: what to draw.
        least_share: layers below this share of the total are drawn together as "other layers".

    Raises:
        MissingExtra: matplotlib is not installed.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained, viz
        >>> net, x = from_pretrained("smixer-2-64-fmnist-dstsp"), torch.rand(2, 1, 28, 28)
        >>> figure = viz.draw_cost(cost.estimate(net, x, chip="loihi1"))
    """
    total = sum(report.terms_pj.values())
    rows = [(_label(row), dict(row.energy_pj)) for row in report.rows]
    large = [(name, parts) for name, parts in rows if sum(parts.values()) > least_share * total]
    rest: dict[str, float] = {}
    for _, parts in (row for row in rows if row not in large):
        for term, pj in parts.items():
            rest[term] = rest.get(term, 0.0) + pj
    shown = [*large, ("other layers", rest)] if rest else large
    terms = [term.name for term in TERMS if term.name in report.terms_pj]
    figure = new_figure(9, 1.6 + 0.28 * len(shown))
    axes = figure.add_subplot()
    left = [0.0] * len(shown)
    for i, term in enumerate(terms):
        widths = [parts.get(term, 0.0) / _PJ_PER_UJ for _, parts in shown]
        axes.barh(range(len(shown)), widths, left=left, label=term, color=COLOURS[i % len(COLOURS)])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(shown)), [name for name, _ in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.03 * max(left, default=0.0) or 1)
    axes.margins(y=0.01)
    axes.set_xlabel("uJ per sample")
    open_frame(axes)
    if terms:
        axes.legend(fontsize=8)
    without = ", ".join(sorted({entry.term for entry in report.unpriced}))
    title = f"{report.records.model} on {report.profile.title}: {report.energy_mj * 1e3:.4g} uJ per sample"
    axes.set_title(title + (f"\nwithout {without}" if without else ""), fontsize=9, wrap=True)
    return figure


def _label(row: Row) -> str:
    kind = f" ({row.record.op})" if row.record.op in ("act_act", "elementwise") else ""
    return f"{row.record.layer or '(model)'}{kind}"
