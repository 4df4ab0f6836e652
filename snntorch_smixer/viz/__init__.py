"""Pictures: what was pruned, what it costs, what was learned. Every function returns a matplotlib ``Figure``."""

from snntorch_smixer.viz.comparison import draw_comparison as draw_comparison
from snntorch_smixer.viz.cost import draw_cost as draw_cost
from snntorch_smixer.viz.style import draw_bars as draw_bars
from snntorch_smixer.viz.tokens import PruningTrace as PruningTrace
from snntorch_smixer.viz.tokens import draw_pruning as draw_pruning
from snntorch_smixer.viz.tokens import trace_pruning as trace_pruning
from snntorch_smixer.viz.weights import draw_firing_rates as draw_firing_rates
from snntorch_smixer.viz.weights import draw_w_m as draw_w_m

__all__ = [
    "PruningTrace",
    "draw_bars",
    "draw_comparison",
    "draw_cost",
    "draw_firing_rates",
    "draw_pruning",
    "draw_w_m",
    "trace_pruning",
]
