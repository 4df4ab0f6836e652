"""The Triton twin of `norm_fire` against torch's BatchNorm and the plain `lif`, both on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from snntorch_smixer.kernels.batch_norm import NormCall, fold, renormalise
from snntorch_smixer.kernels.bits import pack
from snntorch_smixer.kernels.fire import Firing
from snntorch_smixer.kernels.lif import RESETS, lif
from snntorch_smixer.surrogates import Dspike
from tests.kernels.on_triton import DEVICE, WHERE, error, rounding_to_bfloat16, there

pytest.importorskip("triton", reason="needs Triton")
from snntorch_smixer.kernels import launch_triton
from snntorch_smixer.kernels import norm_fire_triton as twin

pytestmark = WHERE

TOKENS, MAPS = (2, 2, 11), (2, 3, 2, 9)  # B, N, C and B, C, H, W: nothing a multiple of 8
MOMENTUM, EPS = 0.3, 1e-5
Parameters = dict[str, Tensor | None]


@pytest.fixture(autouse=True)
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    rounding_to_bfloat16(monkeypatch)


def make(shape: tuple[int, ...], *, affine: bool = True, learn: bool = False) -> Parameters:
    """Parameters that make a fair share of the neurons fire; beta and threshold vary over the channels if learned."""
    channels = shape[-3] if len(shape) == 4 else shape[-1]
    size = () if not learn else (channels, 1, 1) if len(shape) == 4 else (channels,)
    return {
        "weight": torch.rand(channels) + 0.5 if affine else None,
        "bias": torch.randn(channels) * 0.3 + 0.3 if affine else None,
        "beta": torch.rand(size) * 0.6 + 0.3,
        "threshold": torch.rand(size) * 0.5 + 0.4,
        "running_mean": torch.randn(channels) * 0.3 + 0.4,
        "running_var": torch.rand(channels) * 3 + 2,
    }


def currents(steps: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(steps, *shape) * 2 + 0.5).to(dtype)


def check(
    z: Tensor, p: Parameters, *, by_batch: bool = True, reset: str = "zero", steps: int | None = None,
    tolerance: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Statistics, spikes, bits and the five gradients; returns the spikes."""
    steps = z.shape[0] if steps is None else steps
    names = ("weight", "bias", "beta", "threshold")
    leaves = [z.detach().requires_grad_(), *(None if p[n] is None else p[n].clone().requires_grad_() for n in names)]
    running = [p[n].clone() for n in ("running_mean", "running_var")]
    y = F.batch_norm(fold(leaves[0]), *running, leaves[1], leaves[2], by_batch, MOMENTUM, EPS).view(z.shape)
    wanted = lif(y.expand(steps, *z.shape[1:]), leaves[3], leaves[4], Dspike(), reset=reset)
    upstream = torch.randn(wanted.shape).to(wanted.dtype)
    grads = torch.autograd.grad(wanted, [t for t in leaves if t is not None], upstream, allow_unused=True)

    mine, weight, bias, beta, threshold = there(z, *(p[n] for n in names))
    call = NormCall(*there(p["running_mean"], p["running_var"]), by_batch, MOMENTUM, EPS)
    neuron = Firing(beta, threshold, Dspike(), reset)
    assert twin.serves(mine, call, neuron)
    spikes, bits, first, second = twin.norm_fire_forward(mine, weight, bias, call, neuron, steps)
    assert spikes.dtype == wanted.dtype
    assert 0.05 < wanted.float().mean() < 0.7
    assert torch.equal(spikes.cpu(), wanted)
    assert torch.equal(bits.cpu(), pack(wanted))
    assert error(call.running_mean, running[0]) <= 1e-6
    assert error(call.running_var, running[1]) <= 1e-6
    exact_spikes(z, p, call, (first, second), spikes, reset)

    needs = (True, weight is not None, bias is not None, True, True)
    kept = weight, bias, first, second
    got = twin.norm_fire_backward(mine, there(upstream)[0], kept, call, neuron, needs)
    assert [g is not None for g in got] == list(needs)
    for mine_grad, plain in zip([g for g in got if g is not None], grads, strict=True):
        plain = torch.zeros_like(mine_grad, device="cpu") if plain is None else plain  # beta, at one step
        assert (mine_grad.shape, mine_grad.dtype) == (plain.shape, plain.dtype)
        assert error(mine_grad, plain) <= tolerance
    return spikes


def exact_spikes(
    z: Tensor, p: Parameters, call: NormCall, kept: tuple[Tensor, Tensor], spikes: Tensor, reset: str
) -> None:
    """Given the same statistics not one spike differs, whatever the seed."""
    here = NormCall(None, None, call.by_batch, MOMENTUM, EPS)
    y = renormalise(fold(z.contiguous()), p["weight"], p["bias"], here, (kept[0].cpu(), kept[1].cpu()))
    shown = y.view(z.shape).expand(spikes.shape)
    assert torch.equal(lif(shown, p["beta"], p["threshold"], Dspike(), reset=reset), spikes.cpu())


