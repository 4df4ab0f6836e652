"""Kernel launches, on networks whose operators can be listed by hand."""

import sys

import pytest
import torch
from torch import nn

from snntorch_smixer.bench.kernels import kernel_launches
from snntorch_smixer.kernels import compiled


@pytest.mark.parametrize("fake", [True, False])
def test_a_layer_by_hand(fake):
    net = nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Flatten(), nn.Linear(3, 5), nn.ReLU())
    found = kernel_launches(net, torch.randn(4, 3), fake=fake)
    # Views run nothing, and the input needs no gradient.
    forward = {"addmm": 1, "relu": 1}
    backward = {"ones_like": 1, "threshold_backward": 1, "mm": 1, "sum": 1}
    assert found == {**forward, **backward}
    assert found.total() == 6


class Asks(nn.Module):
    """Allocates, asks and reads, none of which is a kernel; copies, which is one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        torch.promote_types(x.dtype, self.weight.dtype)
        room = torch.empty_like(x).detach()
        float(x.detach()[0, 0])
        room.copy_(x)
        return room.T.mul(self.weight)


def test_what_runs_no_kernel():
    # backward: (gradient * x).sum()
    assert kernel_launches(Asks(), torch.randn(4, 3)) == {"copy_": 1, "mul": 2, "ones_like": 1, "sum": 1}


def test_custom_operators_count():
    with torch.library._scoped_library("smixer_bench_test", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CPU")

        class Twice(nn.Module):
            def forward(self, x):
                return torch.ops.smixer_bench_test.twice(x)

        assert kernel_launches(Twice(), torch.randn(4, 3)) == {"twice": 1}


def test_nothing_stays_on_the_network():
    net, x = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)).eval(), torch.randn(4, 3)
    before = net[1].running_mean.clone()
    assert kernel_launches(net, x)["native_batch_norm"] == 1
    assert torch.equal(net[1].running_mean, before)
    assert all(p.grad is None for p in net.parameters())
    assert not net[1].training


class Doubled(nn.Module):
    """Calls a function that is no operator of torch."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        with torch.no_grad():
            y = self.function(x)
        return y * self.weight


AROUND = {"mul": 2, "ones_like": 1, "sum": 1}
"""Kernels of the product with the weight, and of its backward pass."""


@pytest.mark.slow  # it compiles
@pytest.mark.filterwarnings("default::DeprecationWarning", "ignore:The .grad attribute:UserWarning")  # torch's own
def test_compiled_code_counts_as_what_it_is_compiled_to():
    torch.compiler.reset()

    def function(x):
        return torch.mm((x * 2).relu() + 1, x.T).softmax(1)

    found = kernel_launches(Doubled(torch.compile(function)), torch.randn(40, 30))
    generated = {name: calls for name, calls in found.items() if name.startswith("cpp_fused")}
    # One kernel in front of the product and one behind it: x * 2, relu and + 1 are fused.
    assert list(generated.values()) == [1, 1]
    assert found == {**generated, "mm": 1, **AROUND}


@pytest.mark.slow  # it compiles
@pytest.mark.filterwarnings("default::DeprecationWarning", "ignore:The .grad attribute:UserWarning")  # torch's own
def test_fake_tensors_count_plain_torch_in_any_tier(firing_net):
    torch.compiler.reset()
    net, x = firing_net(T=2), torch.randn(6, 2, 16, 16)
    plain = kernel_launches(net, x, fake=True)
    with compiled.use("compile"):
        assert kernel_launches(net, x, fake=True) == plain
        found = kernel_launches(net, x)
    assert found.total() < plain.total() / 2
    assert any(name.startswith("cpp_fused") for name in found)
    assert found["mm"] == plain["mm"]


def test_a_profiler_that_was_there_stays():
    def mine(*_):
        pass

    before = sys.getprofile()
    sys.setprofile(mine)
    try:
        kernel_launches(nn.Linear(3, 5), torch.randn(4, 3))
        assert sys.getprofile() is mine
    finally:
        sys.setprofile(before)
