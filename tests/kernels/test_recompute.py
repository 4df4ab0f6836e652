"""Units that keep only bits, against the plain unit with its neuron."""

import copy

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.errors import LayoutError
from snntorch_smixer.kernels import norm_fire as whole
from snntorch_smixer.kernels import recompute as pieces
from snntorch_smixer.kernels.fire import Firing, fire
from snntorch_smixer.kernels.lif import lif
from snntorch_smixer.kernels.norm_fire import norm_fire
from snntorch_smixer.kernels.recompute import recompute_mix, recompute_unit
from snntorch_smixer.kernels.spike_linear import spike_conv2d, spike_linear
from snntorch_smixer.kernels.spikes import Spikes, unpack
from snntorch_smixer.layers.mixer import mix_tokens
from snntorch_smixer.selection import Selection
from snntorch_smixer.surrogates import Dspike

KINDS = ["linear", "conv", "strided conv"]


def make(kind: str, steps: int, affine: bool = True, bias: bool = True) -> tuple[Spikes, nn.ModuleList, Firing]:
    """Spikes, the map with its BatchNorm, and a neuron that fires."""
    linear: nn.Module
    if kind == "linear":
        values, linear, norm = (
            torch.rand(steps, 3, 5, 11),
            nn.Linear(11, 13, bias=bias),
            nn.BatchNorm1d(13, affine=affine),
        )
    else:
        stride = 2 if "strided" in kind else 1
        values, linear = torch.rand(steps, 3, 6, 8, 10), nn.Conv2d(6, 13, 3, stride, padding=1, bias=bias)
        norm = nn.BatchNorm2d(13, affine=affine)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.3, 0.3)
    size = (13,) if kind == "linear" else (13, 1, 1)
    neuron = Firing((torch.rand(size) * 0.5 + 0.3).requires_grad_(), torch.rand(size).requires_grad_(), Dspike())
    return Spikes.of((values < 0.3).float().requires_grad_()), nn.ModuleList([linear, norm]), neuron


def plain(x: Tensor, unit: nn.ModuleList, neuron: Firing | None) -> Tensor:
    linear, norm = unit
    if x.dim() == 5:
        y = shapes.unfold_steps(norm(linear(shapes.fold_steps(x))), x.shape[0])
    else:
        y = linear(x)
        y = norm(y.flatten(0, -2)).view_as(y)
    return y if neuron is None else lif(y, neuron.beta, neuron.threshold, neuron.spike_grad, reset=neuron.reset)


def inputs(x: Tensor, unit: nn.Module, neuron: Firing | None) -> list[Tensor]:
    return [x, *unit.parameters(), *(() if neuron is None else (neuron.beta, neuron.threshold))]


def gradients(out: Tensor, of: list[Tensor]) -> tuple[Tensor, ...]:
    torch.manual_seed(7)
    return torch.autograd.grad((out * torch.randn(out.shape).to(out.dtype)).sum(), of)


def error(got: Tensor, wanted: Tensor) -> float:
    scale = wanted.double().abs().max().item()
    return (got.double() - wanted.double()).abs().max().item() / scale if scale else got.double().abs().max().item()


