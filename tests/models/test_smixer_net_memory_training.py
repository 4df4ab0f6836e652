"""Training an SMixerNet in each memory mode: accumulation, frozen parts, wrapping, compiling, many processes."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from snntorch_smixer.layers.attention import SpikingSelfAttention
from snntorch_smixer.layers.memory import MODES, set_memory
from snntorch_smixer.layers.mixer import SpikingTokenMixer
from snntorch_smixer.patching.wrap import unwrap, wrap
from snntorch_smixer.pruning.pruner import DSTSPConfig
from tests.layers.test_memory_compare import LEAN, SHARE, assert_fires, assert_same, check, ran, worst


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 2, 16, 16)


def grads(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def backward(model: nn.Module, x: Tensor) -> Tensor:
    """Add the gradients of randomly weighted logits to those that are there."""
    torch.manual_seed(3)
    out = model(x)
    (out * torch.randn_like(out)).sum().backward()
    return out.detach()


@pytest.mark.parametrize("mode", LEAN)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_gradients_of_two_batches_add_up(firing_net, training, mode):
    net, first, second = firing_net(T=2, prune=DSTSPConfig(ps=0.4, t=1)).train(training), images(), images()
    assert_fires(net, first)
    twin = copy.deepcopy(net)
    set_memory(net, mode)
    set_memory(twin, "reference")
    backward(net, first)
    backward(twin, first)
    one = grads(twin)
    assert torch.equal(backward(net, second), backward(twin, second))
    assert worst(one, grads(twin)) > 0.1
    assert worst(grads(net), grads(twin)) <= 1e-5
    assert all(torch.equal(b, twin.get_buffer(name)) for name, b in net.named_buffers())


@pytest.mark.parametrize("mode", LEAN)
def test_two_passes_before_one_backward(firing_net, mode):
    net, first, second = firing_net(T=2).train(), images(), images()

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        return net(x) - 2 * net(second)

    want, got = ran(net, "reference", first, forward=forward), ran(net, mode, first, forward=forward)
    assert_same(got, want)
    assert got.saved < SHARE[mode] * want.saved


@pytest.mark.parametrize(
    ("frozen", "training"),
    [
        ("stem", True),
        ("stem", False),
        ("stem.units.0", True),
        ("blocks.0.mixer", True),
        ("blocks.0.mixer", False),
        ("blocks.1.mlp", True),
        ("blocks", True),
        ("head", False),
    ],
)
def test_frozen_parts(firing_net, frozen, training):
    net, x = firing_net(T=2).train(training), images()
    net.get_submodule(frozen).requires_grad_(False)
    assert_fires(net, x)
    want = ran(net, "reference", x)
    assert any(grad is None for grad in want.grads.values())
    for mode in LEAN:
        got = ran(net, mode, x)
        assert_same(got, want)
        assert got.saved < 0.6 * want.saved


def test_frozen_batch_norm_while_training(firing_net):
    net, x = firing_net(T=2).train(), images()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)
    check(net, x)


@pytest.mark.parametrize("mode", LEAN)
def test_three_steps_of_an_optimiser(firing_net, mode):
    net, batches = firing_net(T=2).train(), [images() for _ in range(3)]
    end = {}
    for name in ("reference", mode):
        twin = copy.deepcopy(net.double())
        set_memory(twin, name)
        step = torch.optim.SGD(twin.parameters(), 0.01, momentum=0.9)
        for x in batches:
            step.zero_grad()
            backward(twin, x.double())
            step.step()
        end[name] = twin.state_dict()
    moved = end["reference"]["stem.units.0.linear.weight"] - net.stem.units[0].linear.weight
    assert moved.abs().max() > 1e-4
    for name, value in end["reference"].items():
        torch.testing.assert_close(end[mode][name], value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_wrapped_and_unwrapped(firing_net, training):
    net, x = firing_net(T=3).train(training), images(6)
    before = {mode: ran(net, mode, x) for mode in MODES}
    wrap(net, ps=0.4, t=2)
    check(net, x)
    assert not torch.equal(ran(net, "fused", x).out, before["fused"].out)
    unwrap(net)
    for mode in MODES:
        assert_same(ran(net, mode, x), before[mode], tol=0.0)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_attention_swapped_and_put_back(firing_net, training):
    net, x = firing_net(T=3, mixer="ssa").train(training), images(6)
    before = {mode: ran(net, mode, x) for mode in MODES}
    for mode in LEAN:
        assert_same(before[mode], before["reference"])
    wrap(net, ps=0.3, t=2)
    assert isinstance(net.blocks[0].mixer, SpikingTokenMixer)
    want = ran(net, "reference", x)
    assert_fires(net, x, least=0.0)
    for mode in LEAN:
        got = ran(net, mode, x)
        assert_same(got, want)
        assert got.saved < SHARE[mode] * want.saved
    unwrap(net)
    assert isinstance(net.blocks[0].mixer, SpikingSelfAttention)
    for mode in MODES:
        assert_same(ran(net, mode, x), before[mode], tol=0.0)


def test_a_mode_set_before_the_swap_stays(firing_net):
    net = firing_net(T=2, mixer="ssa")
    set_memory(net, "recompute", chunks=2)
    wrap(net, ps=0.3, t=1)
    assert net.memory == "recompute"
    assert [block.mlp.memory for block in net.blocks] == ["recompute"] * 2
    assert [block.mixer.chunks for block in net.blocks] == [2, 2]
    set_memory(net, "reference")
    assert [block.mixer.memory for block in net.blocks] == ["reference"] * 2
    unwrap(net)
    assert net.stem.memory == "reference"
    assert net.memory == "mixed"  # the attention waited meanwhile, and comes back as it was


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# The compiler's own, on its way through any autograd.Function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(("training", "mode"), [(True, "recompute"), (False, "fused")])
def test_compiled_as_one_graph(firing_net, fresh_compiler, training, mode):
    net, x = firing_net(depth=1, T=2, prune=DSTSPConfig(ps=0.4, t=1)).train(training), images()
    want = ran(net, "reference", x)
    got = ran(net, mode, x, forward=lambda net, x: torch.compile(net, backend="eager", fullgraph=True)(x))
    assert_same(got, want)


@pytest.fixture
def one_process(tmp_path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("mode", LEAN)
def test_distributed_training(firing_net, one_process, mode):
    net, x = firing_net(T=2).train(), images()
    want = ran(net, "reference", x)
    net.memory = mode
    parallel = DistributedDataParallel(net)
    for _ in range(2):
        parallel.zero_grad()
        torch.manual_seed(1)
        out = parallel(x)
        assert torch.equal(out, want.out)
        torch.manual_seed(2)
        (out * torch.randn_like(out)).sum().backward()
        assert worst(grads(net), want.grads) <= 1e-5
    assert net.stem.units[0].norm.num_batches_tracked == want.buffers["stem.units.0.norm.num_batches_tracked"] + 1


def test_second_derivatives_of_a_network(firing_net):
    net, x = firing_net(T=2), images()
    for mode in MODES:
        net.memory = mode
        loss = net(x).square().sum()
        if mode == "reference":
            (first,) = torch.autograd.grad(loss, [net.stem.units[0].linear.weight], create_graph=True)
            first.square().sum().backward()
            assert net.head.linear.weight.grad.any()
            continue
        with pytest.raises(ValueError, match=r"^backward: got create_graph=True, but .* use the plain path"):
            torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
