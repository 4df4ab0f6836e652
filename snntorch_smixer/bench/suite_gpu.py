"""``smixer bench gpu``: training steps on a CUDA device, by how the network is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from snntorch_smixer.bench.goals import Goal, judged
from snntorch_smixer.bench.meter import CudaMeter, Meter, moved_bytes
from snntorch_smixer.bench.pairs import Timing, paired
from snntorch_smixer.bench.peers import spikingjelly_peers
from snntorch_smixer.bench.result import BenchResult, Value, device_name
from snntorch_smixer.bench.suite_memory import PRUNINGS
from snntorch_smixer.bench.suite_paper import PUBLISHED
from snntorch_smixer.bench.variants import MIB, network, noise, variant
from snntorch_smixer.errors import SettingError, check_choice
from snntorch_smixer.kernels.compiled import use
from snntorch_smixer.models.config import CONFIGS, SMixerConfig

BATCHES: Mapping[str, tuple[int, ...]] = {"smixer-4-384": (64, 512), "smixer-8-768": (128,)}
"""The networks and batches that are measured by default: those of the paper's table, and a larger one."""

_TOLD = {None if prune is None else prune.ps: text for prune, text in PRUNINGS}
PAPER_MB: Mapping[tuple[Value, ...], float] = {
    # Of the network with one step t = 1 drops nothing, so the share of the tokens tells which line it is.
    (line.net, line.batch, _TOLD[ps]): line.memory_mb
    for line, ps in ((line, None if line.prune is None else line.prune.ps) for line in PUBLISHED)
    if ps in _TOLD
}
"""The paper's training memory by network, batch and pruning."""

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16}
_PEER = "spikformer_cifar10"
_R11 = {"net": "smixer-4-384", "pruning": "none", "dtype": "bf16", "variant": "fused", "tier": "compile"}

GOALS = (
    Goal("R11", "ratio", 1 / 4, _R11),
    Goal("R11", "to_spikingjelly", 1 / 1.5, _R11),
    Goal("R11", "peak_share", 0.25, _R11),
    Goal("R11", "peak_to_spikingjelly", 0.40, _R11),
)


def gpu(
    configs: Mapping[str, SMixerConfig] | None = None,
    *,
    batch: int | None = None,
    rounds: int = 10,
    dtypes: Sequence[str] = ("fp32", "bf16"),
    compiled: bool = True,
    peers: bool = True,
) -> BenchResult:
    """Time, memory, kernel launches and bytes moved of a training step on the current CUDA device.

    All of one network, batch and dtype take turns with the naive twin in fp32 and are compared with it within a round,
    by the device's clock. What does not fit into the device's memory has no numbers; where a group does not fit while
    its members take turns, none of them has a time.

    Args:
        configs: networks by name, without pruning; those of `BATCHES` by default.
        batch: samples; None for the batches of `BATCHES`, and 64 for other networks.
        rounds: timed rounds, at least 2.
        dtypes: "fp32", and "bf16" for autocast.
        compiled: also run the tier under ``torch.compile``, which is compiled before anything is measured.
        peers: also run SpikingJelly's Spikformer-4-384 where it is installed, beside smixer-4-384.

    Returns:
        Rows with ``ratio`` to the naive twin in fp32 without pruning, its quartiles ``low`` and ``high``,
        ``to_spikingjelly`` (time, relative to its Spikformer in the same dtype), ``images_per_s``, ``peak_mib``,
        ``peak_share`` of the naive twin, ``peak_to_spikingjelly``, ``to_paper`` (peak, relative to the paper's),
        ``kernels``, and ``moved_mib`` per sample; None where there is no such number.

    Raises:
        SettingError: no CUDA device, or an unknown dtype.
    """
    if not torch.cuda.is_available():
        raise SettingError(
            "bench gpu: there is no CUDA device. Run it where torch.cuda.is_available() is true; the benchmarks memory "
            "and train_step need none."
        )
    configs = {name: CONFIGS[name] for name in BATCHES} if configs is None else configs
    plan = {name: (config, BATCHES.get(name, (64,)) if batch is None else (batch,)) for name, config in configs.items()}
    meter = CudaMeter(torch.device("cuda", torch.cuda.current_device()))
    return measured(plan, meter, How(rounds, tuple(dtypes), compiled, peers, batch))


