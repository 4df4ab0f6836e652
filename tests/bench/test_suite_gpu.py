"""The benchmark of a CUDA device, run on the CPU by a meter of its own; and the CUDA meter against a device made up."""

import functools
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

from snntorch_smixer.bench import suite_gpu
from snntorch_smixer.bench.meter import CudaMeter, launch_calls, moved_bytes
from snntorch_smixer.bench.pairs import paired
from snntorch_smixer.bench.peak import Ledger
from snntorch_smixer.bench.result import BenchResult
from snntorch_smixer.bench.suite_gpu import How, gpu, measured
from snntorch_smixer.errors import SettingError
from snntorch_smixer.models.config import SMixerConfig

IMAGES = SMixerConfig((16, 16), 3, 5, 2, dim=16, depth=1, heads=2)
QUICK = How(2, ("fp32",), compiled=False, peers=False)
NAIVE = "naive none eager"


class HostMeter:
    """The CPU, whose clock ticks once per reading, so that every step takes one second."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.ticks = count()
        self.full: Callable[[object], bool] = lambda step: False

    def clock(self) -> float:
        return float(next(self.ticks))

    def peak(self, step: Callable[[], object]) -> int:
        with Ledger() as ledger:
            step()
        return ledger.peak()

    def launches(self, step: Callable[[], object]) -> int:
        if self.full(step):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        step()
        return 7


@functools.cache
def measured_tiny() -> BenchResult:
    return measured({"tiny": (IMAGES, (4,))}, HostMeter(), QUICK)


def by_name(result: BenchResult) -> dict[str, dict[str, object]]:
    return {f"{r['variant']} {r['pruning']} {r['tier']}": dict(r) for r in result.rows}


def test_each_case_has_a_row_with_every_number():
    result = measured_tiny()
    rows = by_name(result)
    ways = ("naive", "snntorch_layers", "snntorch_loop", "fused", "recompute")
    assert list(rows) == [
        *(f"{way} none eager" for way in ways),
        *(f"{way} ps=0.3 t=1 eager" for way in ways if way != "snntorch_loop"),
    ]
    for row in rows.values():
        assert (row["ratio"], row["images_per_s"], row["kernels"]) == (1.0, 4.0, 7)
        assert row["peak_share"] == row["peak_mib"] / rows[NAIVE]["peak_mib"]
        assert row["to_paper"] is row["to_spikingjelly"] is row["peak_to_spikingjelly"] is None
    assert rows["fused none eager"]["moved_mib"] < rows[NAIVE]["moved_mib"]
    assert rows["naive ps=0.3 t=1 eager"]["moved_mib"] < rows[NAIVE]["moved_mib"]
    assert rows[NAIVE]["peak_mib"] > rows["recompute ps=0.3 t=1 eager"]["peak_mib"] > 0
    assert result.command == "smixer bench gpu tiny --rounds 2"
    given = measured({"tiny": (IMAGES, (4,))}, HostMeter(), replace(QUICK, batch=4))
    assert given.command == "smixer bench gpu tiny --batch 4 --rounds 2"


def test_half_precision_is_compared_with_the_naive_twin_in_single(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[object, bool]] = []

    class Watched(suite_gpu._Run):
        def __call__(self) -> None:
            seen.append((self.case.key["dtype"], self.model.training))
            super().__call__()

    monkeypatch.setattr(suite_gpu, "_Run", Watched)
    result = measured({"tiny": (IMAGES, (4,))}, HostMeter(), replace(QUICK, dtypes=("bf16",)))
    assert {row["dtype"] for row in result.rows} == {"bf16"}
    assert result.rows[0]["variant"] == "naive"
    assert 0 < result.rows[0]["peak_share"] < 1
    assert ("fp32", True) in seen


def test_what_does_not_fit_has_no_numbers():
    meter = HostMeter()
    meter.full = lambda step: step.case.key["variant"] == "snntorch_loop"
    rows = by_name(measured({"tiny": (IMAGES, (4,))}, meter, QUICK))
    lost = rows["snntorch_loop none eager"]
    assert [lost[key] for key in ("ratio", "images_per_s", "peak_mib", "peak_share", "kernels")] == [None] * 5
    assert rows["fused none eager"]["ratio"] == 1.0
    meter.full = lambda step: step.case.key["variant"] == "naive"
    rows = by_name(measured({"tiny": (IMAGES, (4,))}, meter, QUICK))
    assert rows["fused none eager"]["images_per_s"] == 4.0
    assert rows["fused none eager"]["ratio"] is rows["fused none eager"]["peak_share"] is None


def test_a_group_that_does_not_fit_while_it_takes_turns_has_no_times(monkeypatch: pytest.MonkeyPatch):
    groups = count()

    def full(calls, **settings):
        if next(groups) == 1:
            next(iter(calls.values()))()
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return paired(calls, **settings)

    monkeypatch.setattr(suite_gpu, "paired", full)
    result = measured({"tiny": (IMAGES, (4, 2, 3))}, HostMeter(), QUICK)
    times = {(row["batch"], row["ratio"], row["low"], row["images_per_s"]) for row in result.rows}
    assert times == {(4, 1.0, 1.0, 4.0), (2, None, None, None), (3, 1.0, 1.0, 3.0)}
    assert all(row["peak_mib"] > 0 and row["peak_share"] > 0 for row in result.rows)


def test_gradients_do_not_stay_while_others_take_their_turns(monkeypatch: pytest.MonkeyPatch):
    left: list[bool] = []

    def watched(calls, **settings):
        for call in calls.values():
            call()
            left.extend(p.grad is not None for run in calls.values() for p in run.__self__.model.parameters())
        return paired(calls, **settings)

    monkeypatch.setattr(suite_gpu, "paired", watched)
    measured({"tiny": (IMAGES, (4,))}, HostMeter(), QUICK)
    assert left
    assert not any(left)


class Peer(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))


def test_the_paper_and_the_peers(monkeypatch: pytest.MonkeyPatch):
    images = torch.randn(4, 3, 16, 16)
    found = [("spikformer_cifar10", Peer(), images), ("spikformer_cifar10 memopt", nn.Linear(9, 9), images)]
    monkeypatch.setattr(suite_gpu, "spikingjelly_peers", lambda batch: found)
    paper = {("smixer-4-384", 4, "none"): 50.0, ("smixer-4-384", 4, "ps=0.3 t=1"): 20.0}
    monkeypatch.setattr(suite_gpu, "PAPER_MB", paper)
    result = measured({"smixer-4-384": (IMAGES, (4,))}, HostMeter(), replace(QUICK, peers=True))
    rows = by_name(result)
    peer, broken, fused = (
        rows[name] for name in ("spikformer_cifar10 none own", "spikformer_cifar10 memopt none own", "fused none eager")
    )
    assert fused["to_paper"] == fused["peak_mib"] / 50
    assert rows["fused ps=0.3 t=1 eager"]["to_paper"] == rows["fused ps=0.3 t=1 eager"]["peak_mib"] / 20
    assert fused["to_spikingjelly"] == 1.0
    assert fused["peak_to_spikingjelly"] == fused["peak_mib"] / peer["peak_mib"]
    assert peer["moved_mib"] is None
    assert broken["peak_mib"] is broken["ratio"] is None  # it does not take these images


def test_what_is_wrong_with_our_own_networks_is_not_swallowed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(suite_gpu, "variant", lambda net, way: nn.Linear(9, 9))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        measured({"tiny": (IMAGES, (4,))}, HostMeter(), QUICK)


def test_the_goals_are_about_rows_that_the_benchmark_gives():
    keys = {"net", "pruning", "dtype", "variant", "tier"}
    rows = measured_tiny().rows
    for goal in suite_gpu.GOALS:
        assert goal.name == "R11"
        assert set(goal.where) == keys
        assert {*keys, goal.key} <= set(rows[0])
    row = {**dict.fromkeys(rows[0]), **suite_gpu._R11, "ratio": 0.2, "peak_share": 0.3}
    assert (
        suite_gpu.judged([row], suite_gpu.GOALS)[0]["goals"]
        == "R11 ratio 0.2 <= 0.25 met; R11 peak_share 0.3 <= 0.25 MISSED"
    )


def test_the_plan(monkeypatch: pytest.MonkeyPatch):
    plans: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(suite_gpu, "measured", lambda plan, meter, how: plans.append((plan, meter.device, how)))
    gpu()
    gpu({"tiny": IMAGES}, dtypes=("bf16",))
    gpu({"smixer-4-384": IMAGES}, batch=8, rounds=3, compiled=False, peers=False)
    sizes = [{name: batches for name, (_, batches) in plan.items()} for plan, _, _ in plans]
    assert sizes == [{"smixer-4-384": (64, 512), "smixer-8-768": (128,)}, {"tiny": (64,)}, {"smixer-4-384": (8,)}]
    assert plans[0][1] == torch.device("cuda", 0)
    assert plans[2][2] == How(3, ("fp32", "bf16"), compiled=False, peers=False, batch=8)
    with pytest.raises(SettingError, match="dtype='fp64' is unknown"):
        gpu(dtypes=("fp64",))


def test_without_a_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError) as caught:
        gpu()
    assert str(caught.value) == (
        "bench gpu: there is no CUDA device. Run it where torch.cuda.is_available() is true; the benchmarks memory and "
        "train_step need none."
    )


class Event:
    """A CUDA event of a device on which 250 ms pass between two events."""

    made = count()

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = 250 * next(Event.made)

    def synchronize(self) -> None:
        assert self.at is not None

    def elapsed_time(self, end: "Event") -> float:
        return float(end.at - self.at)


def test_the_clock_of_a_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    meter = CudaMeter(torch.device("cuda", 0))
    assert [meter.clock() for _ in range(3)] == [0.0, 0.25, 0.5]


def test_the_peak_of_a_device(monkeypatch: pytest.MonkeyPatch):
    log: list[str] = []
    for name in ("synchronize", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: log.append(name) or 42)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: log.append("empty_cache"))
    assert CudaMeter(torch.device("cuda", 0)).peak(lambda: log.append("step")) == 42
    assert log == [
        "synchronize", "empty_cache", "reset_peak_memory_stats", "step", "synchronize", "max_memory_allocated",
    ]  # fmt: skip


def test_launches_by_the_profiler(monkeypatch: pytest.MonkeyPatch):
    names = (
        "cudaLaunchKernel", "aten::add", "cuLaunchKernelEx", "cudaMemcpyAsync", "cudaLaunchKernelExC", "cuLaunchKernel",
        "void at::native::vectorized_elementwise_kernel", "cudaDeviceSynchronize", "cudaLaunchCooperativeKernel",
    )  # fmt: skip
    assert launch_calls(names) == 5
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.profiler, "profile", Profile)
    Profile.names.clear()
    assert CudaMeter(torch.device("cuda", 0)).launches(lambda: Profile.names.extend(names)) == 5


class Profile:
    """A profiler that has seen what a step has said it launched."""

    names: ClassVar[list[str]] = []

    def __init__(self, activities: list[torch.profiler.ProfilerActivity]) -> None:
        assert torch.profiler.ProfilerActivity.CUDA in activities

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None: ...

    def events(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in self.names]


def test_moved_bytes_by_hand():
    x, y = torch.zeros(10), torch.zeros(10, 4)
    assert moved_bytes(lambda: x + 1) == 2 * 40
    assert moved_bytes(lambda: y.t().flatten()) == 2 * 160  # a view, and a copy
    assert moved_bytes(lambda: y.t() @ y) == 0
    assert moved_bytes(lambda: torch.empty(5)) == moved_bytes(lambda: None) == 0
    assert moved_bytes(lambda: x.sum().item()) == 40 + 4 + 4
