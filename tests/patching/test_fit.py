"""Ridge regression by hand, and calibration of a network of this package."""

import copy
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch.overrides import TorchFunctionMode

from snntorch_smixer import dstsp
from snntorch_smixer.errors import FamilyError
from snntorch_smixer.layers.mixer import matrix
from snntorch_smixer.patching.fit import ridge
from tests.fakes.stateless import Stateless, pictures


def test_ridge_by_hand():
    # Head 0: V = [[1, 0], [0, 2]], Y = [[3, 4], [5, 6]]; gram = diag(1, 4), its mean 2.5, r = 0.4 * 2.5 = 1.
    v, y = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[3.0, 4.0], [5.0, 6.0]]])
    found = ridge(v @ v.mT, y @ v.mT, strength=0.4)
    # Y V^T = [[3, 8], [5, 12]], over diag(2, 5).
    assert torch.allclose(found, torch.tensor([[[1.5, 1.6], [2.5, 2.4]]]))
    assert torch.allclose(ridge(v @ v.mT, y @ v.mT, strength=0.0), y @ torch.linalg.inv(v))


def test_a_head_that_never_fired_gives_zeros():
    gram, cross = torch.zeros(2, 3, 3), torch.zeros(2, 3, 3)
    gram[1], cross[1] = torch.eye(3), 2 * torch.eye(3)
    found = ridge(gram.double(), cross.double(), strength=1e-3)
    assert not found[0].any()
    assert torch.allclose(found[1], 2 * torch.eye(3).double() / 1.001)


def test_a_matrix_that_is_not_square():
    v, w = torch.randn(2, 3, 50), torch.randn(2, 6, 3)
    assert torch.allclose(ridge(v @ v.mT, w @ v @ v.mT, strength=0.0), w, atol=1e-4)


def test_a_network_of_this_package_is_fitted_to_its_attention(firing_net):
    net, x = firing_net(mixer="ssa"), torch.randn(8, 2, 16, 16)
    swapped = dstsp.wrap(copy.deepcopy(net), ps=0, t=None)
    attention = net.blocks[0].mixer
    seen: list[torch.Tensor] = []
    handle = attention.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        net(x)
        handle.remove()
        value, product = attention.attend(seen[0])
    dstsp.fit(swapped, [x])
    found = matrix(swapped.blocks[0].mixer.w_m).double()
    for head, weight in enumerate(found):
        v, y = (
            z.unflatten(3, (2, -1))[:, :, :, head].permute(2, 0, 1, 3).flatten(1).double() for z in (value, product)
        )
        gram = v @ v.T
        expected = y @ v.T @ torch.linalg.inv(gram + 1e-3 * gram.diagonal().mean() * torch.eye(16))
        assert torch.allclose(weight, expected, atol=1e-4)


def test_a_mixer_of_its_own_is_not_fitted(firing_net):
    with pytest.raises(
        FamilyError, match=r"^fit: no attention was swapped, so there is no W_M to fit\. Wrap with swap="
    ):
        dstsp.fit(dstsp.wrap(firing_net()), [torch.randn(2, 2, 16, 16)])


def sight(net: torch.nn.Module) -> tuple[object, ...]:
    modules = [(name, type(m), m.training, len(m._forward_hooks)) for name, m in net.named_modules()]
    return modules, {name: value.tolist() for name, value in net.state_dict().items()}, net.dstsp


def failing(x: torch.Tensor) -> Iterator[torch.Tensor]:
    yield x
    raise OSError("the loader broke")


def test_every_module_keeps_its_own_mode(firing_net):
    net, x = firing_net(mixer="ssa").train(), torch.randn(2, 2, 16, 16)
    net.blocks[0].mlp.eval()
    dstsp.wrap(net, calibrate=[x])
    modes = {name: m.training for name, m in net.named_modules()}
    assert (modes["blocks.0.mlp"], modes["blocks.1.mlp"]) == (False, True)
    removed = net.blocks[0].mixer.removed.module
    for batches, error in (([x], None), (failing(x), OSError)):
        with nullcontext() if error is None else pytest.raises(error):
            dstsp.fit(net, batches)
        assert {name: m.training for name, m in net.named_modules()} == modes
        assert all(m.training for m in removed.modules())
        assert not hasattr(removed, "tap")
        assert net.dstsp.active == "both"
    unwrapped = dstsp.unwrap(net)
    assert [unwrapped.blocks[0].mlp.training, unwrapped.blocks[0].mixer.training] == [False, True]


def test_a_calibration_that_fails_leaves_an_unwrapped_model(firing_net):
    net, x = firing_net(mixer="ssa"), torch.randn(2, 2, 16, 16)
    before = sight(net)
    with pytest.raises(OSError, match="the loader broke"):
        dstsp.wrap(net, calibrate=failing(x))
    assert sight(net) == before
    other = Stateless()
    seen = outline(other)
    with pytest.raises(OSError, match="the loader broke"):
        dstsp.wrap(other, example_input=pictures(), calibrate=failing(pictures()))
    assert outline(other) == seen
    dstsp.wrap(other, example_input=pictures())


def outline(net: torch.nn.Module) -> list[object]:
    return [(name, type(m), len(m._forward_pre_hooks), len(m._forward_hooks)) for name, m in net.named_modules()]


def test_matrices_are_all_written_or_none():
    x = pictures()
    net = dstsp.wrap(Stateless(), example_input=x)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    last = matrix(net.blocks[1].mixer.w_m)
    with pytest.raises(KeyboardInterrupt), _Stop(last.data_ptr()):
        dstsp.fit(net, [x])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    dstsp.fit(net, [x])
    assert not torch.equal(net.blocks[0].mixer.w_m.weight, before["blocks.0.mixer.w_m.weight"])


class _Stop(TorchFunctionMode):
    """Ctrl-C behind the first write into some memory."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place, self.done = place, False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.Tensor.copy_ and not self.done and args[0].data_ptr() == self.place:
            self.done = True
            raise KeyboardInterrupt
        return out
