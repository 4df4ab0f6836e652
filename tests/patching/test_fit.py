"""Ridge regression by hand, and calibration of a network of this package."""

import copy

import pytest
import torch

from snntorch_smixer import dstsp
from snntorch_smixer.errors import FamilyError
from snntorch_smixer.layers.mixer import matrix
from snntorch_smixer.patching.fit import ridge


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
