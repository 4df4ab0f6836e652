"""Integer LIF that keeps bits: same spikes and gradients as its plain twin, bit for bit."""

import pytest
import torch
from torch import Tensor

from snntorch_smixer.errors import SettingError
from snntorch_smixer.kernels.integer_fire import integer_fire
from snntorch_smixer.kernels.lif import integer_lif


def gradient(run, x: Tensor, beta: float, levels: int) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    spikes = run(x, beta, levels)
    torch.manual_seed(3)
    (by_x,) = torch.autograd.grad((spikes * torch.randn(spikes.shape)).sum(), x)
    return spikes.detach(), by_x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("beta", "levels"), [(0.25, 4), (0.0, 1), (1.0, 3)])
@pytest.mark.parametrize("shape", [(1, 3), (4, 2, 13), (16, 2, 3, 5, 7), (2, 0, 3)])
def test_equals_the_plain_twin(shape: tuple[int, ...], beta: float, levels: int, dtype: torch.dtype):
    x = (3 * torch.randn(shape)).to(dtype)
    got, want = gradient(integer_fire, x, beta, levels), gradient(integer_lif, x, beta, levels)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype == dtype
        assert torch.equal(one, other)
    if x.numel() > 50:
        assert want[0].unique().numel() == levels + 1
        assert 0 < (want[1] == 0).float().mean() < 1


def test_the_edges_belong_to_the_inside():
    x = torch.tensor([[-0.0, 0.0, 4.0, -1e-30, 4.0001, torch.nan, torch.inf]])
    by_x = gradient(integer_fire, x, 0.25, 4)[1]
    assert (by_x != 0).tolist() == [[True, True, True, False, False, False, False]]
    assert torch.equal(by_x, gradient(integer_lif, x, 0.25, 4)[1])


@pytest.mark.parametrize("view", [lambda x: x.transpose(1, 2), lambda x: x[..., ::2], lambda x: x[:1].expand(4, 3, 8)])
def test_any_strides(view):
    x = view(3 * torch.randn(4, 3, 8))
    got, want = gradient(integer_fire, x, 0.25, 4), gradient(integer_lif, x, 0.25, 4)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])
    assert got[0].is_contiguous()


def test_one_bit_is_kept_of_each_element():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        integer_fire(torch.randn(4, 5, 24, requires_grad=True), 0.25, 4)
    assert [(t.dtype, t.shape) for t in kept] == [(torch.uint8, (4, 5, 3))]


def test_a_second_derivative_is_refused():
    x = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(SettingError, match="create_graph=True"):
        torch.autograd.grad(integer_fire(x, 0.25, 4).sum(), x, create_graph=True)
