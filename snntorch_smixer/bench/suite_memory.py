"""``smixer bench memory``: bytes and kernel launches of a training step, by how the network is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from snntorch_smixer.bench.goals import Goal, judged
from snntorch_smixer.bench.kernels import kernel_launches
from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.bench.peak import peak_bytes
from snntorch_smixer.bench.peers import spikingjelly_peers
from snntorch_smixer.bench.result import BenchResult, Value
from snntorch_smixer.bench.variants import CHUNKS, VARIANTS, noise, variant
from snntorch_smixer.models.config import CONFIGS, SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.pruning.pruner import DSTSPConfig

NETS = ("smixer-4-384", "smixer-8-768", "smixer-2-256")
PRUNED = DSTSPConfig(ps=0.3, t=1)
"""The pruning that the benchmarks compare with none: 30 % of the tokens dropped, one time step kept."""

_MIB = 2**20
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
    Goal("G9", "kernels", 400, {**_CIFAR, "variant": "fused"}),
    Goal("G9", "kernels", 400, {**_CIFAR, "variant": "recompute"}),
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

    Returns:
        Rows with ``saved_mib`` and ``peak_mib`` per sample, ``saved_share`` of the naive twin of the same network and
        dtype without pruning (None where that was not measured), and ``kernels`` of a whole step.
    """
    configs = {name: CONFIGS[name] for name in NETS} if configs is None else configs
    rows = [
        row
        for name, config in configs.items()
        for dtype in dtypes
        for row in _rows(name, config, (batch, dtype, variants))
    ]
    if peers:
        rows += [_Case(name, "none", "fp32").row("spikingjelly", net, x) for name, net, x in spikingjelly_peers(batch)]
    return BenchResult(
        "memory",
        judged(rows, GOALS),
        " ".join(["smixer bench memory", *configs, f"--batch {batch}"]),
        notes=(
            f"Per sample, in MiB; parameters, their gradients and the input are left out. Batch {batch}, fake tensors.",
            f"recompute_chunks: the batch in {CHUNKS} pieces. Kernels: of one step, forward and backward.",
            "Workspace inside one operator is not seen.",
        ),
    )


@dataclass(frozen=True)
class _Case:
    net: str
    pruning: str
    dtype: str
    axis: int = 0

    def row(self, how: str, model: nn.Module, x: Tensor) -> dict[str, Value]:
        """One row, its share still open."""
        autocast = torch.bfloat16 if self.dtype == "bf16" else None
        saved = saved_bytes(model, x, batch_axis=self.axis, fake=True, autocast=autocast)
        peak = peak_bytes(model, x, batch_axis=self.axis, fake=True, autocast=autocast)
        return {
            "net": self.net,
            "pruning": self.pruning,
            "dtype": self.dtype,
            "variant": how,
            "saved_mib": saved / _MIB,
            "saved_share": None,
            "peak_mib": peak / _MIB,
            "kernels": kernel_launches(model, x, fake=True, autocast=autocast).total(),
        }


def _rows(name: str, config: SMixerConfig, how: tuple[int, str, Sequence[str]]) -> list[dict[str, Value]]:
    batch, dtype, variants = how
    rows: list[dict[str, Value]] = []
    for prune, text in ((None, "none"), (PRUNED, "ps=0.3 t=1")):
        torch.manual_seed(0)
        net = SMixerNet(replace(config, prune=prune))
        x, axis = noise(config, batch)
        case = _Case(name, text, dtype, axis)
        # The loop of snnTorch shows the network one step at a time; pruning needs all of them.
        able = [v for v in variants if prune is None or v != "snntorch_loop"]
        rows += [case.row(v, variant(net, v), x) for v in able]
    return _with_share(rows)


def _with_share(rows: list[dict[str, Value]]) -> list[dict[str, Value]]:
    first = rows[0] if rows else {}
    base = first.get("saved_mib") if first.get("variant") == "naive" else None
    if not isinstance(base, float) or not base:
        return rows
    return [{**row, "saved_share": row["saved_mib"] / base} for row in rows]  # type: ignore[operator]
