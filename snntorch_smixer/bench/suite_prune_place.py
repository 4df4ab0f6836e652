"""``smixer bench prune_place``: what it costs to drop time steps behind the stem, or at a neuron inside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from snntorch_smixer.bench.closed_form import closed_form_macs
from snntorch_smixer.bench.goals import Goal, judged
from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.bench.pairs import Timing, paired
from snntorch_smixer.bench.peak import peak_bytes
from snntorch_smixer.bench.progress import Progress, silent
from snntorch_smixer.bench.result import BenchResult, Value
from snntorch_smixer.bench.suite_memory import PRUNED
from snntorch_smixer.bench.suite_train_step import one_step, random_grad
from snntorch_smixer.bench.variants import MIB, network, noise, variant
from snntorch_smixer.kernels.compiled import use
from snntorch_smixer.models.config import CONFIGS, SMixerConfig
from snntorch_smixer.pruning.place import PLACES

_MEMORY_BATCH = 16
_LIF2 = {"net": "smixer-4-384", "place": "lif2"}

GOALS = (Goal("R9", "train_ratio", 0.26, _LIF2), Goal("R9", "infer_ratio", 0.30, _LIF2))


def prune_place(
    configs: Mapping[str, SMixerConfig] | None = None,
    *,
    batch: int = 8,
    rounds: int = 5,
    compiled: bool = True,
    progress: Progress = silent,
) -> BenchResult:
    """Multiply-accumulates, bytes and time of a network that drops steps at each of the places (ps = 0.3, t = 1).

    Args:
        configs: networks by name, without pruning; smixer-4-384 by default.
        batch: samples of the timed runs; bytes are those of a batch of 16.
        rounds: timed rounds, at least 2.
        compiled: time the tier under ``torch.compile``.
        progress: watches rows and rounds.

    Returns:
        Rows with ``gmacs`` per sample and ``macs_share`` of the network without pruning; ``saved_mib`` and ``peak_mib``
        per sample under memory="fused", ``recompute_mib`` kept under "recompute"; ``train_ratio`` and ``infer_ratio``,
        process CPU time over that of the naive twin without pruning.
    """
    configs = {"smixer-4-384": CONFIGS["smixer-4-384"]} if configs is None else configs
    rows = [row for name, config in configs.items() for row in _rows(name, config, (batch, rounds), compiled, progress)]
    return BenchResult(
        "prune_place",
        judged(rows, GOALS),
        " ".join(["smixer bench prune_place", *configs, f"--batch {batch} --rounds {rounds}"]),
        notes=(
            "ps = 0.3, t = 1. stem: behind the stem, as in the paper; lifK: at the K-th neuron inside the stem.",
            f"Bytes per sample at batch {_MEMORY_BATCH}, fp32, fake tensors; saved and peak are those of fused.",
            "Ratios of process CPU time to the naive twin without pruning; training: forward and backward, fused.",
            f"Timed in the {'compiled' if compiled else 'eager'} tier, batch {batch}, {rounds} rounds.",
            "Accuracy of each place: python benchmarks/prune_place_accuracy.py --data DATA.",
        ),
    )


def _rows(
    name: str, config: SMixerConfig, sizes: tuple[int, int], compiled: bool, progress: Progress
) -> list[dict[str, Value]]:
    frames = config.takes_frames
    places = {"none": config, **{place: replace(config, prune=replace(PRUNED, place=place)) for place in PLACES}}
    trained, ran = _times(places, sizes, "compile" if compiled else "eager", progress)
    base = closed_form_macs(config, frames=frames)
    rows: list[dict[str, Value]] = []
    for place in progress(list(places), "places"):
        macs = closed_form_macs(places[place], frames=frames).total
        rows.append(
            {
                "net": name,
                "place": place,
                "gmacs": macs / 1e9,
                "macs_share": macs / base.total,
                **_bytes(places[place]),
                "train_ratio": trained[place].ratio,
                "infer_ratio": ran[place].ratio,
            }
        )
    return rows


def _bytes(config: SMixerConfig) -> dict[str, Value]:
    (x, axis), net = noise(config, _MEMORY_BATCH), network(config)
    fused, recompute = (variant(net, how) for how in ("fused", "recompute"))
    return {
        "saved_mib": saved_bytes(fused, x, batch_axis=axis, fake=True) / MIB,
        "peak_mib": peak_bytes(fused, x, batch_axis=axis, fake=True) / MIB,
        "recompute_mib": saved_bytes(recompute, x, batch_axis=axis, fake=True) / MIB,
    }


def _times(
    places: Mapping[str, SMixerConfig], sizes: tuple[int, int], tier: str, progress: Progress
) -> tuple[dict[str, Timing], dict[str, Timing]]:
    batch, rounds = sizes
    config = places["none"]
    (x, _), grad = noise(config, batch), random_grad(config, batch)
    nets = {place: network(at) for place, at in places.items()}
    models = {"naive": (variant(nets["none"], "naive"), "eager")}
    models |= {place: (variant(net, "fused"), tier) for place, net in nets.items()}
    train: dict[str, Callable[[], None]] = {
        key: partial(one_step, model.train(), x, grad, how) for key, (model, how) in models.items()
    }
    trained = paired(train, rounds=rounds, warmup=2, progress=progress)
    infer: dict[str, Callable[[], None]] = {
        key: partial(_infer, model.eval(), x, how) for key, (model, how) in models.items()
    }
    return trained, paired(infer, rounds=rounds, warmup=2, progress=progress)


def _infer(model: nn.Module, x: Tensor, tier: str) -> None:
    with torch.no_grad(), use(tier):
        model(x)
