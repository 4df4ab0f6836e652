"""Paired timing: callables take turns, and each is compared with the first one within a round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

from snntorch_smixer.bench.progress import Progress, silent
from snntorch_smixer.errors import SettingError


@dataclass(frozen=True)
class Timing:
    """Time of one callable, and its ratio to the first one.

    Attributes:
        seconds: median over the rounds; depends on the machine and on what else it does.
        ratio: median of the ratios within the rounds; 1 for the first callable.
        low: lower quartile of the ratios.
        high: upper quartile of the ratios.
    """

    seconds: float
    ratio: float
    low: float
    high: float


def paired(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 10,
    warmup: int = 1,
    clock: Callable[[], float] = time.process_time,
    progress: Progress = silent,
) -> dict[str, Timing]:
    """Time callables against the first one, by name.

    In each round all of them run once, in turns forwards and backwards, so that neither what else the machine does nor
    the place in a round favours one. Compare the ratios, not the seconds.

    Args:
        calls: by name, the one to compare with first. On a GPU each has to wait for the device itself.
        rounds: timed rounds, at least 2.
        warmup: rounds that are not timed.
        clock: gives seconds. The CPU time of the process by default, which other processes disturb least; on a GPU pass
            ``time.perf_counter``.
        progress: watches the rounds.

    Raises:
        SettingError: too few rounds.
    """
    if rounds < 2 or warmup < 0:
        raise SettingError(
            f"paired: rounds={rounds} must be at least 2 and warmup={warmup} at least 0. Pass how many to time."
        )
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in progress(range(warmup + rounds), "rounds"):
        for name in list(calls) if turn % 2 == 0 else reversed(list(calls)):
            start = clock()
            calls[name]()
            taken = clock() - start
            if turn >= warmup:
                seconds[name].append(taken)
    base = next(iter(seconds.values()), [])
    return {name: _timing(taken, base) for name, taken in seconds.items()}


def _timing(taken: list[float], base: list[float]) -> Timing:
    ratios = [a / b for a, b in zip(taken, base, strict=True)]
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return Timing(median(taken), middle, low, high)
