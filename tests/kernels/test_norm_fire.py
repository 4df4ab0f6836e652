"""`norm_fire` against BatchNorm followed by the plain `lif`."""

import copy

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.kernels.fire import Firing
from snntorch_smixer.kernels.lif import lif
from snntorch_smixer.kernels.norm_fire import norm_fire, norm_only
from snntorch_smixer.kernels.spikes import unpack
from snntorch_smixer.surrogates import Dspike

TOKENS, MAPS = (3, 5, 11), (3, 11, 4, 5)  # B, N, C and B, C, H, W


def make(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, **settings) -> tuple[nn.Module, Firing]:
    """A BatchNorm that has seen other batches, with weights that are not ones, and a neuron per channel."""
    is_map = len(shape) == 4
    channels = 11
    norm = (nn.BatchNorm2d if is_map else nn.BatchNorm1d)(channels, **settings)
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.3, 0.3)
    if norm.track_running_stats:
        nn.init.normal_(norm.running_mean, 0.4, 0.3)
        nn.init.uniform_(norm.running_var, 2.0, 5.0)
    size = (channels, 1, 1) if is_map else (channels,)
    beta, threshold = torch.rand(size) * 0.6 + 0.3, torch.rand(size) * 0.5 + 0.7
    if dtype == torch.float64:
        norm, beta, threshold = norm.double(), beta.double(), threshold.double()
    return norm, Firing(beta.requires_grad_(), threshold.requires_grad_(), Dspike())


def inputs(steps: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(steps, *shape) * 2 + 0.5).to(dtype).requires_grad_()


def plain(z: Tensor, norm: nn.Module, neuron: Firing, steps: int | None = None) -> Tensor:
    """The twin: what `layers.unit.Unit` does, and then the neuron of the next unit."""
    y = shapes.unfold_steps(norm(shapes.fold_steps(z)), z.shape[0]) if z.dim() == 5 else norm(z.flatten(0, -2))
    y = y.view(z.shape)
    y = y if steps is None else y.expand(steps, *y.shape[1:])
    return lif(y, neuron.beta, neuron.threshold, neuron.spike_grad, reset=neuron.reset)


def wanted_of(z: Tensor, norm: nn.Module, neuron: Firing) -> tuple[Tensor, ...]:
    return (z, *norm.parameters(), neuron.beta, neuron.threshold)


def gradients(out: Tensor, of: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    torch.manual_seed(7)
    return torch.autograd.grad((out * torch.randn(out.shape).to(out.dtype)).sum(), of)


def error(got: Tensor, wanted: Tensor) -> float:
    scale = wanted.abs().max().item()
    return (got - wanted).abs().max().item() / scale if scale else got.abs().max().item()


def check(z: Tensor, norm: nn.Module, neuron: Firing, tolerance: float = 1e-5, steps: int | None = None) -> None:
    """Spikes, statistics and gradients of two training or evaluation calls in a row."""
    twin = copy.deepcopy(norm)
    for _ in range(2):
        spikes = norm_fire(z, norm, neuron, steps=steps)
        out = plain(z, twin, neuron, steps)
        assert 0.02 < out.float().mean() < 0.7
        assert spikes.values.dtype == out.dtype
        assert torch.equal(spikes.values, out)
        assert torch.equal(unpack(spikes.bits, spikes.channels, out.dtype), out)
        for (name, got), wanted in zip(norm.named_buffers(), twin.buffers(), strict=True):
            assert torch.equal(got, wanted), name
        got = gradients(spikes.values, wanted_of(z, norm, neuron))
        for a, b in zip(got, gradients(out, wanted_of(z, twin, neuron)), strict=True):
            assert a.dtype == b.dtype
            assert b.abs().max() > 1e-3 or b.numel() == 11
            assert error(a.double(), b.double()) <= tolerance


@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [TOKENS, MAPS])
@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_it_is_norm_and_lif(steps: int, shape: tuple[int, ...], training: bool, settings: dict):
    norm, neuron = make(shape, **settings)
    check(inputs(steps, shape), norm.train(training), neuron)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [TOKENS, MAPS])
def test_float64_is_exact(shape: tuple[int, ...], training: bool):
    norm, neuron = make(shape, torch.float64)
    check(inputs(4, shape, torch.float64), norm.train(training), neuron, tolerance=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [TOKENS, MAPS])
def test_half_precision_input_as_under_autocast(shape: tuple[int, ...], dtype: torch.dtype):
    norm, neuron = make(shape)
    check(inputs(4, shape, dtype), norm, neuron, tolerance=torch.finfo(dtype).eps)


@pytest.mark.parametrize("affine", [True, False])
def test_half_precision_parameters(affine: bool):
    norm, neuron = make(TOKENS, affine=affine)
    check(inputs(4, TOKENS, torch.bfloat16), norm.bfloat16(), neuron, tolerance=torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize("reset", ["subtract", "none"])
def test_other_resets(reset: str):
    norm, neuron = make(TOKENS)
    check(inputs(4, TOKENS), norm, Firing(neuron.beta, neuron.threshold, neuron.spike_grad, reset))


@pytest.mark.parametrize("training", [True, False])
def test_strided_maps(training: bool):
    norm, neuron = make(MAPS)
    z = inputs(2, MAPS)
    check(z.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3).detach().requires_grad_(), norm, neuron)
    strided = torch.randn(2, 3, 4, 11, 10)[..., ::2].transpose(2, 3).requires_grad_()
    assert not strided.is_contiguous()
    check(strided, norm.train(training), neuron)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [TOKENS, MAPS])
