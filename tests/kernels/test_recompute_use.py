"""Units that keep bits, in use: frozen parts, twice in a net, distributed; and input that they do not serve."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.kernels.fire import Firing
from snntorch_smixer.kernels.recompute import recompute_unit
from snntorch_smixer.kernels.spikes import Spikes
from snntorch_smixer.surrogates import Dspike
from tests.kernels.test_recompute import error, gradients, inputs, make, plain


@pytest.mark.parametrize("chunks", [1, 3])
def test_frozen_parts(chunks: int):
    spikes, unit, neuron = make("conv", 2, bias=False)
    out = recompute_unit(spikes, *unit, neuron, chunks=chunks).values
    everything = gradients(out, inputs(spikes.values, unit, neuron))
    for i, tensor in enumerate(inputs(spikes.values, unit, neuron)):
        (alone,) = gradients(recompute_unit(spikes, *unit, neuron, chunks=chunks).values, [tensor])
        assert error(alone, everything[i]) <= 1e-6
    unit[0].requires_grad_(False)
    (frozen,) = gradients(recompute_unit(spikes, *unit, neuron, chunks=chunks).values, [spikes.values])
    assert error(frozen, everything[0]) <= 1e-6


@pytest.mark.parametrize("chunks", [1, 3])
def test_double_use_and_accumulation(chunks: int):
    spikes, _, neuron = make("conv", 4)
    unit = nn.ModuleList([nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)])
    twin, neuron = copy.deepcopy(unit), Firing(torch.tensor(0.5), torch.tensor(0.4, requires_grad=True), Dspike())
    found = []
    for mine, own in ((True, unit), (False, twin)):
        neuron.threshold.grad = None
        for _ in range(2):
            if mine:
                once = recompute_unit(spikes, *own, neuron, chunks=chunks)
                out = recompute_unit(once, *own, neuron, chunks=chunks).values
            else:
                out = plain(plain(spikes.values, own, neuron), own, neuron)
            torch.manual_seed(3)
            (out * torch.randn(out.shape)).sum().backward()
        found.append([out, *(p.grad for p in own.parameters()), neuron.threshold.grad])
    assert torch.equal(found[0][0], found[1][0])
    assert max(error(a, b) for a, b in zip(*found, strict=True)) <= 1e-5
    assert unit[1].num_batches_tracked == 4


class InPieces(nn.Module):
    """One unit in three pieces, as a model that can be distributed."""

    def __init__(self, unit: nn.ModuleList, neuron: Firing) -> None:
        super().__init__()
        self.unit, self.threshold, self.neuron = unit, nn.Parameter(neuron.threshold.detach()), neuron

    def forward(self, values: Tensor) -> Tensor:
        neuron = Firing(self.neuron.beta.detach(), self.threshold, self.neuron.spike_grad)
        return recompute_unit(Spikes.of(values), *self.unit, neuron, chunks=3).values


def test_distributed_training_in_pieces(tmp_path):
    spikes, unit, neuron = make("conv", 4, bias=False)
    model, twin = InPieces(unit, neuron), copy.deepcopy(unit)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(model)
        for out in (parallel(spikes.values.detach()), plain(spikes.values.detach(), twin, neuron)):
            torch.manual_seed(3)
            (out * torch.randn(out.shape)).sum().backward()
    finally:
        dist.destroy_process_group()
    pairs = [*zip(unit.parameters(), twin.parameters(), strict=True), (model.threshold, neuron.threshold)]
    assert max(error(mine.grad, own.grad) for mine, own in pairs) <= 1e-5


class NoGradient(torch.autograd.Function):
    """The identity with nothing to say in its backward pass."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


def test_what_comes_behind_may_have_no_gradient():
    spikes, unit, neuron = make("conv", 2)
    NoGradient.apply(recompute_unit(spikes, *unit, neuron).values).sum().backward()
    assert unit[0].weight.grad is None


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_what_is_not_finite_passes_as_in_plain_torch(odd: float, chunks: int, training: bool):
    _, unit, neuron = make("conv", 1)
    unit.train(training)
    image = torch.randn(4, 3, 6, 8, 10)
    image[1, 2, 3, 4, 5] = odd
    image.requires_grad_()
    twin = copy.deepcopy(unit)
    got, wanted = recompute_unit(image, *unit, neuron, chunks=chunks).values, plain(image, twin, neuron)
    assert torch.equal(got, wanted)
    assert wanted.any() != training  # batch statistics spread it over everything
    of = gradients(got, inputs(image, unit, neuron)), gradients(wanted, inputs(image, twin, neuron))
    assert any(b.isnan().any() for b in of[1])
    for i, (a, b) in enumerate(zip(*of, strict=True)):
        assert torch.equal(a.isnan(), b.isnan())
        if i != 2 or not training:
            assert error(a.nan_to_num(), b.nan_to_num()) <= 1e-5
    torch.testing.assert_close(dict(unit.named_buffers()), dict(twin.named_buffers()), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn])
@pytest.mark.parametrize("autocast", [True, False])
def test_other_numbers_are_refused_before_anything_changes(dtype: torch.dtype, autocast: bool):
    _, unit, neuron = make("conv", 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), pytest.raises(LayoutError) as caught:
        recompute_unit(torch.ones(2, 3, 6, 8, 10).to(dtype), *unit, neuron)
    assert str(caught.value) == (
        f"recompute_unit: expected float16, bfloat16, float32, float64, got {dtype}; convert the input, for example "
        "with .float()"
    )
    assert unit[1].num_batches_tracked == 0


def test_what_does_not_fit_is_refused_before_anything_changes():
    spikes, unit, neuron = make("conv", 2)
    for settings, changed, words in (
        ({"chunks": 0}, unit[1], "chunks=0 must be a whole number of at least 1"),
        ({}, nn.GroupNorm(1, 13), "expected nn.BatchNorm1d or nn.BatchNorm2d, got GroupNorm"),
    ):
        with pytest.raises(SettingError, match=words):
            recompute_unit(spikes, unit[0], changed, neuron, **settings)
    with pytest.raises(LayoutError, match="recompute_unit: expected 14 channels, got 13"):
        recompute_unit(spikes, unit[0], nn.BatchNorm2d(14), neuron)
    with pytest.raises(LayoutError, match="recompute_unit: threshold of shape"):
        recompute_unit(spikes, *unit, Firing(torch.tensor(0.5), torch.rand(7), Dspike()))
    assert unit[1].num_batches_tracked == 0
    with pytest.raises(SettingError, match="create_graph=True"):
        torch.autograd.grad(recompute_unit(spikes, *unit, neuron).values.sum(), spikes.values, create_graph=True)
