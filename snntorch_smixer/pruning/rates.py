"""Pruning rates per block: one number, a list, or a schedule."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

from snntorch_smixer.errors import SettingError


@dataclass(frozen=True)
class Schedule:
    """Rates that change linearly from the first block to the last one.

    Attributes:
        first: share of all N tokens that is gone in the first block, in [0, 1).
        last: in the last block.

    Examples:
        >>> from snntorch_smixer import dstsp, from_pretrained
        >>> net = dstsp.wrap(from_pretrained("smixer-2-64-fmnist"), ps=dstsp.Schedule(0.1, 0.4), t=1)
        >>> dstsp.summary(net).tokens
        (49, 29)
    """

    first: float
    last: float

    def __post_init__(self) -> None:
        for name in ("first", "last"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        check_rate(self.first)
        check_rate(self.last)


def plain(value: Any) -> Any:
    """A scalar of NumPy as the int or float that it is; anything else as it is."""
    if isinstance(value, (bool, int, float)):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value


Rates = float | tuple[float, ...] | Schedule
"""Share of all N tokens that is gone: the same from the first block on, one per block, or a `Schedule`."""


def check_rate(ps: object) -> None:
    """Raise `SettingError` unless ``ps`` is a share in [0, 1)."""
    if isinstance(ps, bool) or not (isinstance(ps, (int, float)) and 0 <= ps < 1):
        raise SettingError(f"DSSP: ps={ps!r} is outside [0, 1). Pass the share of tokens to drop, for example 0.3.")


def check_rates(ps: Rates, *, depth: int | None = None, may_fall: bool = True) -> None:
    """Raise `SettingError` unless ``ps`` gives a rate for each of ``depth`` blocks.

    Args:
        ps: see `Rates`.
        depth: number of blocks, None when not known yet.
        may_fall: False where dropped tokens are gone for good, so that a later block cannot have more of them.
    """
    if not isinstance(ps, (tuple, Schedule)):
        check_rate(ps)
        return
    if isinstance(ps, tuple):
        for rate in ps:
            check_rate(rate)
        if not ps or (depth is not None and len(ps) != depth):
            blocks = "at least one" if depth is None else f"{depth}, one per block"
            raise SettingError(f"DSSP: got {len(ps)} rates, expected {blocks}. Pass a number to use it for all blocks.")
    steps = ps if isinstance(ps, tuple) else (ps.first, ps.last)
    if not may_fall and any(later < sooner for sooner, later in pairwise(steps)):
        raise SettingError(
            f"DSSP: ps={ps} falls from one block to the next, but a dropped token is gone. Pass rates that do not fall."
        )


def rate_at(ps: Rates, block: int, depth: int) -> float:
    """Rate of block ``block`` of ``depth``."""
    if isinstance(ps, Schedule):
        return ps.first + (ps.last - ps.first) * block / max(1, depth - 1)
    return ps[block] if isinstance(ps, tuple) else ps
