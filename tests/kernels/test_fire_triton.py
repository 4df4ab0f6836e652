"""The Triton twin of `fire` against the plain `lif` on the CPU: spikes, gradients, surrogates."""

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from snntorch import surrogate
from torch import Tensor, nn

from snntorch_smixer.kernels.compiled import use
from snntorch_smixer.kernels.fire import Firing
from snntorch_smixer.kernels.lif import RESETS, lif
from snntorch_smixer.kernels.triton_tools import watched
from snntorch_smixer.memory import set_memory
from snntorch_smixer.surrogates import Dspike, SpikeGrad, picklable
from tests.kernels.on_triton import DEVICE, WHERE, error, rounding_to_bfloat16, there

pytest.importorskip("triton", reason="needs Triton")
from snntorch_smixer.kernels import fire_triton as twin
from snntorch_smixer.kernels import launch_triton

pytestmark = WHERE

SHAPE = (2, 3, 11)  # B, N, C: nothing a multiple of 8
NAMED = {
    "atan": surrogate.atan(1.7),
    "fast_sigmoid": surrogate.fast_sigmoid(5),
    "heaviside": surrogate.heaviside(),
    "SFS": surrogate.SFS(3, 0.2),
    "sigmoid": surrogate.sigmoid(4),
    "spike_rate_escape": surrogate.spike_rate_escape(1.5, 0.8),
    "straight_through_estimator": surrogate.straight_through_estimator(),
    "triangular": surrogate.triangular(0.6),
}


@pytest.fixture(autouse=True)
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    rounding_to_bfloat16(monkeypatch)


def make(steps: int, size: tuple[int, ...] = (), shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor, Tensor]:
    """Currents, beta and threshold that make a fair share of the neurons fire."""
    x = torch.randn(steps, *shape) * 1.2 + 0.3
    return x, torch.rand(size) * 0.6 + 0.3, torch.rand(size) * 0.5 + 0.4


