"""The picture of a cost report shows the report's numbers."""

import pytest
import torch

from snntorch_smixer import cost, create_model
from snntorch_smixer.viz.cost import draw_cost

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def report() -> cost.CostReport:
    torch.manual_seed(0)
    return cost.estimate(create_model("smixer-2-64-fmnist"), torch.randn(2, 1, 28, 28), chip="loihi1")


def test_bars_add_up_to_the_total(report: cost.CostReport):
    axes = draw_cost(report, least_share=0.05).axes[0]
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(report.energy_mj * 1e3)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[-1] == "other layers"
    assert len(names) < len([row for row in report.rows if row.energy_pj])


def test_title_says_what_is_missing(report: cost.CostReport):
    title = draw_cost(report).axes[0].get_title()
    assert f"{report.energy_mj * 1e3:.4g} uJ" in title
    assert "without additions, multiply-accumulates, packets, static power" in title


def test_the_longest_bar_ends_inside_the_frame(report: cost.CostReport):
    axes = draw_cost(report).axes[0]
    longest = max(bar.get_x() + bar.get_width() for bar in axes.patches)
    assert longest < axes.get_xlim()[1] <= 1.1 * longest
