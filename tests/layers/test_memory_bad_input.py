"""Bad input to layers in every memory mode: plain torch's own result, or an error; never a wrong number."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import LayoutError, SMixerError
from snntorch_smixer.kernels.spikes import Spikes
from snntorch_smixer.layers.memory import MODES, chain, set_memory
from snntorch_smixer.layers.mixer import SpikingTokenMixer
from snntorch_smixer.layers.mlp import SpikingMLP
from snntorch_smixer.layers.stem import SpikingPatchSplitting
from snntorch_smixer.neurons import LIF, IntegerLIF
from tests.layers.test_memory_compare import LEAN, SHARE, ran

LAYERS = {
    "mixer": lambda **kw: (SpikingTokenMixer(16, num_tokens=8, heads=2, **kw), torch.randn(2, 3, 8, 16)),
    "mlp": lambda **kw: (SpikingMLP(16, **kw), torch.randn(2, 3, 8, 16)),
    "stem": lambda **kw: (SpikingPatchSplitting(3, 16, strides=(1, 1, 1, 1, 1), **kw), torch.randn(2, 3, 3, 8, 8)),
}

WITHOUT_A_COMPILER = """
import copy, os, sys, warnings
import torch
from snntorch_smixer import SMixerConfig, SMixerNet, set_memory
from snntorch_smixer.kernels.compiled import active, use

torch.manual_seed(0)
net, x = SMixerNet(SMixerConfig((8, 8), 2, 5, 2, dim=8, depth=1, heads=2, threshold=0.3)), torch.randn(2, 3, 2, 8, 8)
weights = torch.randn(3, 5)  # other ones for each sample: the gradient of a plain sum is about zero behind BatchNorm
found = {}
for mode, impl in (("reference", "eager"), ("fused", "compile"), ("recompute", "compile")):
    twin = copy.deepcopy(net)
    set_memory(twin, mode)
    with warnings.catch_warnings(record=True) as caught, use(impl):
        warnings.simplefilter("always")
        out = twin(x)
        (out * weights).sum().backward()
        now = active()
    warned = [str(w.message) for w in caught if "snntorch_smixer" in str(w.message) or "plain torch" in str(w.message)]
    found[mode] = out, [p.grad for p in twin.parameters()], warned, now
want = found["reference"]
assert want[0].any() and all(g.any() for g in want[1])
for mode in ("fused", "recompute"):
    out, grads, warned, now = found[mode]
    assert torch.equal(out, want[0]), mode
    assert all((a - b).norm() <= 1e-5 * b.norm() for a, b in zip(grads, want[1])), mode
    assert now["active"] == "eager" and "torch.compile failed" in now["why"], now
    assert len(warned) == (mode == "fused"), warned  # once for the process
    assert all("TORCHINDUCTOR_CACHE_DIR" in text and "C++ compiler" in text for text in warned)
print("same")
"""


def alone(source: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own; a variable that is set to nothing is taken away."""
    wanted = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    wanted = {name: value for name, value in wanted.items() if value}
    return subprocess.run([sys.executable, "-c", source], env=wanted, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_no_compiler(tmp_path: Path):
    (tmp_path / "bin").mkdir()
    found = alone(WITHOUT_A_COMPILER, PATH=str(tmp_path / "bin"), CXX="", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "c"))
    assert (found.returncode, found.stdout) == (0, "same\n"), found.stderr


@pytest.mark.slow
def test_a_cache_folder_that_cannot_be_written(tmp_path: Path):
    # Under a file no folder can be made, not even by root, whom permissions do not stop.
    (tmp_path / "file").touch()
    found = alone(WITHOUT_A_COMPILER, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "file" / "cache"))
    assert (found.returncode, found.stdout) == (0, "same\n"), found.stderr


@pytest.mark.slow
def test_a_cache_folder_without_the_right_to_write(tmp_path: Path):
    if os.geteuid() == 0:
        pytest.skip("permissions do not stop root")
    (tmp_path / "cache").mkdir(mode=0o500)
    found = alone(WITHOUT_A_COMPILER, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    assert (found.returncode, found.stdout) == (0, "same\n"), found.stderr


def outcome(layer: nn.Module, mode: str, x: Tensor) -> tuple[str, Tensor | None, Tensor | None]:
    """What became of one pass: "ran" with result and gradient of the input, or the kind of error."""
    layer, x = copy.deepcopy(layer), x.clone()
    set_memory(layer, mode)
    if x.is_floating_point():
        x.requires_grad_()
    try:
        out = layer(x)
        if out.requires_grad:
            torch.manual_seed(0)
            (out.double() * torch.randn(out.shape)).sum().backward()
    except (RuntimeError, SMixerError, NotImplementedError):
        return "error", None, None
    return "ran", out.detach(), x.grad


def assert_same_outcome(layer: nn.Module, x: Tensor) -> str:
    """The lean modes end as plain torch does: same numbers (NaN where it has NaN), or an error as well."""
    how, out, grad = outcome(layer, "reference", x)
    for mode in LEAN:
        got = outcome(layer, mode, x)
        assert got[0] == how, (mode, got[0])
        assert_near(got[1], out, tol=0.0)
        assert_near(got[2], grad, tol=1e-5)
    return how


def assert_near(one: Tensor | None, other: Tensor | None, *, tol: float) -> None:
    assert (one is None) == (other is None)
    if one is None or other is None:
        return
    assert one.dtype == other.dtype
    assert torch.equal(one.isnan(), other.isnan())
    if tol == 0:
        assert torch.equal(one.nan_to_num(), other.nan_to_num())
    else:
        error, size = (one - other).nan_to_num().abs().max(), other.nan_to_num(0, 0, 0).abs().max()
        assert error <= tol * size


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38])
@pytest.mark.parametrize("kind", LAYERS)
def test_values_that_are_no_numbers(kind: str, value: float, training: bool):
    layer, x = LAYERS[kind]()
    x[0, 1, 0, 0] = value
    assert assert_same_outcome(layer.train(training), x) == "ran"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
