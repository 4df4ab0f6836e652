"""One bar chart of a benchmark."""

from __future__ import annotations

from pathlib import Path

from snntorch_smixer.bench.result import BenchResult
from snntorch_smixer.errors import SettingError
from snntorch_smixer.extras import need


def bars(result: BenchResult, path: str | Path, *, value: str, label: str, reference: float | None = None) -> Path:
    """Draw one horizontal bar per row, the first row on top, and write a picture.

    Args:
        result: rows without this value are left out.
        path: of the picture; its ending chooses the format, for example ``.svg`` or ``.png``.
        value: key of the number; it is the axis title, with blanks for underscores.
        label: key of the text beside the bar.
        reference: a number to mark with a line, for example that of the paper.

    Raises:
        MissingExtra: matplotlib is not installed.
        SettingError: no row has a number under this key, or no row has the label.
    """
    rows = [row for row in result.rows if isinstance(row.get(value), (int, float)) and label in row]
    if not rows:
        keys = ", ".join(result.rows[0]) if result.rows else "none"
        raise SettingError(f"bars: no row of {result.name} has {value!r} and {label!r}. The keys are {keys}.")
    need("matplotlib", extra="viz")
    # The figure without pyplot: no window, no state that outlives the call.
    figure_module = need("matplotlib.figure", extra="viz")
    figure = figure_module.Figure(figsize=(7, 0.8 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh(range(len(rows)), [row[value] for row in rows], color="#4477aa")
    axes.bar_label(drawn, fmt="%.3g", padding=3)
    axes.set_yticks(range(len(rows)), [str(row[label]) for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    if reference is not None:
        axes.axvline(reference, color="#cc3311", linestyle="--")
    axes.set(xlabel=value.replace("_", " "), title=result.name.replace("_", " "))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
