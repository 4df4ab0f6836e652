"""Memory modes of wrapped models: the same logits and gradients, and less is kept, for every model."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from snntorch_smixer import dstsp, set_memory
from snntorch_smixer.bench.peak import held_bytes
from snntorch_smixer.memory import MODES
from tests.fakes.neurons import reset
from tests.fakes.wrapped import EVERY, each, logits, wrapped
from tests.fakes.zoo import Fake

# Spikes and tokens; levels and a grid; the library's own neurons. The others are slow.
FEW = ("stmixer", "sdt_v3_large", "sj_spikformer")


class FromRest(nn.Module):
    """A model that gives one tensor, from rest and back to rest."""

    def __init__(self, fake: Fake, model: nn.Module) -> None:
        super().__init__()
        self.fake, self.model = fake, model

    def forward(self, x: Tensor) -> Tensor:
        out = logits(self.fake, self.model, x, grad=torch.is_grad_enabled())
        reset(self.model)
        return out


def train_step(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Logits, gradients and buffers after one forward and backward."""
    torch.manual_seed(2)  # DropPath
    net.zero_grad(set_to_none=True)
    out = net(x)
    (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    return [out.detach(), *grads, *(b.clone() for b in net.buffers())]


@each(FEW)
def test_all_modes_give_the_same_and_each_keeps_less(fake: Fake):
    check_modes(fake, ps=0, t=None, swap=False)


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("settings", [{"ps": 0, "t": None, "swap": False}, {"ps": 0.3, "t": 1}])
def test_all_modes_of_every_model(fake: Fake, settings: dict):
    check_modes(fake, **settings)


def check_modes(fake: Fake, **settings) -> None:
    """Two training steps in every mode are alike, and the modes keep less and less."""
    made, x = wrapped(fake, mode=True, **settings).model, fake.example(2)
    results, held, found = [], [], None
    for mode in MODES:
        net = FromRest(fake, copy.deepcopy(made))
        set_memory(net, mode)
        results.append([train_step(net, x), train_step(net, x)])  # the first one looks, the second one knows
        held.append(held_bytes(net, x))
        found = net.model.dstsp.found
    for result in results[1:]:
        for one, first in zip(result, results[0], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, first, strict=True))
    assert any(grad.any() for grad in results[0][0][1:])
    # Random states of a few kB per neuron weigh on models this small, most where they are pruned.
    assert held[1] < (0.55 if not settings["ps"] else 0.6) * held[0]
    assert all(later < 0.98 * earlier for earlier, later in pairwise(held))
    assert {*found.neurons.values()} == {""}
    assert not found.refused
    assert any(found.pairs.values())
    assert found.maps


@each(["qkformer"])
def test_bf16_gives_the_same(fake: Fake):
    made, x = wrapped(fake, mode=True).model, fake.example(4)
    results = []
    for mode in MODES:
        net = FromRest(fake, copy.deepcopy(made))
        set_memory(net, mode)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results.append(train_step(net, x))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@each(["spikformer_imagenet"])
@pytest.mark.parametrize("mode", MODES[1:])
def test_distributed_training_gives_the_same(fake: Fake, mode: str, one_process):
    model, x = wrapped(fake, mode=True).model, fake.example(4)
    plain, lean = FromRest(fake, copy.deepcopy(model)), FromRest(fake, model)
    parallel = DistributedDataParallel(lean, find_unused_parameters=True)
    set_memory(parallel, mode)
    for _ in range(2):
        one, other = train_step(parallel, x), train_step(plain, x)
        assert len(one) == len(other)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert mode in {seen for seen, _ in model.dstsp.found.looked}


@each(FEW)
def test_the_summary_tells_every_pair(fake: Fake):
    model, x = wrapped(fake, mode=True).model, fake.example(4)
    set_memory(model, "fused")
    assert "are looked for in the first training forward" in str(dstsp.summary(model))
    train_step(FromRest(fake, model), x)
    told = str(dstsp.summary(model))
    for neuron, norm in model.dstsp.found.pairs.items():
        assert (f"{norm} -> {neuron}" if norm else neuron) in told
        assert not norm or isinstance(model.get_submodule(norm), nn.modules.batchnorm._BatchNorm)