@pytest.mark.parametrize("by_batch", [True, False])
@pytest.mark.parametrize("shape", [TOKENS, MAPS])
@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_it_is_norm_and_lif(steps: int, shape: tuple[int, ...], by_batch: bool):
    check(currents(steps, shape), make(shape), by_batch=by_batch)


@pytest.mark.parametrize("by_batch", [True, False])
@pytest.mark.parametrize("shape", [TOKENS, MAPS])
@pytest.mark.parametrize("reset", RESETS)
def test_resets_and_learned_parameters_per_channel(reset: str, shape: tuple[int, ...], by_batch: bool):
    check(currents(3, shape), make(shape, learn=True), by_batch=by_batch, reset=reset)


@pytest.mark.parametrize("shape", [TOKENS, MAPS])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input(dtype: torch.dtype, shape: tuple[int, ...]):
    check(currents(2, shape, dtype), make(shape))
    check(currents(2, shape, dtype), make(shape), by_batch=False)


@pytest.mark.parametrize("by_batch", [True, False])
@pytest.mark.parametrize("shape", [TOKENS, MAPS])
def test_a_static_input_is_normalised_once(shape: tuple[int, ...], by_batch: bool):
    check(currents(1, shape), make(shape, affine=False), by_batch=by_batch, steps=4)


