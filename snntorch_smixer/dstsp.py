"""Dynamic Spatial-Temporal Spiking Pruning, as users type it: ``from snntorch_smixer import dstsp``."""

from snntorch_smixer.families import FAMILIES as FAMILIES
from snntorch_smixer.families import Family as Family
from snntorch_smixer.families import Sites as Sites
from snntorch_smixer.families import register as register
from snntorch_smixer.patching.checkpoint import to_unwrapped as to_unwrapped
from snntorch_smixer.patching.checkpoint import to_wrapped as to_wrapped
from snntorch_smixer.patching.fit import fit as fit
from snntorch_smixer.patching.loop import steps as steps
from snntorch_smixer.patching.record import Plan as Plan
from snntorch_smixer.patching.wrap import plan as plan
from snntorch_smixer.patching.wrap import summary as summary
from snntorch_smixer.patching.wrap import unwrap as unwrap
from snntorch_smixer.patching.wrap import wrap as wrap
from snntorch_smixer.pruning.pruner import DSTSP as DSTSP
from snntorch_smixer.pruning.pruner import DSTSPConfig as DSTSPConfig
from snntorch_smixer.pruning.rates import Schedule as Schedule
from snntorch_smixer.pruning.siv import siv as siv
from snntorch_smixer.pruning.softmatch import merge_dropped as merge_dropped
from snntorch_smixer.pruning.spatial import dssp as dssp
from snntorch_smixer.pruning.spatial import tokens_kept as tokens_kept
from snntorch_smixer.pruning.temporal import cap_spikes as cap_spikes
from snntorch_smixer.pruning.temporal import dstp as dstp
from snntorch_smixer.recovery.recover import Recovery as Recovery
from snntorch_smixer.recovery.recover import recover as recover
from snntorch_smixer.recovery.search import Search as Search
from snntorch_smixer.recovery.search import search as search
from snntorch_smixer.recovery.settings import RecoverySettings as RecoverySettings
from snntorch_smixer.selection import Selection as Selection

__all__ = [
    "DSTSP",
    "FAMILIES",
    "DSTSPConfig",
    "Family",
    "Plan",
    "Recovery",
    "RecoverySettings",
    "Schedule",
    "Search",
    "Selection",
    "Sites",
    "cap_spikes",
    "dssp",
    "dstp",
    "fit",
    "merge_dropped",
    "plan",
    "recover",
    "register",
    "search",
    "siv",
    "steps",
    "summary",
    "to_unwrapped",
    "to_wrapped",
    "tokens_kept",
    "unwrap",
    "wrap",
]


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
