"""Compiled functions agree with plain ones. Compiling takes seconds a time, so all but one of each kind are slow."""

import copy
import warnings

import pytest
import torch
from snntorch import surrogate

from snntorch_smixer.kernels import compiled
from snntorch_smixer.kernels import norm_fire as one_pass
from snntorch_smixer.kernels.batch_norm import NormCall, fold
from snntorch_smixer.kernels.compiled import Tiered, active, use
from snntorch_smixer.kernels.fire import Firing, fire
from snntorch_smixer.kernels.lif import RESETS, lif
from snntorch_smixer.kernels.norm_fire import norm_fire
from snntorch_smixer.surrogates import Dspike, picklable


@pytest.fixture(autouse=True)
def fresh_setting(monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr(compiled, "_setting", compiled._Setting())


@pytest.mark.filterwarnings("default::DeprecationWarning")
@pytest.mark.parametrize("reset", ["zero", *(pytest.param(reset, marks=pytest.mark.slow) for reset in RESETS[1:])])
def test_compiled_and_plain_agree(reset: str):
    torch.manual_seed(1)
    beta, threshold = (torch.rand(13).requires_grad_() for _ in range(2))
    for shape in ((4, 2, 5, 13), (4, 3, 7, 13), (2, 2, 5, 13)):
        x, weights = torch.randn(shape, requires_grad=True), torch.randn(shape)
        with use("compile"):
            spikes = fire(x, beta, threshold, Dspike(), reset=reset).values
            got = torch.autograd.grad((spikes * weights).sum(), (x, beta, threshold))
            assert active()["active"] == "compile"
        plain = lif(x, beta, threshold, Dspike(), reset=reset)
        assert torch.equal(spikes, plain)
        for a, b in zip(got, torch.autograd.grad((plain * weights).sum(), (x, beta, threshold)), strict=True):
            assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def both(z: torch.Tensor, norm: torch.nn.Module, neuron: Firing, steps: int | None) -> list[list[torch.Tensor]]:
    """Spikes, running statistics and gradients of `norm_fire`, compiled and plain."""
    results = []
    shape = z.shape if steps is None else (steps, *z.shape[1:])
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    learned = [p for p in (neuron.beta, neuron.threshold) if p.requires_grad]
    for impl in ("compile", "eager"):
        own = copy.deepcopy(norm)
        with use(impl):
            spikes = norm_fire(z, own, neuron, steps=steps).values
            grads = torch.autograd.grad((spikes * weights).sum(), (z, *own.parameters(), *learned))
        results.append([spikes, *own.buffers(), *grads])
    return results


@pytest.mark.filterwarnings("default::DeprecationWarning")
@pytest.mark.parametrize(
    ("shape", "steps", "reset", "learns"),
    [
        ((4, 16, 65, 131), None, "zero", False),
        pytest.param((4, 4, 37, 31, 17), None, "zero", False, marks=pytest.mark.slow),
        pytest.param((1, 4, 13, 15, 17), 4, "zero", False, marks=pytest.mark.slow),
        pytest.param((2, 3, 21, 7, 9), None, "subtract", True, marks=pytest.mark.slow),
        pytest.param((3, 3, 33, 21), None, "none", True, marks=pytest.mark.slow),
    ],
)
def test_compiled_norm_and_neuron_agree(shape: tuple[int, ...], steps: int | None, reset: str, learns: bool):
    is_map = len(shape) == 5
    channels = shape[2] if is_map else shape[-1]
    norm = (torch.nn.BatchNorm2d if is_map else torch.nn.BatchNorm1d)(channels)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    torch.nn.init.normal_(norm.bias, 0.3, 0.3)
    size = () if not learns else (channels, 1, 1) if is_map else (channels,)
    beta, threshold = torch.rand(size) * 0.6 + 0.3, torch.rand(size) * 0.5 + 0.7
    neuron = Firing(beta.requires_grad_(learns), threshold.requires_grad_(learns), Dspike(), reset)
    for batch in (shape[1], shape[1] + 1):  # another size is served by the same code
        z = (torch.randn(shape[0], batch, *shape[2:]) * 2 + 0.5).requires_grad_()
        got, wanted = both(z, norm, neuron, steps)
        assert active() == {"impl": "auto", "active": "eager", "why": active()["why"]}
        assert not compiled._setting.failures
        assert compiled._setting.failure is None
        assert 0.02 < wanted[0].mean() < 0.7
        for a, b in zip(got[:4], wanted[:4], strict=True):
            assert torch.equal(a, b)  # not one spike flips, and the statistics are the same bits
        for a, b in zip(got[4:], wanted[4:], strict=True):
            assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    assert one_pass.rounding() is not None


@pytest.mark.slow
@pytest.mark.filterwarnings("default::DeprecationWarning")
@pytest.mark.parametrize("shape", [(2, 4001, 131), (2, 16, 131, 250)])
def test_the_compiled_normalisation_is_torchs_bit_for_bit(shape: tuple[int, ...]):
    # A spike flips only where the last bit of a value next to the threshold differs, which spikes alone do not show.
    module = one_pass
    weight, bias = torch.rand(131) + 0.5, torch.randn(131)
    z, neuron = torch.randn(shape) * 3 + 1, Firing(torch.tensor(0.5), torch.tensor(0.6), Dspike())
    maps = z[..., None] if z.dim() == 4 else z
    mean, second = module.statistics(fold(maps), NormCall(None, None, True, 0.0, 1e-5))
    affine, _ = module._per_channel(maps, (mean, second, weight, bias), neuron)
    stacked = Tiered(lambda z, affine, steps, how: torch.stack(list(module._normalised(z, affine, steps, how))))
    wanted = torch.native_batch_norm(fold(maps), weight, bias, None, None, True, 0.0, 1e-5)[0].view(shape)
    with use("compile"):
        got = stacked(z, affine, 2, module.rounding())
    assert not compiled._setting.failures
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_what_the_compiled_norm_does_not_serve_takes_torchs_own(dtype: torch.dtype):
    z, neuron = torch.randn(2, 3, 5, 8), Firing(torch.tensor(0.5), torch.tensor(0.6), Dspike())
    weight = torch.ones(8)
    assert one_pass.fits_one_pass(z, weight, neuron)
    assert not one_pass.fits_one_pass(z.to(dtype), weight, neuron)
    assert not one_pass.fits_one_pass(z, weight.to(dtype), neuron)
    assert not one_pass.fits_one_pass(z.transpose(0, 1), weight, neuron)
    assert not one_pass.fits_one_pass(z, weight, Firing(torch.rand(5, 8), torch.tensor(0.6), Dspike()))
    assert not one_pass.fits_one_pass(z, weight, Firing(torch.tensor(0.5), torch.tensor(0.6), lambda v: v))


@pytest.mark.slow
@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_surrogates_of_snntorch_compile_side_by_side():
    x, beta, threshold = torch.randn(3, 4, 50, requires_grad=True), torch.tensor(0.7), torch.tensor(0.9)
    for made in (surrogate.atan(2.0), surrogate.atan(3.0), surrogate.fast_sigmoid(5), surrogate.triangular(2)):
        grads = []
        for impl in ("compile", "eager"):
            with use(impl):
                spikes = fire(x, beta, threshold, picklable(made)).values
                grads.append(torch.autograd.grad((spikes * torch.arange(50)).sum(), x)[0])
                assert not compiled._setting.failures
        assert grads[1].abs().max() > 0
        assert (grads[0] - grads[1]).abs().max() <= 1e-5 * grads[1].abs().max()


@pytest.mark.slow
@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_many_kinds_of_call_stay_compiled():
    beta, threshold = torch.tensor(0.7), torch.tensor(0.9)
    with use("compile"), torch.no_grad():
        for steps in range(1, 13):  # torch's own limit is 8 for one function
            x = torch.randn(steps, 5, 7)
            assert torch.equal(fire(x, beta, threshold, Dspike()).values, lif(x, beta, threshold, Dspike()))
        assert active() == {"impl": "compile", "active": "compile", "why": "asked for"}


@pytest.mark.slow
@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_torchs_limit_is_not_met_in_silence(monkeypatch):
    torch.compiler.reset()

    def of_rank(x: torch.Tensor, numbers: list[float]) -> torch.Tensor:
        return x * len(numbers)

    monkeypatch.setattr(compiled, "_kind", lambda _: "one kind for all")
    function = Tiered(of_rank)
    with use("compile"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for length in range(1, 12):
            assert function(torch.ones(3), [1.0] * length).tolist() == [length] * 3
        assert "of_rank runs in plain torch: FailOnRecompileLimitHit" in active()["why"]
    assert len([w for w in caught if "does not take this call of of_rank" in str(w.message)]) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_without_a_compiler_one_warning_and_the_same_spikes(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    from snntorch_smixer.kernels import fire as module

    torch._dynamo.reset()
    monkeypatch.setattr(module, "_spikes", Tiered(module._spikes.function, module._spikes.traced))
    x = torch.randn(3, 4, 6)
    missing = torch._inductor.config.patch({"cpp.cxx": (str(tmp_path / "none"),)})  # puts it back, unlike monkeypatch
    with missing, use("compile"), pytest.warns(RuntimeWarning, match="plain torch runs instead"):
        spikes = fire(x, torch.tensor(0.5), torch.tensor(1.0), Dspike()).values
    assert torch.equal(spikes, lif(x, torch.tensor(0.5), torch.tensor(1.0), Dspike()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(4, 16, 65, 131), (4, 4, 37, 31, 17)])
def test_what_auto_compiles_on_cuda_fires_the_same_spikes(shape: tuple[int, ...]):
    is_map = len(shape) == 5
    norm = (torch.nn.BatchNorm2d if is_map else torch.nn.BatchNorm1d)(shape[2] if is_map else shape[-1]).cuda()
    neuron = Firing(torch.tensor(0.5, device="cuda"), torch.tensor(0.6, device="cuda"), Dspike())
    z, results = torch.randn(shape, device="cuda", requires_grad=True), []
    for impl in ("auto", "eager"):
        with use(impl):
            spikes = norm_fire(z, copy.deepcopy(norm), neuron)
            grad = torch.autograd.grad((spikes.values * z.detach()).sum(), z)[0]
            results.append((spikes.values, spikes.bits, grad))
            assert active()["active"] == ("compile" if impl == "auto" else "eager")
    assert compiled._setting.failure is None
    assert not compiled._setting.failures
    (got, bits, by_z), (wanted, wanted_bits, wanted_by_z) = results
    assert torch.equal(got, wanted)
    assert torch.equal(bits, wanted_bits)
    assert (by_z - wanted_by_z).abs().max() <= 1e-5 * wanted_by_z.abs().max()