@dataclass(frozen=True)
class How:
    """Settings of the benchmark, as in `gpu`."""

    rounds: int
    dtypes: tuple[str, ...]
    compiled: bool
    peers: bool
    batch: int | None = None

    def __post_init__(self) -> None:
        for dtype in self.dtypes:
            check_choice("bench gpu", "dtype", dtype, tuple(_AUTOCAST))


def measured(plan: Mapping[str, tuple[SMixerConfig, tuple[int, ...]]], meter: Meter, how: How) -> BenchResult:
    """The benchmark on any device that has a meter.

    Args:
        plan: networks and batches by name.
        meter: of the device.
        how: see `gpu`.
    """
    asked = [] if how.batch is None else [f"--batch {how.batch}"]
    tiers = ["eager", "compile"] if how.compiled else ["eager"]
    rows: list[dict[str, Value]] = []
    for name, (config, batches) in plan.items():
        for batch in batches:
            for dtype in how.dtypes:
                cases = _cases(_Net(name, config, batch, dtype), tiers, how, meter.device)
                rows += _rows([_Run(case, meter.device) for case in cases], meter, how)
    return BenchResult(
        "gpu",
        judged(rows, GOALS),
        " ".join(["smixer bench gpu", *plan, *asked, f"--rounds {how.rounds}"]),
        device=device_name(meter.device),
        notes=(
            "Ratio of the device's time to the naive twin in fp32 without pruning, median of the rounds, quartiles.",
            f"Forward and backward, {how.rounds} rounds, random weights. The peak is that of a step with AdamW.",
            "kernels: launched in one step. moved_mib: read and written per sample, besides convolutions and matrix "
            "products; not known of compiled code and of other packages' kernels.",
        ),
    )


@dataclass(frozen=True)
class _Net:
    name: str
    config: SMixerConfig
    batch: int
    dtype: str

    def key(self, pruning: str, way: str, tier: str, dtype: str | None = None) -> dict[str, Value]:
        """The cells that name a row."""
        names = "net", "batch", "pruning", "dtype", "variant", "tier"
        return dict(zip(names, (self.name, self.batch, pruning, dtype or self.dtype, way, tier), strict=True))


@dataclass(frozen=True, eq=False)
class _Case:
    key: Mapping[str, Value]
    make: Callable[[], nn.Module]
    x: Tensor
    samples: int


def _cases(net: _Net, tiers: Sequence[str], how: How, device: torch.device) -> Iterator[_Case]:
    """The naive twin in fp32 without pruning comes first, whatever the dtype of the others."""
    x, _ = noise(net.config, net.batch)
    x = x.to(device)
    for prune, text in PRUNINGS:
        model = network(replace(net.config, prune=prune))
        ways = [("naive", "eager"), ("snntorch_layers", "eager")]
        ways += [("snntorch_loop", "eager")] if prune is None else []  # shows one step at a time, so it cannot prune
        ways += [(way, tier) for tier in tiers for way in ("fused", "recompute")]
        if prune is None and net.dtype != "fp32":
            yield _Case(net.key(text, "naive", "eager", "fp32"), partial(variant, model, "naive"), x, net.batch)
        for way, tier in ways:
            yield _Case(net.key(text, way, tier), partial(variant, model, way), x, net.batch)
    if how.peers and net.name == "smixer-4-384":
        for way, peer, images in spikingjelly_peers(net.batch):
            yield _Case(net.key("none", way, "own"), partial(_itself, peer), images.to(device), net.batch)


def _itself(model: nn.Module) -> nn.Module:
    return model


