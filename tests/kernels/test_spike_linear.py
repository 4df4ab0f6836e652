"""Linear maps of spikes that keep bits, against the same torch operations."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.kernels.spike_linear import spike_conv2d, spike_linear, spike_mix
from snntorch_smixer.kernels.spikes import Spikes
from snntorch_smixer.layers.mixer import mix_tokens
from snntorch_smixer.selection import W_PRIMES, Selection
from tests.kernels.test_recompute import error, gradients

HALVES = [torch.bfloat16, torch.float16]
CONVS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
    {"kernel_size": (1, 3), "padding": "same", "dilation": 2},
    {"kernel_size": 2, "stride": 2, "padding": "valid", "groups": 3},
]


def make(*shape: int, dtype: torch.dtype = torch.float32) -> Spikes:
    """Spikes that need a gradient, at a rate of 0.3."""
    return Spikes.of((torch.rand(shape) < 0.3).to(dtype).requires_grad_())


def compare(got: Tensor, wanted: Tensor, of: list[Tensor], tolerance: float = 1e-5) -> None:
    """Equal bits forward, equal gradients backward."""
    assert wanted.abs().max() > 0.1
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    assert torch.equal(got, wanted)
    for a, b in zip(gradients(got, of), gradients(wanted, of), strict=True):
        assert a.dtype == b.dtype
        assert b.abs().max() > 1e-3
        assert error(a, b) <= tolerance


def folded(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 2, 5, 11), (2, 3, 7, 16), (4, 2, 1, 9), (16, 1, 3, 24), (3, 8)])
def test_linear(shape: tuple[int, ...], bias: bool):
    spikes, linear = make(*shape), nn.Linear(shape[-1], 13, bias=bias)
    compare(spike_linear(spikes, linear), linear(spikes.values), [spikes.values, *linear.parameters()])


@pytest.mark.parametrize("settings", CONVS)
@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_conv2d(steps: int, settings: dict):
    spikes, conv = make(steps, 2, 6, 8, 10), nn.Conv2d(6, 9, **settings)
    compare(spike_conv2d(spikes, conv), folded(conv, spikes.values), [spikes.values, *conv.parameters()])


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast(dtype: torch.dtype):
    linear, conv = nn.Linear(11, 13), nn.Conv2d(6, 9, 3, padding=1)
    tokens, maps = make(2, 3, 5, 11), make(2, 3, 6, 8, 10)
    with torch.autocast("cpu", dtype):
        got, wanted = spike_linear(tokens, linear), linear(tokens.values)
        got_map, wanted_map = spike_conv2d(maps, conv), folded(conv, maps.values)
    assert got.dtype == got_map.dtype == dtype
    compare(got, wanted, [tokens.values, *linear.parameters()])
    compare(got_map, wanted_map, [maps.values, *conv.parameters()])


@pytest.mark.parametrize("dtype", [torch.float64, *HALVES])
def test_other_dtypes(dtype: torch.dtype):
    linear, conv = nn.Linear(11, 13).to(dtype), nn.Conv2d(6, 9, 3, padding=1).to(dtype)
    tokens, maps = make(2, 3, 5, 11, dtype=dtype), make(2, 3, 6, 8, 10, dtype=dtype)
    compare(spike_linear(tokens, linear), linear(tokens.values), [tokens.values, *linear.parameters()], 1e-12)
    compare(spike_conv2d(maps, conv), folded(conv, maps.values), [maps.values, *conv.parameters()], 1e-12)


def test_frozen_weights_and_inputs_keep_less(saved_storages):
    linear, spikes = nn.Linear(11, 13), make(2, 3, 5, 11)
    everything = gradients(linear(spikes.values), [spikes.values, *linear.parameters()])
    still = Spikes(spikes.values.detach(), spikes.bits)
    for got, wanted in zip(
        gradients(spike_linear(still, linear), list(linear.parameters())), everything[1:], strict=True
    ):
        assert error(got, wanted) <= 1e-5
    linear.requires_grad_(False)
    assert error(gradients(spike_linear(spikes, linear), [spikes.values])[0], everything[0]) <= 1e-5
    assert set(saved_storages(lambda: spike_linear(spikes, linear))) == {linear.weight.untyped_storage().data_ptr()}
    assert not spike_linear(still, linear).requires_grad


@pytest.mark.parametrize("form", ["linear", "conv", "mix"])
def test_only_bits_are_kept(saved_storages, form: str):
    if form == "conv":
        spikes, module = make(2, 3, 6, 8, 16), nn.Conv2d(6, 9, 3)
        held = saved_storages(lambda: spike_conv2d(spikes, module))
    elif form == "linear":
        spikes, module = make(2, 3, 5, 16), nn.Linear(16, 13)
        held = saved_storages(lambda: spike_linear(spikes, module))
    else:
        spikes, module = make(2, 3, 5, 16), nn.Linear(5, 10)
        held = saved_storages(lambda: spike_mix(spikes, module.weight.view(2, 5, 5)))
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    assert {at: size for at, size in held.items() if at not in own} == {
        spikes.bits.untyped_storage().data_ptr(): spikes.values.numel() // 8
    }


def test_double_use_and_accumulation():
    linear, spikes = nn.Linear(11, 11), make(2, 3, 5, 11)
    twin, other = copy.deepcopy(linear), make(2, 3, 5, 11)
    for run in (lambda s: spike_linear(s, linear), lambda s: twin(s.values)):
        torch.manual_seed(3)
        for _ in range(2):
            out = run(spikes) * torch.randn(11) + run(other).tanh()
            (out * torch.randn(11)).sum().backward()
    assert error(linear.weight.grad, twin.weight.grad) <= 1e-5
    assert error(linear.bias.grad, twin.bias.grad) <= 1e-5


def choose(keep: int, w_prime: str, fused: bool, full: int = 5) -> Selection:
    tokens = torch.stack([torch.randperm(full)[:keep] for _ in range(3)])
    rows = torch.randperm(full)[: keep + fused].sort().values if w_prime == "shared" and keep < full else None
    tokens = tokens if w_prime == "crop" else tokens.sort(1).values
    return Selection(torch.arange(2).repeat(3, 1), tokens, 2, full, w_prime, rows, fused)


def mixer(heads: int, tokens: int = 5) -> nn.Conv1d:
    w_m = nn.Conv1d(heads * tokens, heads * tokens, 1, groups=heads, bias=False)
    nn.init.normal_(w_m.weight)
    return w_m


def matrix(w_m: nn.Conv1d) -> Tensor:
    return w_m.weight.view(w_m.groups, -1, w_m.weight.shape[1])


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("heads", [1, 3, 9])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("w_prime", W_PRIMES)
@pytest.mark.parametrize("keep", [1, 3, 4, 5])
def test_mix_is_mix_tokens(keep: int, w_prime: str, fused: bool, heads: int, autocast: torch.dtype | None):
    fused = fused and keep < 5
    kept, w_m, spikes = choose(keep, w_prime, fused), mixer(heads), make(2, 3, keep + fused, 9)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        got, wanted = spike_mix(spikes, matrix(w_m), kept), mix_tokens(w_m, spikes.values, kept)
    compare(got, wanted, [spikes.values, w_m.weight])


def test_mix_takes_both_ways_of_gathering():
    from snntorch_smixer.kernels.token_mix import grid_is_cheaper

    ways = {grid_is_cheaper(torch.empty(2, 3, 3, 9), heads, choose(3, "gather", False)) for heads in (1, 9)}
    assert ways == {True, False}


def test_mix_on_all_tokens_and_one_step():
    w_m, spikes = mixer(3), make(4, 5, 9)
    compare(spike_mix(spikes, matrix(w_m)), mix_tokens(w_m, spikes.values), [spikes.values, w_m.weight])
    (got,) = gradients(spike_mix(spikes, matrix(w_m).detach()), [spikes.values])
    assert error(got, gradients(mix_tokens(w_m, spikes.values), [spikes.values])[0]) <= 1e-5


@pytest.mark.parametrize("heads", [1, 9])
def test_gathering_keeps_no_matrix_per_sample(saved_storages, heads: int):
    kept, w_m, spikes = choose(3, "gather", False), mixer(heads), make(2, 3, 3, 9)
    held = saved_storages(lambda: spike_mix(spikes, matrix(w_m), kept))
    assert set(held) == {w_m.weight.untyped_storage().data_ptr(), spikes.bits.untyped_storage().data_ptr()}


def test_conv_is_torch_s_even_where_the_stride_skips_pixels():
    spikes, conv = make(1, 2, 6, 9, 8), nn.Conv2d(6, 4, 2, stride=3)
    compare(spike_conv2d(spikes, conv), folded(conv, spikes.values), [spikes.values, *conv.parameters()])
    wanted = F.conv2d(spikes.values[0], conv.weight, conv.bias, stride=3)
    assert torch.equal(spike_conv2d(spikes, conv)[0], wanted)


def test_a_second_derivative_is_refused():
    spikes, linear = make(2, 3, 5, 11), nn.Linear(11, 13)
    with pytest.raises(SettingError, match="create_graph=True"):
        torch.autograd.grad(spike_linear(spikes, linear).sum(), spikes.values, create_graph=True)


def test_what_does_not_fit_is_refused():
    with pytest.raises(LayoutError) as caught:
        spike_linear(make(2, 3, 5, 11), nn.Linear(12, 3))
    assert str(caught.value) == (
        "spike_linear: expected 12 channels on the last axis, got shape (2, 3, 5, 11); tokens are (T, B, N, C)"
    )
    with pytest.raises(LayoutError, match="expected 4 tokens on the last axis but one"):
        spike_mix(make(2, 3, 5, 9), matrix(mixer(3, 4)))
    with pytest.raises(LayoutError) as caught:
        spike_conv2d(make(3, 6, 8, 8), nn.Conv2d(6, 3, 3))
    assert str(caught.value) == (
        "spike_conv2d: expected maps (T, B, 6, H, W), got shape (3, 6, 8, 8); did you forget the time axis?"
    )
    for settings in ({"kernel_size": 2, "padding": "same"}, {"kernel_size": 3, "padding_mode": "circular"}):
        with pytest.raises(SettingError, match="use the plain path for this convolution"):
            spike_conv2d(make(2, 3, 6, 8, 8), nn.Conv2d(6, 3, **settings))