@pytest.mark.parametrize("shape", [TOKENS, MAPS])
def test_strided_input_and_gradient(shape: tuple[int, ...]):
    wide = currents(2, (*shape[:-1], 2 * shape[-1]))
    check(wide[..., ::2], make(shape))
    check(wide[..., ::2].transpose(0, 1), make((2, *shape[1:])))
    p = make(shape)
    z, weight, bias, beta, threshold = there(currents(2, shape), p["weight"], p["bias"], p["beta"], p["threshold"])
    call = NormCall(None, None, True, MOMENTUM, EPS)
    neuron = Firing(beta, threshold, Dspike())
    spikes, _, *kept = twin.norm_fire_forward(z, weight, bias, call, neuron, 2)
    grad = torch.randn(1, device=DEVICE).expand(spikes.shape)  # as sum().backward() hands it over
    both = [
        twin.norm_fire_backward(z, g, (weight, bias, *kept), call, neuron, (True,) * 5)
        for g in (grad, grad.contiguous())
    ]
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))
    assert both[0][0].abs().max() > 0


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 2, 3, 5), (4, 6, 1, 1)])
def test_many_tiles_pieces_and_edges(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]):
    is_map = len(shape) == 4 and shape[-1] > 1
    for module in (launch_triton, twin):
        monkeypatch.setattr(module, "tile", lambda layout, steps: (4, 1) if is_map else (4, 2))
        monkeypatch.setattr(module, "chunks", lambda layout, block: (-(-layout.per_channel // 8), 2))
    monkeypatch.setattr(launch_triton, "row_block", lambda last: (2, 8))
    check(currents(2, shape), make(shape, learn=True))
    monkeypatch.setattr("snntorch_smixer.kernels.triton_tools.needs_wide", lambda values: True)
    check(currents(2, shape), make(shape, learn=True), by_batch=False, reset="subtract")


@pytest.mark.parametrize("by_batch", [True, False])
def test_values_that_lie_at_the_threshold_round_as_on_the_cpu(by_batch: bool):
    """A spike hangs on the last bit here, in which one rounding more or less shows."""
    p, z = make((3, 512)), currents(1, (3, 512))
    mine, weight, bias, beta = there(z, p["weight"], p["bias"], p["beta"])
    call = NormCall(*there(p["running_mean"], p["running_var"]), by_batch, MOMENTUM, EPS)
    any_neuron = Firing(beta, torch.ones_like(beta), Dspike())
    _, _, first, second = twin.norm_fire_forward(mine, weight, bias, call, any_neuron, 1)
    here = NormCall(None, None, by_batch, MOMENTUM, EPS)
    y = renormalise(fold(z), p["weight"], p["bias"], here, (first.cpu(), second.cpu()))
    for row in range(3):
        for threshold, fires in ((y[row], 0), (torch.nextafter(y[row], torch.tensor(-torch.inf)), 1)):
            call = NormCall(*there(p["running_mean"], p["running_var"]), by_batch, MOMENTUM, EPS)
            neuron = Firing(beta, there(threshold)[0], Dspike())
            spikes = twin.norm_fire_forward(mine, weight, bias, call, neuron, 1)[0]
            assert spikes[0, row].unique().tolist() == [fires]


def test_statistics_do_not_cancel():
    z = torch.randn(2, 64, 3, 4) * 0.01 + 100
    call = NormCall(None, None, True, MOMENTUM, EPS)
    mean, inverse = twin.batch_statistics(there(z)[0], call)
    assert error(mean, z.double().mean((0, 1, 2))) <= 1e-7
    assert error(inverse, 1 / (z.double().var((0, 1, 2), unbiased=False) + EPS).sqrt()) <= 1e-5


def test_statistics_without_running_ones_and_runs_agree():
    p = make(MAPS)
    z = there(currents(4, MAPS))[0]
    call = NormCall(None, None, True, MOMENTUM, EPS)
    first, second = twin.batch_statistics(z, call), twin.batch_statistics(z, call)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert error(first[0], z.cpu().mean((0, 1, 3, 4))) <= 1e-6
    assert p["weight"] is not None


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # of the interpreter's numpy
@pytest.mark.parametrize("by_batch", [True, False])
def test_what_is_not_a_number_spreads_as_in_torch(by_batch: bool):
    p, z = make(MAPS), currents(3, MAPS)
    z[1, 0, 0, 1, 4], z[0, 1, 1, 0, 0], z[2, 1, 2, 1, 8] = torch.nan, torch.inf, -torch.inf
    leaf = z.clone().requires_grad_()
    running = [p[n].clone() for n in ("running_mean", "running_var")]
    y = F.batch_norm(fold(leaf), *running, p["weight"], p["bias"], by_batch, MOMENTUM, EPS).view(z.shape)
    wanted = lif(y, p["beta"], p["threshold"], Dspike())
    upstream = torch.randn(z.shape)
    (by_z,) = torch.autograd.grad(wanted, leaf, upstream)

    mine, weight, bias, beta, threshold = there(z, p["weight"], p["bias"], p["beta"], p["threshold"])
    call = NormCall(*there(p["running_mean"], p["running_var"]), by_batch, MOMENTUM, EPS)
    neuron = Firing(beta, threshold, Dspike())
    spikes, _, first, second = twin.norm_fire_forward(mine, weight, bias, call, neuron, 3)
    assert torch.equal(spikes.cpu(), wanted)
    kept, needs = (weight, bias, first, second), (True, False, False, False, False)
    got = twin.norm_fire_backward(mine, there(upstream)[0], kept, call, neuron, needs)[0]
    assert by_z.isnan().any()
    torch.testing.assert_close(got.cpu(), by_z, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_only_what_is_needed_is_made():
    p, z = make(TOKENS, learn=True), currents(3, TOKENS)
    mine, weight, bias, beta, threshold = there(z, p["weight"], p["bias"], p["beta"], p["threshold"])
    neuron = Firing(beta, threshold, Dspike())
    for by_batch in (True, False):
        call = NormCall(*there(p["running_mean"], p["running_var"]), by_batch, MOMENTUM, EPS)
        spikes, _, *kept = twin.norm_fire_forward(mine, weight, bias, call, neuron, 3)
        grad = torch.randn(spikes.shape, device=DEVICE)
        whole = twin.norm_fire_backward(mine, grad, (weight, bias, *kept), call, neuron, (True,) * 5)
        for only in range(5):
            needs = tuple(i == only for i in range(5))
            got = twin.norm_fire_backward(mine, grad, (weight, bias, *kept), call, neuron, needs)
            assert [g is not None for g in got] == list(needs)
            assert torch.equal(got[only], whole[only])


@pytest.mark.parametrize("shape", [TOKENS, MAPS])
def test_parameters_with_strides(shape: tuple[int, ...]):
    p = make(shape, learn=True)
    channels = p["weight"].numel()
    p["beta"] = torch.tensor(0.6).expand(p["beta"].shape)
    p["weight"], p["bias"] = torch.randn(channels, 2).abs()[:, 1], torch.tensor(0.3).expand(channels)
    assert not any(p[name].is_contiguous() for name in ("beta", "weight", "bias"))
    z = currents(2, shape)
    mine = there(z)[0]
    beta, threshold, weight, bias = (
        t.to(DEVICE) for t in (p["beta"], p["threshold"], p["weight"], p["bias"])
    )  # without a copy on the CPU, which would lose the strides
    call, neuron = NormCall(None, None, True, MOMENTUM, EPS), Firing(beta, threshold, Dspike())
    plain = Firing(beta.contiguous(), threshold, Dspike())
    runs = []
    for w, b, n in ((weight, bias, neuron), (weight.contiguous(), bias.contiguous(), plain)):
        spikes, bits, *kept = twin.norm_fire_forward(mine, w, b, call, n, 2)
        runs.append((spikes, bits, *twin.norm_fire_backward(mine, spikes + 0.5, (w, b, *kept), call, n, (True,) * 5)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert 0 < runs[0][0].mean() < 1


def test_what_is_not_served():
    z, call = torch.zeros(2, 3, 4, 5), NormCall(None, None, True, MOMENTUM, EPS)
    number, channels = torch.tensor(0.5), torch.full((5,), 0.5)
    assert twin.serves(z, call, Firing(channels, number, Dspike()))
    assert not twin.serves(z, call, Firing(torch.full((4, 1), 0.5), number, Dspike()))  # along the tokens
    assert not twin.serves(z.double(), call, Firing(number, number, Dspike()))
    double = NormCall(torch.zeros(5).double(), None, True, MOMENTUM, EPS)
    assert not twin.serves(z, double, Firing(number, number, Dspike()))
    spread = NormCall(torch.zeros(1).expand(5), None, True, MOMENTUM, EPS)
    assert not twin.serves(z, spread, Firing(number, number, Dspike()))
    assert not twin.serves(z[0, 0], call, Firing(number, number, Dspike()))
