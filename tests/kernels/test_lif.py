"""The neuron kernels against numbers worked out by hand and against plain loops."""

import pytest
import torch
from snntorch import surrogate
from torch import Tensor

from snntorch_smixer.errors import SettingError
from snntorch_smixer.kernels.lif import RESETS, cap_spikes, integer_lif, lif, lif_with_membranes
from snntorch_smixer.neurons import Dspike


def fires(spikes: Tensor) -> bool:
    """True when between 5 % and 60 % of the neurons fire, so that equality says something."""
    return 0.05 < (spikes > 0).float().mean().item() < 0.6


def steps(*values: float) -> Tensor:
    """One neuron's values over the steps, ``(T, 1)``."""
    return torch.tensor(values)[:, None]


def lif_by_neuron(x: Tensor, beta: Tensor, threshold: Tensor, reset: str = "zero") -> Tensor:
    """Spikes of ``(T, M)``, one neuron and one step at a time in Python's numbers."""
    spikes = torch.zeros_like(x)
    for m in range(x.shape[1]):
        u, limit = 0.0, threshold[m].item()
        fired = limit < 0
        for t in range(x.shape[0]):
            kept = 0.0 if fired and reset == "zero" else beta[m].item() * u
            u = kept + x[t, m].item() - (limit if fired and reset == "subtract" else 0.0)
            fired = u > limit
            spikes[t, m] = float(fired)
    return spikes


def test_lif_by_hand():
    # u: 0.75 | 0.375 + 0.75 = 1.125, spike, reset | 0.5 | 0.25 + 1.5 = 1.75, spike | -1 | -0.5 + 2 = 1.5, spike |
    # 1.0, which is not above the threshold | 0.5 + 0.75 = 1.25, spike
    x = steps(0.75, 0.75, 0.5, 1.5, -1.0, 2.0, 1.0, 0.75)
    spikes = lif(x, torch.tensor(0.5), torch.tensor(1.0), Dspike())
    assert spikes[:, 0].tolist() == [0, 1, 0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("reset", "wanted", "membranes"),
    [
        # decay 0.5, threshold 1: the membrane of the step before is halved, then a spike of that step takes all or 1
        ("zero", [0, 1, 1, 0, 1, 0], [0.75, 1.125, 2.5, 0.25, 2.125, 0.5]),
        ("subtract", [0, 1, 1, 0, 1, 0], [0.75, 1.125, 2.0625, 0.28125, 2.140625, 0.5703125]),
        ("none", [0, 1, 1, 1, 1, 1], [0.75, 1.125, 3.0625, 1.78125, 2.890625, 1.9453125]),
    ],
)
def test_resets_by_hand(reset: str, wanted: list[int], membranes: list[float]):
    x = steps(0.75, 0.75, 2.5, 0.25, 2.0, 0.5)
    beta, threshold = torch.tensor(0.5), torch.tensor(1.0)
    assert lif(x, beta, threshold, Dspike(), reset=reset)[:, 0].tolist() == wanted
    spikes, mem = lif_with_membranes(x, beta, threshold, Dspike(), reset=reset)
    assert spikes[:, 0].tolist() == wanted
    assert mem[:, 0].tolist() == membranes


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_lif_equals_a_loop_over_neurons(count: int, reset: str):
    x = torch.randint(-32, 64, (count, 60)) / 32
    beta, threshold = torch.randint(0, 9, (60,)) / 8, torch.randint(2, 9, (60,)) / 4
    spikes = lif(x, beta, threshold, Dspike(), reset=reset)
    assert fires(spikes)
    assert torch.equal(spikes, lif_by_neuron(x, beta, threshold, reset))


@pytest.mark.parametrize("reset", RESETS)
def test_a_threshold_below_zero_is_exceeded_at_rest(reset: str):
    x = torch.randint(-32, 8, (5, 60)) / 16
    beta, threshold = torch.tensor(0.5).expand(60), torch.tensor(-0.25).expand(60)
    spikes = lif(x, beta, threshold, Dspike(), reset=reset)
    assert 0.05 < spikes[0].mean() < 0.95
    assert torch.equal(spikes, lif_by_neuron(x, beta, threshold, reset))


