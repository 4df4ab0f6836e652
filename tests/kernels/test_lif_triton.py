"""The Triton kernels without a GPU: they run under the interpreter, and they compile for devices that are not here."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from snntorch import surrogate

from snntorch_smixer.kernels.batch_norm import NormCall
from snntorch_smixer.kernels.fire import Firing
from snntorch_smixer.kernels.triton_tools import interpreted
from snntorch_smixer.surrogates import DERIVATIVES, Dspike, picklable

triton = pytest.importorskip("triton", reason="needs Triton")
from snntorch_smixer.kernels import bits_triton, fire_triton, launch_triton, norm_fire_triton  # noqa: E402

pytestmark = pytest.mark.skipif(interpreted(), reason="the interpreter is for the other files")

HERE = Path(__file__).parent
KERNELS = {
    launch_triton: ("forward_kernel", "backward_kernel", "finish_kernel"),
    norm_fire_triton: ("statistics_kernel", "merge_kernel"),
    bits_triton: ("pack_kernel", "unpack_kernel", "count_kernel"),
}
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.uint8: "*u8", torch.int64: "*i64"}
OPTIONS = ("enable_fp_fusion", "num_warps")


def test_the_twins_under_the_interpreter():
    """In a process of its own: Triton decides when it is imported, and would interpret whatever else compiles."""
    files = [str(HERE / f"test_{name}_triton.py") for name in ("bits", "fire", "norm_fire")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=HERE.parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    passed = re.search(r"(\d+) passed in", done.stdout.splitlines()[-1] + " in")
    summary = done.stdout.splitlines()[-1]
    assert passed is not None
    assert int(passed[1]) > 100
    assert "skipped" not in summary
    assert "deselected" not in summary


class Recorded:
    """Stands in for a kernel and notes what it would have been launched with."""

    def __init__(self, kernel: Any, launches: list[tuple[Any, dict[str, Any]]]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert len(grid) == 1
        assert 0 < grid[0] < 2**31

        def launch(*args: Any, **fixed: Any) -> None:
            assert "enable_fp_fusion" in fixed  # its default is about to change
            self.launches.append((self.kernel, {**dict(zip(self.kernel.arg_names, args, strict=False)), **fixed}))

        return launch

    @property
    def __name__(self) -> str:
        return self.kernel.__name__


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, dict[str, Any]]]:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # nothing from an earlier version of a kernel
    found: list[tuple[Any, dict[str, Any]]] = []
    for module, names in KERNELS.items():
        for name in names:
            monkeypatch.setattr(module, name, Recorded(getattr(module, name), found))
    return found


def compiled(kernel: Any, given: dict[str, Any], arch: int) -> str:
    """PTX of a launch for a device of compute capability ``arch``, assembled by Triton on the way."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, facts = {}, {}, {}
    for at, parameter in enumerate(kernel.params):
        value = given[parameter.name]
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name], facts[(at,)] = TYPES[value.dtype], [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i64" if value >= 2**31 else "i32"
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=facts)
    options = {name: given[name] for name in OPTIONS}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options).asm["ptx"]


def normed(shape: tuple[int, ...], dtype: torch.dtype, *, steps: int, by_batch: bool = True, shown: int = 1) -> None:
    """Both ways through BatchNorm and LIF, and bits; nothing is computed."""
    channels = shape[-3] if len(shape) == 4 else shape[-1]
    z, number = torch.zeros(steps, *shape, dtype=dtype), torch.tensor(0.5)
    weight, bias, mean, var = (torch.ones(channels) for _ in range(4))
    call, neuron = NormCall(mean, var, by_batch, 0.1, 1e-5), Firing(number, number, Dspike())
    spikes, bits, *kept = norm_fire_triton.norm_fire_forward(z, weight, bias, call, neuron, steps * shown)
    needs = (True, True, True, False, False)
    norm_fire_triton.norm_fire_backward(z, torch.zeros_like(spikes), (weight, bias, *kept), call, neuron, needs)
    bits_triton.unpack(bits_triton.pack(spikes), shape[-1])
    bits_triton.spike_count(bits, shape[-1], (-1,))


def test_every_kernel_compiles(launches: list[tuple[Any, dict[str, Any]]]):
    normed((2, 48, 32, 32), torch.bfloat16, steps=4)
    assert [kernel.__name__ for kernel, _ in launches] == [
        "statistics_kernel", "merge_kernel", "forward_kernel",
        "backward_kernel", "finish_kernel", "backward_kernel",
        "pack_kernel", "unpack_kernel", "count_kernel",
    ]  # fmt: skip
    for kernel, given in launches:
        assert ".entry" in compiled(kernel, given, 90)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_every_case_compiles(launches: list[tuple[Any, dict[str, Any]]], arch: int):
    for shape, dtype in (((2, 5, 7, 9), torch.bfloat16), ((8, 64, 96), torch.float32)):
        for steps, by_batch, shown in ((1, True, 1), (4, False, 1), (16, True, 1), (1, True, 4)):
            normed(shape, dtype, steps=steps, by_batch=by_batch, shown=shown)
    for kernel, given in launches:
        assert ".entry" in compiled(kernel, given, arch)


@pytest.mark.slow
@pytest.mark.parametrize("factory", sorted(DERIVATIVES))
def test_every_surrogate_compiles(launches: list[tuple[Any, dict[str, Any]]], factory: str):
    """Behind it, a neuron whose parameters are learned, one of them per channel."""
    spike_grad = picklable(getattr(surrogate, factory)())
    for reset, size in (("zero", ()), ("subtract", (24,)), ("none", (8, 1))):
        neuron = Firing(torch.full(size, 0.5), torch.tensor(0.9), spike_grad, reset)
        x = torch.zeros(2, 8, 24, dtype=torch.bfloat16)
        fire_triton.fire_forward(x, neuron)
        fire_triton.fire_backward(x, x, neuron, (True, True))
    for kernel, given in launches:
        assert ".entry" in compiled(kernel, given, 90)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_the_compiler_does_not_fuse_what_torch_rounds_twice(launches: list[tuple[Any, dict[str, Any]]], reset: str):
    """Else a spike here and there would differ from the CPU's; the interpreter, which never fuses, cannot show it."""
    neuron = Firing(torch.tensor(0.7), torch.tensor(0.9), Dspike(), reset)
    fire_triton.fire_forward(torch.zeros(3, 8, 96), neuron)
    ((kernel, given),) = launches
    code = compiled(kernel, given, 90)
    assert "fma.rn.f32" not in code
    assert "mul" in code
    assert "fma.rn.f32" in compiled(kernel, {**given, "enable_fp_fusion": True}, 90)


def test_long_tensors_take_wide_offsets(launches: list[tuple[Any, dict[str, Any]]]):
    """2**32 values, of which one is in memory."""
    x = torch.zeros(1, dtype=torch.bfloat16).expand(4, 2**14, 2**16)
    layout = launch_triton.Layout.of(x, None, 4)
    launch = launch_triton.Launch(x, Firing(torch.tensor(0.7), torch.tensor(0.9), Dspike()), None, 4, None, layout)
    launch._run(launch_triton.finish_kernel, 1, (x,), {})
    assert launches[0][1]["INDEX"] == triton.language.int64
    assert not launch_triton.Layout.of(x[:1], None, 1).is_wide