def check(x: Tensor, beta: Tensor, threshold: Tensor, grad: SpikeGrad | None = None, *, reset: str = "zero") -> None:
    """Spikes bit for bit, and the three gradients."""
    grad = Dspike() if grad is None else grad
    leaves = [t.detach().requires_grad_() for t in (x, beta, threshold)]
    wanted = lif(*leaves, grad, reset=reset)
    upstream = torch.randn(wanted.shape).to(wanted.dtype)
    grads = torch.autograd.grad(wanted, leaves, upstream)
    mine, *parameters = there(x, beta, threshold)
    neuron = Firing(*parameters, grad, reset)
    assert twin.serves(mine, neuron)
    spikes = twin.fire_forward(mine, neuron)
    assert 0.05 < wanted.float().mean() < 0.9
    assert spikes.dtype == wanted.dtype
    assert torch.equal(spikes.cpu(), wanted)
    got = twin.fire_backward(mine, there(upstream)[0], neuron, (True, True))
    for a, b in zip(got, grads, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert error(a, b) <= 1e-5
    assert grads[0].abs().max() > 1e-3


@pytest.mark.parametrize("size", [(), (11,), (3, 1)])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("steps", [1, 2, 16])
def test_it_is_lif(steps: int, reset: str, size: tuple[int, ...]):
    check(*make(steps, size), reset=reset)


@pytest.mark.parametrize("size", [(), (5, 1, 1)])
def test_maps(size: tuple[int, ...]):
    check(*make(4, size, (2, 5, 3, 9)))


@pytest.mark.parametrize("name", NAMED)
def test_the_surrogates_of_snntorch(name: str):
    check(*make(4), picklable(NAMED[name]), reset="subtract")


@pytest.mark.parametrize("gamma", [0.5, 4.0])
def test_other_slopes(gamma: float):
    check(*make(3), Dspike(gamma))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_a_float32_membrane(dtype: torch.dtype):
    x, beta, threshold = make(4)
    check(x.to(dtype), beta, threshold)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("threshold", [0.0, -0.2])
def test_thresholds_that_the_resting_membrane_exceeds(reset: str, threshold: float):
    x, beta, _ = make(3)
    check(x - 0.6, beta, torch.tensor(threshold), reset=reset)


@pytest.mark.parametrize(("beta", "passes"), [(-0.5, False), (0.0, True), (1.0, True), (1.5, False)])
def test_a_clipped_beta_gets_no_gradient(beta: float, passes: bool):
    x, _, threshold = make(3)
    check(x, torch.tensor(beta), threshold)
    mine, *parameters = there(x, torch.tensor(beta), threshold)
    by_beta = twin.fire_backward(mine, torch.ones_like(mine), Firing(*parameters, Dspike()), (True, False))[1]
    assert bool(by_beta != 0) == passes


def test_strided_and_expanded_input():
    x, beta, threshold = make(3)
    check(x.transpose(1, 2), beta, threshold)
    check(x[:1].expand(4, *SHAPE), beta, threshold)
    check(x[..., ::2], beta, threshold)
    mine, *parameters = there(x, beta, threshold)
    neuron, grad = Firing(*parameters, Dspike()), torch.randn(x.transpose(1, 2).shape, device=DEVICE).transpose(1, 2)
    for upstream in (grad, grad[:1, :1, :1, :1].expand(x.shape)):  # the second as sum().backward() hands it over
        got = twin.fire_backward(mine, upstream, neuron, (False, False))[0]
        assert torch.equal(got, twin.fire_backward(mine, upstream.contiguous(), neuron, (False, False))[0])


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # of the interpreter's numpy
@pytest.mark.parametrize("reset", RESETS)
def test_infinite_currents_fire_and_reset_as_in_lif(reset: str):
    x, beta, threshold = make(4)
    x[0, 0], x[1, 1], x[0, 1, 0], x[2, 0, 1] = torch.inf, -torch.inf, torch.nan, 3e38
    leaf = x.clone().requires_grad_()
    wanted = lif(leaf, beta, threshold, Dspike(), reset=reset)
    upstream = torch.randn(x.shape)
    (plain,) = torch.autograd.grad(wanted, leaf, upstream)
    mine, *parameters = there(x, beta, threshold)
    neuron = Firing(*parameters, Dspike(), reset)
    assert torch.equal(twin.fire_forward(mine, neuron).cpu(), wanted)
    got = twin.fire_backward(mine, there(upstream)[0], neuron, (False, False))[0]
    assert plain.isnan().any()
    torch.testing.assert_close(got.cpu(), plain, rtol=1e-4, atol=1e-6, equal_nan=True)


def test_many_tiles_and_pieces(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch_triton, "tile", lambda layout, steps: (4, 1))
    monkeypatch.setattr(launch_triton, "chunks", lambda layout, block: (-(-layout.per_channel // 8), 2))
    monkeypatch.setattr(launch_triton, "row_block", lambda last: (2, 8))
    check(*make(2))
    monkeypatch.setattr("snntorch_smixer.kernels.triton_tools.needs_wide", lambda values: True)
    check(*make(2, (3, 1)))


def test_only_what_is_needed_is_made():
    x, beta, threshold = there(*make(3))
    neuron, grad = Firing(beta, threshold, Dspike()), torch.randn_like(x)
    whole = twin.fire_backward(x, grad, neuron, (True, True))
    for needs in ((False, False), (True, False), (False, True)):
        got = twin.fire_backward(x, grad, neuron, needs)
        assert [g is not None for g in got] == [True, *needs]
        assert all(torch.equal(a, b) for a, b in zip(got, whole, strict=True) if a is not None)


def test_an_unknown_surrogate_is_refused_by_name():
    x, beta, threshold = there(*make(2))
    neuron = Firing(beta, threshold, surrogate.atan())  # a closure, not the form that is known by its class
    assert not twin.serves(x, neuron)
    with pytest.raises(launch_triton.SettingError, match=r"Triton kernels: got the surrogate .*; ask `serves` first"):
        twin.fire_backward(x, torch.ones_like(x), neuron, (False, False))


@pytest.mark.parametrize("mode", ["fused", "recompute"])
def test_a_network_trains_through_it(firing_net: Callable[..., nn.Module], mode: str):
    """Through the chooser: the same gradients as in plain torch, and the kernels ran."""
    net, seen = firing_net(depth=1, T=2, img_size=(8, 8), num_classes=3), Counter()
    x, draw = torch.randn(2, 2, 2, 8, 8), torch.randn(2, 3)
    set_memory(net, mode)
    found = []
    for impl in ("eager", "triton"):
        twin = copy.deepcopy(net).to(DEVICE if impl == "triton" else "cpu").train()
        where = next(twin.parameters()).device
        with use(impl), watched(lambda name, nbytes: seen.update([name])):
            logits = twin(x.to(where))
            (logits * draw.to(where)).sum().backward()
        found.append((logits, *(p.grad for p in twin.parameters())))
    assert {"forward_kernel", "backward_kernel", "statistics_kernel", "merge_kernel", "finish_kernel"} <= set(seen)
    for plain, mine in zip(*found, strict=True):
        assert error(mine, plain.detach()) <= 1e-5
