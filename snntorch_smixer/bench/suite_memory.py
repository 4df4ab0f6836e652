"""``smixer bench memory``: bytes and kernel launches of a training step, by how the network is run."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from snntorch_smixer.bench.goals import Goal, judged
from snntorch_smixer.bench.kernels import kernel_launches
from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.bench.peak import peak_bytes
from snntorch_smixer.bench.peers import spikingjelly_peers
from snntorch_smixer.bench.progress import Progress, silent
from snntorch_smixer.bench.result import BenchResult, Value
from snntorch_smixer.bench.variants import CHUNKS, MIB, VARIANTS, network, noise, variant
from snntorch_smixer.models.config import CONFIGS, SMixerConfig
from snntorch_smixer.pruning.pruner import DSTSPConfig

NETS = ("smixer-4-384", "smixer-8-768", "smixer-2-256")
PRUNED = DSTSPConfig(ps=0.3, t=1)
"""The pruning that the benchmarks compare with none: 30 % of the tokens dropped, one time step kept."""
PRUNINGS = ((None, "none"), (PRUNED, "ps=0.3 t=1"))
"""Both, and how a row tells them."""

_CIFAR = {"net": "smixer-4-384", "dtype": "fp32", "pruning": "none"}
_CIFAR_PRUNED = {**_CIFAR, "pruning": "ps=0.3 t=1"}
_CIFAR_BF16 = {**_CIFAR, "dtype": "bf16"}
_IMAGENET = {**_CIFAR, "net": "smixer-8-768"}
_DVS = {**_CIFAR, "net": "smixer-2-256"}

GOALS = (
    Goal("G1", "saved_mib", 24, {**_CIFAR, "variant": "fused"}),
    Goal("G1", "saved_share", 0.29, {**_CIFAR, "variant": "fused"}),
    Goal("G2", "saved_mib", 4.5, {**_CIFAR, "variant": "recompute"}),
    Goal("G3", "saved_mib", 10.5, {**_CIFAR_PRUNED, "variant": "fused"}),
    Goal("G3", "saved_mib", 1.8, {**_CIFAR_PRUNED, "variant": "recompute"}),
    Goal("G4", "saved_mib", 12.5, {**_CIFAR_BF16, "variant": "fused"}),
    Goal("G4", "saved_mib", 4.5, {**_CIFAR_BF16, "variant": "recompute"}),
    Goal("G5", "peak_mib", 29, {**_CIFAR, "variant": "fused"}),
    Goal("G5", "peak_mib", 17, {**_CIFAR, "variant": "recompute"}),
    Goal("G5", "peak_mib", 10, {**_CIFAR, "variant": "recompute_chunks"}),
    Goal("G6", "saved_share", 0.42, {**_IMAGENET, "variant": "fused"}),
    Goal("G6", "saved_share", 0.06, {**_IMAGENET, "variant": "recompute"}),
    Goal("G10", "saved_share", 0.25, {**_DVS, "variant": "fused"}),
    Goal("G10", "saved_share", 0.03, {**_DVS, "variant": "recompute"}),
)


def memory(
    configs: Mapping[str, SMixerConfig] | None = None,
    *,
    batch: int = 16,
    variants: Sequence[str] = VARIANTS,
    dtypes: Sequence[str] = ("fp32", "bf16"),
    peers: bool = True,
    progress: Progress = silent,
) -> BenchResult:
    """Bytes kept for backward, peak bytes and kernel launches of a training step, without and with pruning.

    Everything is measured on torch's fake tensors, so nothing is computed and the numbers do not change from run to
    run.

    Args:
        configs: networks by name; without pruning. `NETS` by default.
        batch: samples.
        variants: of `VARIANTS`.
        dtypes: "fp32", and "bf16" for autocast.
        peers: add SpikingJelly's Spikformer where it is installed.
        progress: watches the rows.

    Returns:
        Rows with ``saved_mib`` and ``peak_mib`` per sample, ``saved_share`` of the naive twin of the same network and
        dtype without pruning (None where that was not measured), and ``kernels`` of a whole step.
    """
    configs = {name: CONFIGS[name] for name in NETS} if configs is None else configs
    cases = [
        _Case(name, text, dtype, how, replace(config, prune=prune))
        for name, config in configs.items()
        for dtype in dtypes
        for prune, text in PRUNINGS
        for how in variants
        # The loop of snnTorch shows the network one step at a time; pruning needs all of them.
        if prune is None or how != "snntorch_loop"
    ]
    rows = [case.row(batch) for case in progress(cases, "networks")]
    if peers:
        found = progress(spikingjelly_peers(batch), "SpikingJelly")
        rows += [_measured((name, "none", "fp32", "spikingjelly"), model, x) for name, model, x in found]
    return BenchResult(
        "memory",
        judged(_with_share(rows), GOALS),
        " ".join(["smixer bench memory", *configs, f"--batch {batch}"]),
        notes=(
            f"Per sample, in MiB; parameters, their gradients and the input are left out. Batch {batch}, fake tensors.",
            f"recompute_chunks: the backward pass in {CHUNKS} pieces.",
            "Kernels: of one step in plain torch, forward and backward; train_step counts the compiled tier.",
            "Workspace inside one operator is not seen.",
        ),
    )


@dataclass(frozen=True)
class _Case:
    net: str
    pruning: str
    dtype: str
    how: str
    config: SMixerConfig

    def row(self, batch: int) -> dict[str, Value]:
        """Measure it."""
        x, axis = noise(self.config, batch)
        model = variant(_network(self.config), self.how)
        return _measured((self.net, self.pruning, self.dtype, self.how), model, x, axis=axis)


_network = functools.lru_cache(maxsize=1)(network)


def _measured(name: tuple[str, str, str, str], model: nn.Module, x: Tensor, *, axis: int = 0) -> dict[str, Value]:
    """One row, its share still open."""
    net, pruning, dtype, how = name
    autocast = torch.bfloat16 if dtype == "bf16" else None
    saved = saved_bytes(model, x, batch_axis=axis, fake=True, autocast=autocast)
    peak = peak_bytes(model, x, batch_axis=axis, fake=True, autocast=autocast)
    return {
        "net": net,
        "pruning": pruning,
        "dtype": dtype,
        "variant": how,
        "saved_mib": saved / MIB,
        "saved_share": None,
        "peak_mib": peak / MIB,
        "kernels": kernel_launches(model, x, fake=True, autocast=autocast).total(),
    }


def _with_share(rows: list[dict[str, Value]]) -> list[dict[str, Value]]:
    plain = [row for row in rows if (row["variant"], row["pruning"]) == ("naive", "none")]
    base = {(row["net"], row["dtype"]): cast(float, row["saved_mib"]) for row in plain}
    return [{**row, "saved_share": _share(row, base.get((row["net"], row["dtype"])))} for row in rows]


def _share(row: Mapping[str, Value], base: float | None) -> float | None:
    return cast(float, row["saved_mib"]) / base if base else None