class _Run:
    """One training step without optimizer of a case; on the device as long as it is asked to be."""

    def __init__(self, case: _Case, device: torch.device) -> None:
        self.case, self.device = case, device
        self.model = case.make().train()
        self.grad: Tensor | None = None

    @property
    def is_peer(self) -> bool:
        """Another package's network."""
        return self.case.key["tier"] == "own"

    def __call__(self) -> None:
        self.model.zero_grad(set_to_none=True)
        dtype, tier = _AUTOCAST[str(self.case.key["dtype"])], str(self.case.key["tier"])
        with use("auto" if self.is_peer else tier):
            with nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype):
                out = self.model(self.case.x)
            if self.grad is None:  # random: with equal ones the gradient of a sum is about zero behind BatchNorm
                draw = torch.Generator().manual_seed(1)
                self.grad = torch.randn(out.shape, generator=draw).to(out)
            out.backward(self.grad)

    def timed(self) -> None:
        """The step, whose gradients do not stay on the device while the others take their turns."""
        self()
        self.model.zero_grad(set_to_none=True)

    def costs(self, meter: Meter) -> dict[str, Value] | None:
        """Peak, launches and bytes moved, alone on the device; None where it does not fit, or a peer does not run."""
        self.model.to(self.device)
        try:
            peak = self._peak(meter)
            seen = self.case.key["tier"] == "eager"
            moved = moved_bytes(self) / MIB / self.case.samples if seen else None
            return {"peak_mib": peak / MIB, "kernels": meter.launches(self), "moved_mib": moved}
        except (RuntimeError, ImportError) as error:
            if not (self.is_peer or isinstance(error, torch.cuda.OutOfMemoryError)):
                raise
            return None
        finally:
            self.model.zero_grad(set_to_none=True)
            self.model.to("cpu")

    def _peak(self, meter: Meter) -> int:
        optimizer = torch.optim.AdamW(self.model.parameters())

        def step() -> None:
            self()
            optimizer.step()

        step()  # makes the optimizer's state, and compiles
        return meter.peak(step)


def _rows(runs: Sequence[_Run], meter: Meter, how: How) -> list[dict[str, Value]]:
    costs = [run.costs(meter) for run in runs]
    able = {str(at): run for at, (run, cost) in enumerate(zip(runs, costs, strict=True)) if cost is not None}
    timings = _timings(able, meter, how)
    rows = [_row(run.case, cost, timings.get(str(at))) for at, (run, cost) in enumerate(zip(runs, costs, strict=True))]
    base, peer = rows[0], next((row for row in rows if row["variant"] == _PEER), None)
    rows = [_compared(row, base, peer) for row in rows]
    return rows if base["dtype"] == rows[-1]["dtype"] else rows[1:]  # a row of the group in fp32


def _timings(runs: Mapping[str, _Run], meter: Meter, how: How) -> dict[str, Timing]:
    """Times of those that take turns; none where they do not fit onto the device together."""
    try:
        for run in runs.values():
            run.model.to(meter.device)
        calls = {name: run.timed for name, run in runs.items()}
        return paired(calls, rounds=how.rounds, warmup=2, clock=meter.clock)
    except torch.cuda.OutOfMemoryError:
        return {}
    finally:
        for run in runs.values():
            run.model.zero_grad(set_to_none=True)
            run.model.to("cpu")  # the next group needs the room


def _row(case: _Case, cost: Mapping[str, Value] | None, timing: Timing | None) -> dict[str, Value]:
    empty = dict.fromkeys(("peak_mib", "kernels", "moved_mib"))
    times: dict[str, Value] = dict.fromkeys(("ratio", "low", "high", "images_per_s"))
    if timing is not None:
        times = {"ratio": timing.ratio, "low": timing.low, "high": timing.high}
        times["images_per_s"] = case.samples / timing.seconds
    return {**case.key, **times, **(empty if cost is None else cost)}


def _compared(row: dict[str, Value], base: Mapping[str, Value], peer: Mapping[str, Value] | None) -> dict[str, Value]:
    """The row with its shares; ratios to a naive twin that did not run are none."""
    paper = PAPER_MB.get((row["net"], row["batch"], row["pruning"]))
    by_base = {} if base["ratio"] is not None else dict.fromkeys(("ratio", "low", "high"))
    return {
        **row,
        **by_base,
        "to_spikingjelly": None if peer is None else _share(peer["images_per_s"], row["images_per_s"]),
        "peak_share": _share(row["peak_mib"], base["peak_mib"]),
        "peak_to_spikingjelly": None if peer is None else _share(row["peak_mib"], peer["peak_mib"]),
        "to_paper": _share(row["peak_mib"], paper),
    }


def _share(value: Value, of: Value) -> float | None:
    return value / of if isinstance(value, (int, float)) and isinstance(of, (int, float)) and of else None