def check(spikes: Spikes, unit: nn.ModuleList, neuron: Firing | None, tolerance: float = 1e-5, **settings) -> None:
    """Output, statistics and gradients; the bias in front of BatchNorm in training has none but rounding."""
    twin = copy.deepcopy(unit)
    dtype = settings.pop("autocast", None)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        got = recompute_unit(spikes, *unit, neuron, **settings)
        wanted = plain(spikes.values, twin, neuron)
    values = got if neuron is None else got.values
    if neuron is not None:
        assert 0.05 < wanted.float().mean() < 0.7
        assert torch.equal(unpack(got.bits, got.channels, wanted.dtype), wanted)
    assert values.dtype == wanted.dtype
    assert torch.equal(values, wanted)
    for a, b in zip(unit.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    names = ["input", *(name for name, _ in unit.named_parameters()), "beta", "threshold"]
    of = gradients(values, inputs(spikes.values, unit, neuron))
    plain_of = gradients(wanted, inputs(spikes.values, twin, neuron))
    scale = plain_of[1].abs().max().item()
    for name, a, b in zip(names, of, plain_of, strict=False):
        assert a.dtype == b.dtype
        if name == "0.bias" and unit[1].training:
            assert (a - b).abs().max() <= 1e-3 * scale if dtype is None else True
        else:
            assert error(a, b) <= tolerance, name


@pytest.mark.parametrize("fires", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_it_is_the_plain_unit(steps: int, kind: str, training: bool, fires: bool):
    spikes, unit, neuron = make(kind, steps)
    check(spikes, unit.train(training), neuron if fires else None)


@pytest.mark.parametrize("kind", KINDS)
def test_without_affine_and_bias(kind: str):
    check(*make(kind, 3, affine=False, bias=False))


@pytest.mark.parametrize("kind", KINDS)
def test_float64_is_exact(kind: str):
    spikes, unit, neuron = make(kind, 4)
    twin = Firing(*(t.detach().double().requires_grad_() for t in (neuron.beta, neuron.threshold)), Dspike())
    check(Spikes.of(spikes.values.detach().double().requires_grad_()), unit.double(), twin, tolerance=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind: str, dtype: torch.dtype):
    spikes, unit, neuron = make(kind, 4, bias=False)
    # Sums of the surrogate's two forms, equal up to rounding, are rounded to half precision on the way.
    check(spikes, unit, neuron, tolerance=4 * torch.finfo(dtype).eps, autocast=dtype)


def fused(spikes: Spikes, unit: nn.ModuleList, neuron: Firing) -> Tensor:
    linear, norm = unit
    z = spike_linear(spikes, linear) if isinstance(linear, nn.Linear) else spike_conv2d(spikes, linear)
    return norm_fire(z, norm, neuron).values


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_fused_path_bit_for_bit(kind: str, dtype: torch.dtype | None):
    spikes, unit, neuron = make(kind, 4)
    twin = copy.deepcopy(unit)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        got, wanted = recompute_unit(spikes, *unit, neuron).values, fused(spikes, twin, neuron)
    assert torch.equal(got, wanted)
    of = gradients(got, inputs(spikes.values, unit, neuron)), gradients(wanted, inputs(spikes.values, twin, neuron))
    assert all(torch.equal(a, b) for a, b in zip(*of, strict=True))


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_gradient_of_other_strides_gives_what_plain_torch_gives(dtype: torch.dtype | None, chunks: int):
    # Tokens made of a map hand their gradient back channels last; in half precision torch sums that otherwise.
    spikes, unit, _ = make("conv", 4, bias=False)
    twin, of = copy.deepcopy(unit), []
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        outs = recompute_unit(spikes, *unit, None, chunks=chunks), plain(spikes.values, twin, None)
    for out, own in zip(outs, (unit, twin), strict=True):
        of.append(gradients(shapes.grid_to_tokens(out), inputs(spikes.values, own, None)))
    for name, a, b in zip(("input", "conv", "weight", "bias"), *of, strict=True):
        rounded = 1e-5 if dtype is None or name != "conv" or chunks == 1 else torch.finfo(dtype).eps
        assert error(a, b) <= rounded, name


@pytest.mark.parametrize("kind", KINDS)
def test_the_backward_pass_may_run_inside_an_autocast_region(kind: str):
    spikes, unit, neuron = make(kind, 4)
    results = []
    for inside in (False, True):
        out = recompute_unit(spikes, *unit, neuron).values
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            results.append(gradients(out, inputs(spikes.values, unit, neuron)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("fires", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("chunks", [2, 5, 100])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_chunks_change_nothing_but_the_order_of_sums(steps: int, kind: str, chunks: int, training: bool, fires: bool):
    spikes, unit, neuron = make(kind, steps)
    check(spikes, unit.train(training), neuron if fires else None, chunks=chunks)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_in_half_precision(kind: str):
    spikes, unit, neuron = make(kind, 4, bias=False)
    check(spikes, unit, neuron, tolerance=4 * torch.finfo(torch.bfloat16).eps, autocast=torch.bfloat16, chunks=3)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_parameters_of_each_sample_s_own_are_not_cut_up(kind: str):
    spikes, unit, neuron = make(kind, 4)
    own = torch.rand(3, *(1,) * (spikes.values.dim() - 2), requires_grad=True)
    check(spikes, unit, Firing(neuron.beta, own, neuron.spike_grad), chunks=3)


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_spikes_are_rebuilt_bit_for_bit(monkeypatch, kind: str, chunks: int):
    seen: list[Tensor] = []
    backward = whole.fire_backward

    def spy(y, grad, neuron, needs, **settings):
        seen.append(lif(y, neuron.beta, neuron.threshold, neuron.spike_grad))
        return backward(y, grad, neuron, needs, **settings)

    for home in (whole, pieces):
        monkeypatch.setattr(home, "fire_backward", spy)
    for size in (1, 4, 32):
        spikes, unit, neuron = make(kind, size)
        out = recompute_unit(spikes, *unit, neuron, chunks=chunks).values
        gradients(out, [spikes.values])
        assert len(seen) == chunks
        assert torch.equal(torch.cat(seen, 1), out)
        seen.clear()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_bits_and_two_numbers_per_channel(saved_storages, kind: str, training: bool):
    spikes, unit, neuron = make(kind, 4)
    unit.train(training)
    mine = {t.untyped_storage().data_ptr() for t in (*inputs(spikes.values, unit, neuron), *unit.buffers())}
    held = saved_storages(lambda: recompute_unit(spikes, *unit, neuron))
    bits = spikes.bits.untyped_storage()
    extra = {at: size for at, size in held.items() if at not in mine}
    assert spikes.values.untyped_storage().data_ptr() not in held
    assert extra.pop(bits.data_ptr()) == bits.nbytes() == spikes.values.numel() // spikes.channels * 2
    assert list(extra.values()) == [13 * 4, 13 * 4]


def test_an_image_is_kept_as_it_is(saved_storages):
    _, unit, neuron = make("conv", 1)
    image = torch.randn(2, 3, 6, 8, 10, requires_grad=True)
    twin = copy.deepcopy(unit)
    got, wanted = recompute_unit(image, *unit, neuron).values, plain(image, twin, neuron)
    assert torch.equal(got, wanted)
    pairs = zip(gradients(got, inputs(image, unit, None)), gradients(wanted, inputs(image, twin, None)), strict=True)
    assert max(error(a, b) for i, (a, b) in enumerate(pairs) if i != 2) <= 1e-5
    assert image.untyped_storage().data_ptr() in saved_storages(lambda: recompute_unit(image, *unit, neuron))


@pytest.mark.parametrize("chunks", [1, 2, 100])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_static_input_is_shown_again(kind: str, chunks: int):
    spikes, unit, neuron = make(kind, 1)
    twin = copy.deepcopy(unit)
    got = recompute_unit(spikes, *unit, neuron, chunks=chunks, steps=4).values
    y = plain(spikes.values, twin, None)
    wanted = lif(y.expand(4, *y.shape[1:]), neuron.beta, neuron.threshold, neuron.spike_grad)
    assert len({row.sum().item() for row in wanted}) > 1
    assert torch.equal(got, wanted)
    of = gradients(got, inputs(spikes.values, unit, neuron))
    plain_of = gradients(wanted, inputs(spikes.values, twin, neuron))
    assert max(error(a, b) for i, (a, b) in enumerate(zip(of, plain_of, strict=True)) if i != 2) <= 1e-5
    with pytest.raises(LayoutError, match="recompute_unit: expected 1 or 4 steps"):
        recompute_unit(make(kind, 2)[0], *unit, neuron, steps=4)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("keep", [None, 1, 3, 5])
def test_mix_and_its_neuron(saved_storages, keep: int | None, autocast: torch.dtype | None):
    w_m = nn.Conv1d(15, 15, 1, groups=3, bias=False)
    nn.init.normal_(w_m.weight)
    kept = None
    if keep is not None:
        tokens = torch.stack([torch.randperm(5)[:keep].sort().values for _ in range(3)])
        kept = Selection(torch.arange(4).repeat(3, 1), tokens, 4, 5)
    spikes = Spikes.of((torch.rand(4, 3, 5 if keep is None else keep, 9) < 0.4).float().requires_grad_())
    neuron = Firing(torch.tensor(0.5), torch.tensor(0.4, requires_grad=True), Dspike())
    of = [spikes.values, w_m.weight, neuron.threshold]
    matrix = w_m.weight.view(3, 5, 5)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        got = recompute_mix(spikes, matrix, kept, neuron).values
        wanted = fire(mix_tokens(w_m, spikes.values, kept), neuron.beta, neuron.threshold, neuron.spike_grad).values
    assert 0.02 < wanted.float().mean() < 0.8
    assert got.dtype == wanted.dtype
    assert torch.equal(got, wanted)
    assert max(error(a, b) for a, b in zip(gradients(got, of), gradients(wanted, of), strict=True)) <= 1e-5
    mine = {t.untyped_storage().data_ptr() for t in (w_m.weight, neuron.beta, neuron.threshold)}
    held = saved_storages(lambda: recompute_mix(spikes, matrix, kept, neuron))
    assert set(held) - mine == {spikes.bits.untyped_storage().data_ptr()}