@pytest.mark.parametrize("make", [lambda how: LIF(0.8, threshold=0.3, reset_mechanism=how), lambda how: IntegerLIF()])
def test_values_that_are_no_numbers_in_a_neuron(make, reset: str, value: float):
    x = torch.randn(4, 3, 10)
    x[1, :, ::3] = value
    assert assert_same_outcome(make(reset), x) == "ran"


def test_weights_that_are_no_numbers():
    layer, x = LAYERS["mlp"]()
    with torch.no_grad():
        layer.expand.linear.weight[2, 3] = torch.nan
    assert assert_same_outcome(layer, x) == "ran"


UNFIT = (torch.complex64, torch.float8_e4m3fn)
DTYPES = [torch.float64, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LAYERS)
def test_other_dtypes(kind: str, dtype: torch.dtype):
    layer, x = LAYERS[kind]()
    assert_same_outcome(layer, x.abs().to(dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_and_input_of_another_dtype(kind: str, dtype: torch.dtype):
    layer, x = LAYERS[kind]()
    assert assert_same_outcome(layer.to(dtype), x.to(dtype)) == "ran"


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize("make", [LIF, IntegerLIF])
def test_dtypes_of_a_neuron(make, dtype: torch.dtype):
    neuron, x = make(), (2 * torch.rand(4, 3, 10)).to(dtype)
    if dtype not in UNFIT:
        assert assert_same_outcome(neuron, x) == "ran"
        return
    for mode in MODES:
        neuron.memory = mode
        with pytest.raises(LayoutError) as caught:
            neuron(x)
        assert str(caught.value) == (
            f"{make.__name__}: expected real numbers of 16 bits or more, or integers, got {dtype}; convert them, "
            "x.float()"
        )


class Graded:
    """Spikes of two sizes, from a surrogate that says nothing about itself."""

    def __call__(self, v: Tensor) -> Tensor:
        return (v > 0).to(v.dtype) + (v > 0.4).to(v.dtype)


class Claims(Graded):
    """Says that its spikes are ``v >= 0``, and they are not."""

    at_threshold = True

    def derivative(self, v: Tensor) -> Tensor:
        return torch.ones_like(v)


@pytest.mark.parametrize("kind", LAYERS)
def test_spikes_that_are_not_binary_take_the_plain_path(kind: str):
    layer, x = LAYERS[kind](neuron=lambda: LIF(threshold=0.2, spike_grad=Graded()))
    assert assert_same_outcome(layer, x) == "ran"


@pytest.mark.parametrize("mode", LEAN)
@pytest.mark.parametrize("kind", LAYERS)
def test_spikes_that_only_claim_to_be_binary_are_detected(kind: str, mode: str):
    layer, x = LAYERS[kind](neuron=lambda: LIF(threshold=0.2, spike_grad=Claims()))
    before = {name: value.clone() for name, value in layer.state_dict().items() if "norm" not in name}
    set_memory(layer, mode)
    with pytest.raises(LayoutError, match="expected binary spikes, got the value 2 in shape"):
        layer(x)
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("value", [2.0, 0.5, -1.0, float("nan"), float("inf")])
def test_values_that_are_no_spikes_do_not_become_bits(value: float):
    x = (torch.rand(2, 3, 8, 16) < 0.3).float()
    layer = LAYERS["mlp"]()[0]
    with torch.no_grad():
        chain(layer, (layer.expand,), Spikes.of(x))
    x[1, 2, 3, 4] = value
    with pytest.raises(LayoutError, match="expected binary spikes, got the value"):
        chain(layer, (layer.expand,), Spikes.of(x))


def test_this_file_looks_at_lean_layers():
    for kind, make in LAYERS.items():
        layer, x = make()
        plain = ran(layer, "reference", x).saved
        for mode in LEAN:
            assert ran(layer, mode, x).saved < (SHARE[mode] + 0.2) * plain, (kind, mode)
