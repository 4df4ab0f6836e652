"""Dense multiply-accumulates, on networks small enough to count by hand."""

import pytest
import torch
from torch import nn

from snntorch_smixer.bench.macs import dense_macs


def test_linear_layers():
    # 3 * 5 and 5 * 2; the bias and the ReLU are no products
    assert dense_macs(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(4, 3)) == 25


def test_convolutions():
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),  # 8 * 8 pixels * 6 * 2 * 9 = 6912
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 4, 2, stride=2, groups=2),  # 4 * 4 pixels * 4 * 3 * 4 = 768
        nn.Flatten(),
        nn.Linear(64, 10),  # 640
    )
    assert dense_macs(net, torch.randn(3, 2, 8, 8)) == 6912 + 768 + 640


def test_zeros_count():
    net, x = nn.Linear(3, 5), torch.randn(4, 3)
    assert dense_macs(net, torch.zeros_like(x)) == dense_macs(net, x) == 15


def test_samples_may_lie_on_another_axis():
    net, x = nn.Linear(3, 5), torch.randn(7, 4, 3)
    assert dense_macs(net, x, batch_axis=1) == 7 * 15
    assert dense_macs(net, x) == 4 * 15


class Product(nn.Module):
    """Also what only happens in evaluation, and what is no layer."""

    def forward(self, x):
        return x if self.training else x @ x.transpose(1, 2)


def test_products_are_counted_in_evaluation_mode():
    assert dense_macs(Product(), torch.randn(2, 4, 6)) == 4 * 6 * 4


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_statistics_are_restored(training):
    net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)).train(training)
    before = net[1].running_mean.clone()
    dense_macs(net, torch.randn(4, 3))
    assert all(module.training is training for module in net.modules())
    assert torch.equal(net[1].running_mean, before)


class Broken(nn.Module):
    def forward(self, x):
        raise ValueError("broken")


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_when_the_model_fails(training):
    net = nn.Sequential(nn.Linear(3, 5), Broken()).train(training)
    with pytest.raises(ValueError, match="broken"):
        dense_macs(net, torch.randn(4, 3))
    assert all(module.training is training for module in net.modules())


def test_gradients_are_off():
    class Asks(nn.Linear):
        def forward(self, x):
            asked.append(torch.is_grad_enabled())
            return super().forward(x)

    asked: list[bool] = []
    dense_macs(Asks(3, 5), torch.randn(4, 3))
    assert asked == [False]