def test_lif_gradient_by_hand():
    # With a straight-through spike, ds[1]/dx[0] = beta where the neuron was silent and 0 where it was reset.
    x = torch.tensor([[0.5, 2.0], [1.5, 0.5]], requires_grad=True)
    beta = torch.tensor(0.75, requires_grad=True)
    spikes = lif(x, beta, torch.tensor(1.0), surrogate.straight_through_estimator())
    assert spikes.tolist() == [[0, 1], [1, 0]]
    spikes[1].sum().backward()
    assert x.grad.tolist() == [[0.75, 0.0], [1.0, 1.0]]
    assert beta.grad.item() == 0.5  # u[0] of the neuron that was not reset


def test_the_gradient_of_a_subtracted_threshold_by_hand():
    # u = 2, spike | 0.75 * 2 + 0.5 - 1 = 1, silent. ds[1] = du[1] - dthreshold = 0.75 dx[0] + dx[1] - 2 dthreshold.
    x = steps(2.0, 0.5).requires_grad_()
    threshold = torch.tensor(1.0, requires_grad=True)
    spikes = lif(x, torch.tensor(0.75), threshold, surrogate.straight_through_estimator(), reset="subtract")
    assert spikes[:, 0].tolist() == [1, 0]
    spikes[1].sum().backward()
    assert threshold.grad.item() == -2.0
    assert x.grad[:, 0].tolist() == [0.75, 1.0]


def test_one_step_gives_a_learnable_beta_a_gradient_of_zero():
    beta = torch.tensor(0.5, requires_grad=True)
    lif(torch.rand(1, 4) * 2, beta, torch.tensor(1.0), Dspike()).sum().backward()
    assert beta.grad.item() == 0


def test_an_unknown_reset_is_refused():
    for function in (lif, lif_with_membranes):
        with pytest.raises(SettingError) as caught:
            function(torch.ones(2, 3), torch.tensor(0.5), torch.tensor(1.0), Dspike(), reset="soft")
        assert str(caught.value) == (
            f"{function.__name__}: reset='soft' is unknown. Expected one of zero, subtract, none. Pass one of these."
        )


@pytest.mark.parametrize(("beta", "acts_as"), [(1.5, 1.0), (-0.5, 0.0)])
def test_beta_is_clipped(beta: float, acts_as: float):
    x = torch.rand(4, 200)
    spikes, wanted = (lif(x, torch.tensor(b), torch.tensor(1.2), Dspike()) for b in (beta, acts_as))
    other = lif(x, torch.tensor(0.5), torch.tensor(1.2), Dspike())
    assert torch.equal(spikes, wanted)
    assert not torch.equal(spikes, other)


