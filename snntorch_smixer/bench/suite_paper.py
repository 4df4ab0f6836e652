"""``smixer bench paper``: the paper's table of operations and training memory, beside what is counted here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from snntorch_smixer.bench.closed_form import closed_form_macs
from snntorch_smixer.bench.macs import dense_macs
from snntorch_smixer.bench.peak import peak_bytes
from snntorch_smixer.bench.progress import Progress, silent
from snntorch_smixer.bench.result import BenchResult, Value
from snntorch_smixer.bench.variants import MIB, network, noise, variant
from snntorch_smixer.models.config import CONFIGS
from snntorch_smixer.pruning.pruner import DSTSPConfig

_VARIANTS = ("naive", "fused", "recompute")


@dataclass(frozen=True)
class _Published:
    """One line of the paper's tables.

    Attributes:
        net: name of the configuration.
        pruning: in words.
        prune: our settings.
        batch: samples of a step.
        gflops: the paper's "FLOPs" in G, which are multiply-accumulates; None where it prints none.
        memory_mb: the paper's training memory in MB.
    """

    net: str
    pruning: str
    prune: DSTSPConfig | None
    batch: int
    gflops: float | None
    memory_mb: float


PUBLISHED = (
    _Published("smixer-4-384", "none", None, 64, 3.45, 5329),
    _Published("smixer-4-384", "ps=0.4", DSTSPConfig(ps=0.4, t=None), 64, 2.72, 3498),
    _Published("smixer-4-384", "t=2", DSTSPConfig(ps=0.0, t=2), 64, 2.54, 3526),
    _Published("smixer-4-384", "ps=0.3 t=1", DSTSPConfig(ps=0.3, t=1), 64, 2.04, 2346),
    _Published("smixer-8-768", "none", None, 128, None, 17008),
    _Published("smixer-8-768", "ps=0.3", DSTSPConfig(ps=0.3, t=None), 128, None, 13002),
)
"""CIFAR-100 at batch 64, and ImageNet at batch 128. Source: paper, tables of DSTSP."""


def paper(*, progress: Progress = silent) -> BenchResult:
    """Operations and training memory of the paper's settings: published, and counted on the networks of this package.

    Memory is the peak of one training step and four times the parameters (values, gradients, two moments of Adam), in
    MiB; a GPU's context and allocator come on top. It runs on fake tensors.

    Returns:
        Rows with ``paper_gmacs``, ``gmacs`` (closed form), ``counted_gmacs`` (by torch), ``paper_mb``, and
        ``naive_mib``, ``fused_mib``, ``recompute_mib``.
    """
    rows = [_row(line) for line in progress(PUBLISHED, "settings")]
    return BenchResult(
        "paper",
        rows,
        "smixer bench paper",
        notes=(
            "Per image: dense multiply-accumulates over all steps, in G. closed form and counted agree.",
            "Training memory of one step in MiB, fp32, batch 64 (smixer-4-384) and 128 (smixer-8-768): peak, and four "
            "times the parameters; without the context of a GPU.",
            "naive is the plain loop of STMixer's authors.",
        ),
    )


def _row(line: _Published) -> dict[str, Value]:
    config = replace(CONFIGS[line.net], prune=line.prune)
    net = network(config)
    # Bytes per sample hardly change with the batch, and smaller shapes are measured faster.
    x, _ = noise(config, 16)
    parameters = 4 * 4 * sum(p.numel() for p in net.parameters())
    memory: dict[str, Value] = {
        f"{how}_mib": (peak_bytes(variant(net, how), x, fake=True) * line.batch + parameters) / MIB for how in _VARIANTS
    }
    return {
        "net": line.net,
        "pruning": line.pruning,
        "paper_gmacs": line.gflops,
        "gmacs": closed_form_macs(config).total / 1e9,
        "counted_gmacs": dense_macs(net, noise(config, 1)[0]) / 1e9,
        "paper_mb": line.memory_mb,
        **memory,
    }
