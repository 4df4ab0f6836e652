"""What the lean forms once passed by, though the plain layers see it."""

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from snntorch_smixer.errors import SettingError
from snntorch_smixer.layers.memory import set_memory
from snntorch_smixer.layers.mixer import SpikingTokenMixer
from tests.layers.test_memory_compare import LEAN, assert_same, ran


@pytest.mark.parametrize("mode", LEAN)
@pytest.mark.parametrize(
    "kind", ["register_forward_pre_hook", "register_full_backward_hook", "register_full_backward_pre_hook"]
)
def test_every_hook_on_the_matrix_is_called(firing_net, kind, mode):
    net, calls = firing_net(T=2), []
    net.memory = mode
    getattr(net.blocks[0].mixer.w_m, kind)(lambda *_: calls.append(1))
    net(torch.randn(3, 2, 16, 16)).sum().backward()
    assert calls == [1]


@pytest.mark.parametrize("mode", LEAN)
def test_pruning_of_torch_on_the_matrix(firing_net, mode):
    net, x = firing_net(T=2), torch.randn(3, 2, 16, 16)
    torch.nn.utils.prune.random_unstructured(net.blocks[0].mixer.w_m, "weight", 0.5)
    twins = []
    for name in ("reference", mode):
        twin = firing_net(T=2)
        torch.nn.utils.prune.random_unstructured(twin.blocks[0].mixer.w_m, "weight", 0.5)
        twin.load_state_dict(net.state_dict())
        set_memory(twin, name)
        step = torch.optim.SGD(twin.parameters(), 0.1)
        for _ in range(2):
            step.zero_grad()
            twin(x).square().sum().backward()
            step.step()
        twins.append(twin.state_dict())
    assert all(torch.allclose(value, twins[1][name], rtol=1e-4, atol=1e-5) for name, value in twins[0].items())


@pytest.mark.parametrize("mode", LEAN)
@pytest.mark.parametrize(
    "register",
    [
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
        nn.modules.module.register_module_full_backward_pre_hook,
    ],
)
def test_every_hook_on_all_modules_is_called(firing_net, register, mode):
    net, calls = firing_net(T=2), []
    net.memory = mode
    x = torch.randn(3, 2, 16, 16, requires_grad=True)
    handle = register(lambda module, *_: calls.append(type(module).__name__))
    try:
        net(x).sum().backward()
    finally:
        handle.remove()
    assert calls.count("Linear") == sum(isinstance(m, nn.Linear) for m in net.modules())


@pytest.mark.parametrize("mode", LEAN)
def test_a_mixer_that_mixes_in_its_own_way(mode):
    class Backwards(SpikingTokenMixer):
        def mix(self, spikes, kept=None):
            return 4 * super().mix(spikes, kept).flip(2)

    layer, x = Backwards(8, num_tokens=5), 3 * torch.randn(2, 3, 5, 8)
    assert_same(ran(layer, mode, x), ran(layer, "reference", x))


def test_images_with_channels_last(firing_net):
    net = firing_net(T=2).train()
    x = torch.randn(3, 2, 16, 16).to(memory_format=torch.channels_last)
    assert_same(ran(net, "recompute", x), ran(net, "reference", x))


@pytest.mark.parametrize("chunks", [1.5, True, "2"])
def test_chunks_are_a_whole_number(firing_net, chunks):
    net = firing_net(T=1)
    with pytest.raises(SettingError, match="set_memory: chunks="):
        set_memory(net, "recompute", chunks=chunks)


def test_an_empty_batch_passes_the_stem_as_in_the_reference(firing_net):
    net = firing_net(T=1)
    for mode in ("reference", "recompute"):
        set_memory(net, mode)
        assert net.tokens(torch.randn(0, 2, 16, 16)).shape == (1, 0, 16, 16)
