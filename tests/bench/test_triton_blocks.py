"""The sweep over block sizes, with kernels that are not run."""

import importlib.util
from itertools import count
from pathlib import Path

import pytest
import torch

from snntorch_smixer.kernels import triton_tools

pytest.importorskip("triton", reason="needs Triton")
SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "triton_blocks.py"


class Kernel:
    def __getitem__(self, grid: tuple[int, ...]) -> "Kernel":
        return self


def test_every_choice_is_timed_and_taken(monkeypatch: pytest.MonkeyPatch):
    spec = importlib.util.spec_from_file_location("triton_blocks", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    warps: list[int] = []
    for module, names in (
        ("launch_triton", ("forward_kernel", "backward_kernel", "finish_kernel")),
        ("norm_fire_triton", ("statistics_kernel", "merge_kernel")),
    ):
        for name in names:
            kernel = Kernel()
            kernel.__name__ = name
            monkeypatch.setattr(f"snntorch_smixer.kernels.{module}.{name}", kernel)
    monkeypatch.setattr(
        Kernel, "__call__", lambda self, *args, num_warps, **fixed: warps.append(num_warps), raising=False
    )
    ticks = count()
    for shape in ((2, 3, 4, 5, 6), (2, 3, 4, 5)):
        warps.clear()
        run = script.step(shape, torch.float32, "cpu")
        found = script.sweep(run, script.CHOICES, rounds=2, clock=lambda: float(next(ticks)))
        assert list(found) == list(script.CHOICES)
        assert script.CHOICES[0] == triton_tools.Blocks()
        assert len(warps) == 6 * (1 + 4 * len(script.CHOICES))
        assert warps.count(8) == 6 * 4 * 2
        # x, and z, grad and by_z twice or once, and spikes: the smallest tensors besides are small indeed.
        assert {ratio for _, ratio, _ in found.values()} == {1.0}
        values = torch.Size(shape).numel() * 4
        assert all(rate > 7 * values for _, _, rate in found.values())