def test_statistics_that_are_frozen_later(shape: tuple[int, ...], training: bool):
    norm, neuron = make(shape)
    norm.track_running_stats = False
    check(inputs(3, shape), norm.train(training), neuron)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("shape", [TOKENS, MAPS])
def test_the_rebuilt_values_are_the_same_bits(monkeypatch, shape: tuple[int, ...], strided: bool):
    # A spike that flips between forward and backward needs a value next to the threshold, which random tests miss.
    from snntorch_smixer.kernels import norm_fire as module

    made, again = [], []
    normalise, renormalise = module.normalise, module.renormalise

    def first(*args):
        made.append(normalise(*args)[0].clone())
        return normalise(*args)

    def second(*args):
        out = renormalise(*args)
        again.append(out.clone())  # its memory takes the gradient
        return out

    monkeypatch.setattr(module, "normalise", first)
    monkeypatch.setattr(module, "renormalise", second)
    for settings in ({}, {"affine": False}):
        for size in (1, 7, 64):
            norm, neuron = make(shape, **settings)
            z = torch.randn(size, *shape[:-1], shape[-1] * (1 + strided)) * 3 + 1
            z = (z[..., ::2] if strided else z).requires_grad_()
            norm_fire(z, norm, neuron).values.sum().backward()
    assert len(made) == len(again) == 6
    assert all(torch.equal(a, b) for a, b in zip(made, again, strict=True))


@pytest.mark.parametrize("shape", [TOKENS, MAPS])
def test_a_static_input_is_normalised_once(saved_storages, shape: tuple[int, ...]):
    norm, neuron = make(shape)
    z = inputs(1, shape)
    check(z, norm, neuron, steps=4)
    held = saved_storages(lambda: norm_fire(z, norm, neuron, steps=4))
    assert held[z.untyped_storage().data_ptr()] == z.numel() * 4
    with pytest.raises(LayoutError, match="expected 1 or 4 steps"):
        norm_fire(inputs(2, shape), norm, neuron, steps=4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [TOKENS, MAPS])
@pytest.mark.parametrize("steps", [1, 4])
def test_it_keeps_z_and_two_numbers_per_channel(saved_storages, steps: int, shape: tuple[int, ...], training: bool):
    norm, neuron = make(shape)
    norm.train(training)
    z = inputs(steps, shape)
    held = saved_storages(lambda: norm_fire(z, norm, neuron))
    mine = {t.untyped_storage().data_ptr() for t in (*wanted_of(z, norm, neuron), *norm.buffers())}
    assert z.untyped_storage().data_ptr() in held
    extra = {at: size for at, size in held.items() if at not in mine}
    assert list(extra.values()) == [11 * 4, 11 * 4]


def test_only_what_needs_a_gradient_gets_one():
    norm, neuron = make(TOKENS)
    z = inputs(4, TOKENS)
    wanted = gradients(norm_fire(z, norm, neuron).values, wanted_of(z, norm, neuron))
    frozen = Firing(neuron.beta.detach(), neuron.threshold.detach(), neuron.spike_grad)
    assert torch.equal(gradients(norm_fire(z, norm.requires_grad_(False), frozen).values, (z,))[0], wanted[0])
    norm.weight.requires_grad_()
    got = gradients(norm_fire(z.detach(), norm, frozen).values, (norm.weight,))
    assert torch.equal(got[0], wanted[1])


def test_double_use_and_accumulation():
    norm, neuron = make(TOKENS)
    z, twin = inputs(4, TOKENS), copy.deepcopy(norm)
    weights = torch.randn(2, 4, *TOKENS)
    for net, run in ((norm, lambda *a: norm_fire(*a).values), (twin, plain)):
        for _ in range(2):
            (run(z, net, neuron) * weights[0] + run(z * 0.5, net, neuron) * weights[1]).sum().backward()
    assert error(norm.weight.grad, twin.weight.grad) <= 1e-5
    assert torch.equal(norm.running_var, twin.running_var)


@pytest.mark.parametrize("shape", [TOKENS, MAPS])
def test_norm_only_is_the_module(shape: tuple[int, ...]):
    norm, _ = make(shape)
    twin, z = copy.deepcopy(norm), inputs(3, shape)
    y = shapes.unfold_steps(twin(shapes.fold_steps(z)), 3) if len(shape) == 4 else twin(z.flatten(0, -2)).view(z.shape)
    assert torch.equal(norm_only(z, norm), y)


def test_what_does_not_fit_is_refused_before_anything_changes():
    norm, neuron = make(TOKENS)
    with pytest.raises(LayoutError, match="expected 11 channels, got 12"):
        norm_fire(torch.randn(2, 3, 5, 12), norm, neuron)
    with pytest.raises(LayoutError, match=r"expected tokens \(T, B, N, C\), got shape \(30, 11\)"):
        norm_fire(torch.randn(30, 11), norm, neuron)
    with pytest.raises(LayoutError, match="more than one value per channel in training"):
        norm_fire(torch.randn(1, 1, 1, 11), norm, neuron)
    with pytest.raises(LayoutError, match="beta of shape"):
        norm_fire(torch.randn(2, 3, 5, 11), norm, Firing(torch.rand(5), torch.tensor(1.0), Dspike()))
    assert norm.num_batches_tracked == 0
    with pytest.raises(SettingError) as caught:
        norm_fire(torch.randn(2, 3, 5, 11), nn.SyncBatchNorm(11), neuron)
    assert str(caught.value) == (
        "norm_fire: expected nn.BatchNorm1d or nn.BatchNorm2d, got SyncBatchNorm; use the plain path for it"
    )
