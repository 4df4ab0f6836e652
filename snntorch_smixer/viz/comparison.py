"""Where the saving between two cost reports comes from, as a waterfall."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from snntorch_smixer.cost.estimate import Comparison
from snntorch_smixer.viz.style import COLOURS, QUIET, new_figure, open_frame, patch

_PJ_PER_UJ = 10**6
_SAVES, _ADDS = COLOURS[2], COLOURS[5]


def draw_comparison(comparison: Comparison) -> Any:
    """Waterfall from the first report's energy to the second's: one bar per cause, in uJ per sample.

    Args:
        comparison: from `cost.compare`.

    Returns:
        A matplotlib ``Figure``.

    Raises:
        MissingExtra: matplotlib is not installed.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained, viz
        >>> net, x = from_pretrained("smixer-2-64-fmnist-dstsp"), torch.rand(2, 1, 28, 28)
        >>> dense = from_pretrained("smixer-2-64-fmnist")
        >>> figure = viz.draw_comparison(cost.compare(cost.estimate(dense, x), cost.estimate(net, x)))
    """
    causes = {name: pj / _PJ_PER_UJ for name, pj in comparison.saving_pj.items() if pj}
    before, after = comparison.before.energy_mj * 1000, comparison.after.energy_mj * 1000
    levels = list(accumulate(causes.values(), lambda level, saved: level - saved, initial=before))
    figure = new_figure(7.5, 3.8)
    axes = figure.add_subplot()
    names = ["before", *causes, "after"]
    axes.bar([0, len(names) - 1], [before, after], color=[QUIET, COLOURS[0]], width=0.62)
    for place, (level, saved) in enumerate(zip(levels, causes.values(), strict=False), start=1):
        axes.bar(place, saved, bottom=level - saved, color=_SAVES if saved > 0 else _ADDS, width=0.62)
        axes.plot([place - 0.69, place + 0.31], [level, level], color="#555", linewidth=0.8)
    shown = [before, *(-saved for saved in causes.values()), after]
    tops = [before, *(max(level, level - saved) for level, saved in zip(levels, causes.values(), strict=False)), after]
    for place, (value, top) in enumerate(zip(shown, tops, strict=True)):
        text = f"{value:.3g}" if place in (0, len(names) - 1) else f"{value:+.3g}"
        axes.annotate(text, (place, top), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xticks(range(len(names)), names)
    axes.margins(y=0.12)
    axes.set_ylabel("uJ per sample")
    axes.legend(handles=[patch(_SAVES, "saves"), patch(_ADDS, "costs more")], frameon=False)
    first, second = comparison.before.records.model, comparison.after.records.model
    models = first if first == second else f"{first} to {second}"
    axes.set_title(f"{models} on {comparison.before.profile.title}", fontsize=10)
    open_frame(axes)
    return figure
