"""``smixer bench train_step``: time of a training step against the naive twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from snntorch_smixer.bench.goals import Goal, judged
from snntorch_smixer.bench.kernels import kernel_launches
from snntorch_smixer.bench.pairs import Timing, paired
from snntorch_smixer.bench.progress import Progress, silent
from snntorch_smixer.bench.result import BenchResult, Value
from snntorch_smixer.bench.suite_memory import PRUNINGS
from snntorch_smixer.bench.variants import network, noise, variant
from snntorch_smixer.kernels.compiled import use
from snntorch_smixer.models.config import CONFIGS, SMixerConfig

_PLAIN = ("naive", "snntorch_layers", "reference")
_LEAN = ("fused", "recompute")

GOALS = (
    Goal("R1", "ratio", 0.70, {"variant": "fused", "tier": "compile", "pruning": "none"}),
    Goal("R1", "to_snntorch", 0.85, {"variant": "fused", "tier": "compile", "pruning": "none"}),
    Goal("R2", "ratio", 1.10, {"variant": "fused", "tier": "eager", "pruning": "none"}),
    Goal("R3", "ratio", 0.90, {"variant": "recompute", "tier": "compile", "pruning": "none"}),
    Goal("G9", "kernels", 400, {"variant": "fused", "tier": "compile", "pruning": "none"}),
    Goal("G9", "kernels", 400, {"variant": "recompute", "tier": "compile", "pruning": "none"}),
    Goal("R4", "ratio", 0.52, {"variant": "fused", "tier": "compile", "pruning": "ps=0.3 t=1"}),
)


def train_step(
    configs: Mapping[str, SMixerConfig] | None = None,
    *,
    batch: int = 8,
    rounds: int = 5,
    compiled: bool = True,
    progress: Progress = silent,
) -> BenchResult:
    """Process CPU time of a forward and backward pass, as a ratio to the naive twin without pruning.

    All take turns and are compared within a round, see `snntorch_smixer.bench.pairs.paired`. No optimizer.

    Args:
        configs: networks by name, without pruning; smixer-4-384 by default.
        batch: samples.
        rounds: timed rounds, at least 2.
        compiled: also run the tier under ``torch.compile``, which is compiled in the rounds that are not timed.
        progress: watches the rounds.

    Returns:
        Rows with ``ratio`` to the naive twin, its quartiles ``low`` and ``high``, and ``to_snntorch``, the ratio of the
        median times of this row and of ``snntorch_layers`` of the same network without pruning, and ``kernels``, see
        `snntorch_smixer.bench.kernels.kernel_launches`.
    """
    configs = {"smixer-4-384": CONFIGS["smixer-4-384"]} if configs is None else configs
    rows: list[dict[str, Value]] = []
    for name, config in configs.items():
        steps = _steps(config, batch, compiled)
        timings = paired(steps, rounds=rounds, warmup=2, progress=progress)
        rows += _rows(name, timings, {key: _kernels(*step.args) for key, step in steps.items()})
    return BenchResult(
        "train_step",
        judged(rows, GOALS),
        " ".join(["smixer bench train_step", *configs, f"--batch {batch} --rounds {rounds}"]),
        notes=(
            "Ratio of process CPU time to the naive twin without pruning, median of the rounds, with quartiles.",
            f"Forward and backward in fp32, batch {batch}, {rounds} rounds, random weights; no optimizer.",
            "kernels: of one step; what torch's compiler generated counts as it runs.",
        ),
    )


def _steps(config: SMixerConfig, batch: int, compiled: bool) -> dict[str, partial[None]]:
    (x, _), grad = noise(config, batch), random_grad(config, batch)
    calls: dict[str, partial[None]] = {}
    for prune, text in PRUNINGS:
        net = network(replace(config, prune=prune)).train()
        for how in (*_PLAIN, *_LEAN):
            calls[f"{how}|{text}|eager"] = partial(one_step, variant(net, how).train(), x, grad, "eager")
        for how in _LEAN if compiled else ():
            calls[f"{how}|{text}|compile"] = partial(one_step, variant(net, how).train(), x, grad, "compile")
    return calls


def random_grad(config: SMixerConfig, batch: int) -> Tensor:
    """A gradient of the logits, ``(B, K)``: with equal weights that of a sum is about zero behind BatchNorm."""
    return torch.randn(batch, config.num_classes, generator=torch.Generator().manual_seed(1))


def one_step(model: nn.Module, x: Tensor, grad: Tensor, tier: str) -> None:
    """Forward and backward, with the gradient ``(B, K)`` of the logits, in a tier of `kernels.compiled`."""
    model.zero_grad(set_to_none=True)
    with use(tier):
        model(x).backward(grad)


def _kernels(model: nn.Module, x: Tensor, _: Tensor, tier: str) -> int:
    with use(tier):
        return kernel_launches(model, x).total()


def _rows(name: str, timings: Mapping[str, Timing], kernels: Mapping[str, int]) -> list[dict[str, Value]]:
    layers = timings["snntorch_layers|none|eager"].seconds
    rows: list[dict[str, Value]] = []
    for key, timing in timings.items():
        how, pruning, tier = key.split("|")
        rows.append(
            {
                "net": name,
                "pruning": pruning,
                "variant": how,
                "tier": tier,
                "ratio": timing.ratio,
                "low": timing.low,
                "high": timing.high,
                "to_snntorch": timing.seconds / layers,
                "kernels": kernels[key],
            }
        )
    return rows