def test_lif_leaves_its_input_alone_and_takes_strided_input():
    x = torch.randn(3, 8, 4).transpose(1, 2)
    before = x.clone()
    spikes = lif(x, torch.tensor(0.5), torch.tensor(1.0), Dspike())
    assert fires(spikes)
    assert torch.equal(x, before)
    assert torch.equal(spikes, lif(x.contiguous(), torch.tensor(0.5), torch.tensor(1.0), Dspike()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_a_float32_membrane(dtype: torch.dtype):
    x = torch.randn(8, 4000).to(dtype)
    beta, threshold = torch.tensor(0.9), torch.tensor(1.0)
    spikes = lif(x, beta, threshold, Dspike())
    assert spikes.dtype == dtype
    assert fires(spikes)
    assert torch.equal(spikes.float(), lif(x.float(), beta, threshold, Dspike()))
    mem, narrow = torch.zeros_like(x[0]), []
    for current in x:
        mem = beta.to(dtype) * mem + current
        narrow.append((mem > threshold).to(dtype))
        mem = mem * (1 - narrow[-1])
    assert not torch.equal(spikes, torch.stack(narrow))


def test_float64_is_not_narrowed():
    x = torch.tensor([[1 + 1e-12]], dtype=torch.float64)
    spikes = lif(x, torch.tensor(0.5), torch.tensor(1.0, dtype=torch.float64), Dspike())
    assert spikes.dtype == torch.float64
    assert spikes.item() == 1
    assert lif(x.float(), torch.tensor(0.5), torch.tensor(1.0), Dspike()).item() == 0


@pytest.mark.parametrize(("levels", "wanted"), [(4, [3, 1, 4, 0, 1]), (2, [2, 1, 2, 0, 1]), (1, [1, 1, 1, 0, 1])])
def test_integer_lif_by_hand(levels: int, wanted: list[int]):
    # levels 4, u: 2.75 -> 3 | -0.0625 + 1 = 0.9375 -> 1 | -0.015625 + 6 -> 4 | 0.496 - 1 -> 0 | -0.126 + 0.75 -> 1
    # levels 2, u: 2.75 -> 2 | 0.1875 + 1 = 1.1875 -> 1 | 0.047 + 6 -> 2 | 1.012 - 1 -> 0 | 0.003 + 0.75 -> 1
    # levels 1, u: 2.75 -> 1 | 0.4375 + 1 -> 1 | 0.109 + 6 -> 1 | 1.277 - 1 = 0.277 -> 0 | 0.069 + 0.75 -> 1
    x = steps(2.75, 1.0, 6.0, -1.0, 0.75)
    assert integer_lif(x, 0.25, levels)[:, 0].tolist() == wanted


def test_integer_lif_rounds_halves_to_even():
    assert integer_lif(torch.tensor([[0.5, 1.5, 2.5]]), 0.25, 4).tolist() == [[0, 2, 2]]


def test_integer_lif_gradient_is_one_inside_and_zero_outside():
    # u of the sequence above: inside, inside, above 4, below 0, inside. g[t] = inside * w[t] + beta * g[t + 1].
    x = steps(2.75, 1.0, 6.0, -1.0, 0.75).requires_grad_()
    weights = steps(1.0, 2.0, 4.0, 8.0, 16.0)
    (integer_lif(x, 0.25, 4) * weights).sum().backward()
    g4 = 16.0
    g3 = 0 + 0.25 * g4
    g2 = 0 + 0.25 * g3
    g1 = 2 + 0.25 * g2
    assert x.grad[:, 0].tolist() == [1 + 0.25 * g1, g1, g2, g3, g4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_integer_lif_keeps_the_dtype(dtype: torch.dtype):
    x = (torch.randn(6, 2000) * 2).to(dtype)
    spikes = integer_lif(x, 0.25, 4)
    assert spikes.dtype == dtype
    assert fires(spikes)
    assert set(spikes.unique().tolist()) == {0, 1, 2, 3, 4}
    wide = torch.promote_types(dtype, torch.float32)
    assert torch.equal(spikes.to(wide), integer_lif(x.to(wide), 0.25, 4))


@pytest.mark.parametrize(
    ("spikes", "cap", "wanted"),
    [
        ([1, 0, 1, 1, 1], 2, [1, 0, 1, 0, 0]),
        ([1, 0, 1, 1, 1], 1, [1, 0, 0, 0, 0]),
        ([1, 0, 1, 1, 1], 4, [1, 0, 1, 1, 1]),
        ([2, 3, 1], 4, [2, 2, 0]),
        ([2, 3, 1], 3, [2, 1, 0]),
        ([5, 1, 0], 3, [3, 0, 0]),
        ([0, 4, 4], 8, [0, 4, 4]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cap_spikes_by_hand(spikes: list[int], cap: int, wanted: list[int], dtype: torch.dtype):
    capped = cap_spikes(steps(*spikes).to(dtype), cap)
    assert capped.dtype == dtype
    assert capped[:, 0].tolist() == wanted


def test_cap_counts_each_neuron_by_itself():
    spikes = (torch.rand(6, 3, 50) < 0.5).float()
    capped = cap_spikes(spikes, 2)
    assert spikes.sum(0).max() > 2
    assert torch.equal(capped.sum(0), spikes.sum(0).clamp(max=2))
    assert torch.equal(capped, spikes * (spikes.cumsum(0) <= 2))


@pytest.mark.parametrize(
    ("spikes", "cap", "wanted"),
    [
        ([1, 0, 1, 1, 0], 2, [1, 1, 1, 0, 0]),  # silent before the limit: it could still fire; after it: it could not
        ([2, 3, 1], 4, [1, 0, 0]),
        ([1, 1, 0], 3, [1, 1, 1]),
    ],
)
def test_cap_passes_gradients_only_where_a_spike_can_pass(spikes: list[int], cap: int, wanted: list[int]):
    spikes = steps(*spikes).float().requires_grad_()
    cap_spikes(spikes, cap).sum().backward()
    assert spikes.grad[:, 0].tolist() == wanted


def test_a_cap_below_one_is_refused():
    with pytest.raises(SettingError) as caught:
        cap_spikes(torch.ones(2, 3), 0)
    assert str(caught.value) == "cap_spikes: cap=0 must be at least 1. Pass how many spikes a neuron may fire."
