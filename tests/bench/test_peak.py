"""Peak bytes, on networks whose levels can be written down by hand."""

import gc

import pytest
import torch
from torch import nn

from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.bench.peak import Ledger, held_bytes, peak_bytes
from snntorch_smixer.kernels import compiled
from snntorch_smixer.layers.memory import set_memory


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8, bias=False), nn.Tanh(), nn.Linear(8, 2, bias=False), nn.Tanh())


@pytest.mark.parametrize("fake", [True, False])
def test_two_layers_by_hand(fake):
    # 4 * 8 = 32 bytes a sample behind the first layer, 8 behind the second.
    # Forward: linear 32, tanh 64, (input of tanh freed) 32, linear 40, tanh 48, 40: at most 64.
    # Backward: gradient of the output 48; before the second tanh 56; before the second layer 88, (freed) 80; before the
    # first tanh 112: output and its gradient 8 each, output of the first tanh and the gradients on its sides 32 each.
    # The gradients of the weights are not counted.
    assert peak_bytes(two_layers(), torch.randn(5, 3), fake=fake) == 112


class Wide(nn.Module):
    """Its peak is in the forward pass: four temporaries side by side, of which nothing is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        a, b, c = x.detach() + 1, x.detach() + 2, x.detach() + 3
        return (a + b + c).sum(1) + self.weight


def test_temporaries_of_the_forward_pass_count():
    # (a + b) and (a + b) + c beside a, b and c: five of 400 bytes a sample
    assert peak_bytes(Wide(), torch.randn(2, 100)) == 5 * 400


def test_samples_may_lie_on_another_axis():
    assert peak_bytes(two_layers(), torch.randn(7, 5, 3), batch_axis=1) == 7 * 112


def test_half_precision_is_half():
    assert peak_bytes(two_layers().bfloat16(), torch.randn(5, 3).bfloat16()) == 56


def test_gradients_that_were_there_make_no_difference():
    net, x = two_layers(), torch.randn(5, 3)
    net(x).sum().backward()
    kept = [p.grad for p in net.parameters()]
    assert peak_bytes(net, x) == 112
    assert all(p.grad is grad for p, grad in zip(net.parameters(), kept, strict=True))


def test_views_and_what_was_there_before_are_not_counted():
    old = torch.zeros(1000)
    with Ledger() as ledger:
        old.add_(1)
        a = old[:10] * 2  # 40 bytes
        b = a.view(2, 5).transpose(0, 1)
        a.mul_(2)
        del b
        c = a + 1  # 80
        del a, c
        torch.ones(5)
    assert ledger.peak() == 80


def test_levels_without_some_tensors():
    with Ledger() as ledger:
        big, small = torch.zeros(100), torch.zeros(10)
        assert ledger.peak(without=ledger.numbers([big])) == 40
    assert ledger.peak() == 440
    assert ledger.numbers([torch.zeros(3), small]) == {1}
    assert Ledger().peak() == 0


@pytest.mark.parametrize("fake", [True, False])
def test_held_by_hand(fake):
    # the output of the first tanh; that of the second is the output of the network
    assert held_bytes(two_layers(), torch.randn(5, 3), fake=fake) == 32


class Hiding(torch.autograd.Function):
    """Keeps a tensor where autograd does not know of it."""

    @staticmethod
    def forward(ctx, x):
        ctx.hidden = x.exp()
        return ctx.hidden.sum()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.hidden


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 8, bias=False)

    def forward(self, x):
        return Hiding.apply(self.linear(x))


@pytest.mark.parametrize("fake", [True, False])
def test_what_autograd_is_not_told_is_held_all_the_same(fake):
    assert saved_bytes(Hidden(), torch.randn(5, 3), fake=fake) == 0
    assert held_bytes(Hidden(), torch.randn(5, 3), fake=fake) == 32


def test_our_network_hides_nothing(firing_net):
    net, x = firing_net(), torch.randn(6, 2, 16, 16)
    assert held_bytes(net, x) == saved_bytes(net, x)


def test_the_garbage_collector_does_not_decide():
    class Cycles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x):
            for _ in range(50):
                mine = [x.detach() + 1]
                mine.append(mine)
                del mine
                held = [[] for _ in range(2000)]  # enough new objects to start the collector
            return x * self.weight + len(held)

    assert peak_bytes(Cycles(), torch.randn(2, 25)) >= 50 * 100
    assert gc.isenabled()


def test_the_same_sum_as_torchs_own_tracker(firing_net):
    tracker = pytest.importorskip("torch.distributed._tools.mem_tracker")
    from snntorch_smixer.bench.subject import training

    net, x = firing_net(), torch.randn(6, 2, 16, 16)
    # On the lean modes theirs is far above what torch's allocator reports, ours is not.
    set_memory(net, "reference")
    with training(net, x) as subject:
        theirs = tracker.MemTracker()
        theirs.track_external(net, x)
        with theirs:
            subject.step()
        peak = theirs.get_tracker_snapshot("peak")[x.device]
    found = sum(peak[kind] for kind in (tracker._MemRefType.ACT, tracker._MemRefType.TEMP))
    # Theirs is the peak with the gradients of the weights in it, which may lie elsewhere.
    assert peak_bytes(net, x) * 6 == pytest.approx(found, rel=0.01)


@pytest.mark.parametrize("fake", [True, False])
def test_the_compile_tier_is_measured_uncompiled_and_goes_on(firing_net, fake):
    net, x = firing_net(T=2), torch.randn(6, 2, 16, 16)
    plain = peak_bytes(net, x, fake=fake), held_bytes(net, x, fake=fake), saved_bytes(net, x, fake=True)
    with compiled.use("compile"):
        assert (peak_bytes(net, x, fake=fake), held_bytes(net, x, fake=fake), saved_bytes(net, x, fake=True)) == plain
        assert compiled.active()["active"] == "compile"
