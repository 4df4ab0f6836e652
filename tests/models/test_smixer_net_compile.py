"""SMixerNet with DSTSP through torch.compile as one graph: the same results, also after settings change."""

import copy
import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.layers.mixer import SpikingTokenMixer
from snntorch_smixer.pruning.pruner import DSTSP, DSTSPConfig

# The compiler's own, on its way through any autograd.Function.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def images(batch: int = 6) -> Tensor:
    return torch.randn(batch, 2, 16, 16)


def compiled(net: nn.Module, backend: str = "eager") -> Callable[[Tensor], Tensor]:
    return torch.compile(net, fullgraph=True, backend=backend)


def assert_same(fast: Callable[[Tensor], Tensor], net: nn.Module, x: Tensor, twin: nn.Module) -> Tensor:
    """Logits and gradients of ``fast``, which compiles ``net``, are those of its plain copy ``twin``."""
    got, expected = fast(x), twin(x)
    assert len(expected.unique(dim=0)) == len(x)
    torch.testing.assert_close(got, expected)
    net.zero_grad()
    twin.zero_grad()
    got.square().sum().backward()
    expected.square().sum().backward()
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert q.grad.any(), name
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5, msg=name)
    return got


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("training", [True, False])
def test_equal_to_eager_also_after_ps_changed(firing_net, backend, training):
    net = firing_net(depth=1, T=2, prune=DSTSPConfig()).train(training)
    twin, x = copy.deepcopy(net), images()
    fast = compiled(net, backend)
    before = assert_same(fast, net, x, twin)
    net.dstsp.ps = twin.dstsp.ps = 0.6
    after = assert_same(fast, net, x, twin)
    assert not torch.allclose(before, after)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("t", "merge", "w_prime", "cap"),
    [(1, "fuse", "gather", None), (None, "sum", "crop", 1), (1, "drop", "shared", None)],
)
def test_every_setting_is_one_graph(firing_net, t, merge, w_prime, cap):
    settings = DSTSPConfig(ps=0.4, t=t, merge=merge, w_prime=w_prime, spike_cap=cap)
    net = firing_net(depth=1, T=2, prune=settings)
    assert_same(compiled(net), net, images(), copy.deepcopy(net))
    assert compiled(net.train())(images()).isfinite().all()


def test_batch_sizes_may_change(firing_net):
    net = firing_net(depth=1, T=2, prune=DSTSPConfig())
    fast, twin = compiled(net), copy.deepcopy(net)
    for batch in (4, 7, 3):
        assert_same(fast, net, images(batch), twin)


def test_the_attention_baseline_is_one_graph(firing_net):
    net = firing_net(depth=1, T=2, mixer="ssa", prune=DSTSPConfig())
    assert_same(compiled(net), net, images(), copy.deepcopy(net))


class PrunedMixer(nn.Module):
    """Pruning and one mixer, on tokens laid out as the stem leaves them."""

    def __init__(self) -> None:
        super().__init__()
        self.dstsp = DSTSP(DSTSPConfig(ps=0.3, t=1))
        self.mixer = SpikingTokenMixer(16, num_tokens=16, heads=2)

    def forward(self, grid: Tensor) -> Tensor:
        x, kept = self.dstsp(shapes.grid_to_tokens(grid), shapes.grid_to_tokens((grid > 1).float()))
        return x + self.mixer(x, kept)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
def test_inductor_takes_a_changing_batch():
    net = PrunedMixer()
    fast, twin = torch.compile(net, fullgraph=True), copy.deepcopy(net)
    for batch in (8, 6):
        grid = torch.randn(2, batch, 16, 4, 4, requires_grad=True)
        got, expected = fast(grid), twin(grid)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        (gradient,) = torch.autograd.grad(got.square().sum(), net.mixer.w_m.weight)
        (reference,) = torch.autograd.grad(expected.square().sum(), twin.mixer.w_m.weight)
        assert reference.any()
        torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-3)
