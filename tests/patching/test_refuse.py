"""What would be swapped or pruned wrongly is refused in words, and the model is as before."""

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import FamilyError, LayoutError
from snntorch_smixer.patching.wrap import plan, unwrap, wrap
from tests.fakes.neurons import MultiStepLIF, StoredTLIF, reset


class Attention(nn.Module):
    """(T, B, N, C) in and out."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.fires = nn.ModuleList(MultiStepLIF(v_threshold=0.1) for _ in range(4))

    def product(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT) @ v * 0.25

    def forward(self, x: Tensor, twice: bool = False) -> Tensor:
        q, k, v = (fire(part(x)) for fire, part in zip(self.fires, (self.q, self.k, self.v), strict=False))
        q, k, v = (s.unflatten(3, (3, -1)).transpose(2, 3) for s in (q, k, v))
        out = self.proj(self.fires[3](self.product(q, k, v).transpose(2, 3).flatten(3)))
        return out + out if twice else out


class Chosen(Attention):
    """Every other key is hidden."""

    def product(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen = (torch.arange(k.shape[-2]) % 2).to(k)[:, None]
        return (q @ (k * seen).mT) @ v * 0.25


class Block(nn.Module):
    def __init__(self, attention: type[Attention]) -> None:
        super().__init__()
        self.attn, self.mlp = attention(), nn.Sequential(MultiStepLIF(), nn.Linear(24, 24))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class Net(nn.Module):
    def __init__(self, attention: type[Attention] = Attention, *, token: bool = False) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential(nn.Conv2d(3, 24, 4, 4), StoredTLIF(1))
        self.cls_token = nn.Parameter(torch.randn(1, 1, 24)) if token else None
        self.block = nn.ModuleList(Block(attention) for _ in range(2))
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).mT
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = x.expand(4, *x.shape)
        for block in self.block:
            x = block(x)
        return self.head(x.mean((0, 2)))


X = torch.randn(3, 3, 16, 16)


def test_it_wraps_where_nothing_is_wrong():
    net = wrap(Net(), example_input=X)
    assert net.dstsp.plan.tokens == (16, 11)
    assert net(X).shape == (3, 5)


def test_a_class_token_stays():
    plan_ = wrap(Net(token=True), example_input=X).dstsp.plan
    assert (plan_.tokens, plan_.always) == ((17, 12), (0,))


def test_attention_that_cannot_be_swapped_is_named():
    net = Net(Chosen)
    with pytest.raises(FamilyError, match=r"^block\.0\.attn: wrap: its attention has a mask over its keys"):
        plan(net, example_input=X)
    wrap(net, swap=False, ps=0, t=1, example_input=X)
    assert net(X).shape == (3, 5)


def test_a_shared_block_is_refused():
    net = Net()
    net.block[1] = net.block[0]
    with pytest.raises(FamilyError, match=r"block block\.0 of this Net is used more than once"):
        wrap(net, example_input=X)


def test_shared_attention_is_refused():
    net = Net()
    net.block[1].attn = net.block[0].attn
    with pytest.raises(FamilyError, match=r"block\.0\.attn is shared by several blocks"):
        wrap(net, example_input=X)


def test_another_argument_than_that_of_the_trace_is_refused():
    net = wrap(Net(), example_input=X)
    attention, x = net.block[0].attn, torch.rand(4, 3, 16, 24)
    attention(x, twice=False)
    reset(net)
    with pytest.raises(LayoutError, match="got twice of type bool, but its attention was swapped for twice=False"):
        attention(x, twice=True)


def test_a_part_that_is_wrapped_already():
    outer = nn.Sequential(wrap(Net(), example_input=X))
    with pytest.raises(FamilyError, match="a part of this Sequential is wrapped already"):
        wrap(outer, example_input=X)
    unwrap(outer[0])
