"""Lossless means lossless: what an SMixerNet gives does not depend on what its layers keep for backward."""

import copy

import pytest
import torch

from snntorch_smixer.layers.memory import MODES, memory_mode, set_memory
from snntorch_smixer.pruning.pruner import DSTSP, DSTSPConfig
from tests.layers.test_memory_compare import LEAN, assert_same, check, ran

MERGES = ("softmatch", "drop", "sum", "fuse")


def images(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 2, 16, 16)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("frames", [True, False], ids=["frames", "images"])
@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_every_number_of_steps(firing_net, steps, frames, training):
    net = firing_net(T=steps, depth=1).train(training)
    x = torch.randn(steps, 3, 2, 16, 16) if frames else images()
    check(net, x)
    if steps < 16:
        check(net.double(), x.double(), tol=1e-10)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_odd_numbers_of_tokens_and_heads(firing_net, training):
    net = firing_net(img_size=(12, 20), dim=24, heads=3, T=3, mlp_ratio=0.875).train(training)
    assert net.config.num_tokens == 15
    assert net.blocks[0].mlp.expand.linear.out_features == 21
    check(net, torch.randn(3, 2, 12, 20))


@pytest.mark.parametrize("tokens", range(1, 10))
@pytest.mark.parametrize("w_prime", ["gather", "crop", "shared"])
def test_every_number_of_kept_tokens(firing_net, w_prime, tokens):
    net = firing_net(img_size=(12, 12), heads=1 + tokens % 2, depth=1, T=2).train()
    net.dstsp = DSTSP(DSTSPConfig(ps=1 - tokens / 9, t=None, w_prime=w_prime), depth=1)
    for block in net.blocks:
        block.mixer.w_m.weight.data.abs_()  # a single token whose weight is negative would silence everything
    seen = []
    hook = net.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2]))
    with torch.no_grad():
        copy.deepcopy(net)(torch.randn(8, 2, 12, 12))
    hook.remove()
    assert seen == [tokens]
    check(net, torch.randn(16, 2, 12, 12))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize(("w_prime", "heads"), [("gather", 1), ("gather", 8), ("crop", 2), ("shared", 2)])
def test_every_way_of_pruning(firing_net, w_prime, heads, merge, training):
    net = firing_net(heads=heads, depth=1, T=3).train(training)
    net.dstsp = DSTSP(DSTSPConfig(ps=0.4, t=2, w_prime=w_prime, merge=merge), depth=1)
    check(net, images(6))


def test_more_tokens_go_in_each_block(firing_net):
    net = firing_net(T=2).train()
    net.dstsp = DSTSP(DSTSPConfig(ps=(0.2, 0.6), t=1), depth=2)
    check(net, images(8))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_bfloat16_autocast(firing_net, training):
    net, x = firing_net(T=4).train(training), images(6)
    want = ran(net, "reference", x, autocast=torch.bfloat16)
    assert want.out.dtype == torch.bfloat16
    assert not torch.equal(want.out.float(), ran(net, "reference", x).out)
    # Recomputing hands BatchNorm contiguous gradients, which sums them in another order: in bfloat16 that is visible.
    for mode, tol in (("fused", 1e-5), ("recompute", 0.05)):
        got = ran(net, mode, x, autocast=torch.bfloat16)
        assert_same(got, want, tol=tol)
        assert got.saved < 0.5 * want.saved


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("chunks", [2, 3, 100])
def test_chunks_change_nothing_but_rounding(firing_net, chunks, training):
    net, x = firing_net(T=3).train(training), images(5)
    want, got = ran(net, "reference", x), ran(net, "recompute", x, chunks=chunks)
    assert_same(got, want, rounding=1e-5)
    assert got.saved < 0.25 * want.saved
    assert_same(ran(net, "fused", x, chunks=chunks), want)


@pytest.mark.parametrize("mode", LEAN)
def test_each_layer_may_have_its_own_mode(firing_net, mode):
    net, x = firing_net(T=2).train(), images()
    want = ran(net, "reference", x)
    set_memory(net, "reference")
    set_memory(net.blocks[0], mode)
    set_memory(net.blocks[1].mlp, "recompute")
    assert net.memory == "mixed"
    assert net.stem.memory == "reference"
    net.zero_grad()
    out = net(x)
    assert torch.equal(out, want.out)
    torch.manual_seed(2)
    (out * torch.randn_like(out)).sum().backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, want.grads[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("mode", LEAN)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_without_gradients(firing_net, training, mode):
    net, x = firing_net(T=2).train(training), images()
    twin = copy.deepcopy(net)
    net.memory, twin.memory = mode, "reference"
    with torch.no_grad():
        assert torch.equal(net(x), twin(x))
    with torch.inference_mode():
        assert torch.equal(net(x), twin(x))
    assert all(torch.equal(b, twin.get_buffer(name)) for name, b in net.named_buffers())


@pytest.mark.parametrize("mode", LEAN)
def test_gradient_of_the_input(firing_net, mode):
    grads = {}
    net, x = firing_net(T=2).requires_grad_(False), images()
    for name in ("reference", mode):
        given = x.clone().requires_grad_()
        with memory_mode(net, name):
            net(given).square().sum().backward()
        grads[name] = given.grad
    assert grads["reference"].any()
    assert (grads[mode] - grads["reference"]).norm() <= 1e-5 * grads["reference"].norm()


def test_kept_bytes_on_a_real_shape(firing_net, saved_share):
    net, x = firing_net(T=4).train(), images()
    assert 0.2 < saved_share(net, x, "fused") < 0.45
    assert 0.01 < saved_share(net, x, "recompute") < 0.15


@pytest.fixture
def saved_share():
    from snntorch_smixer.bench.memory import saved_bytes

    def share(net, x, mode):
        kept = {}
        for name in ("reference", mode):
            with memory_mode(net, name):
                kept[name] = saved_bytes(net, x)
        return kept[mode] / kept["reference"]

    return share


def test_the_default_is_fused(firing_net):
    net = firing_net(T=2)
    assert net.memory == "fused"
    assert MODES == ("reference", "fused", "recompute")
    kept = {mode: ran(net, mode, images()).saved for mode in MODES}
    assert kept["recompute"] < kept["fused"] < kept["reference"]
