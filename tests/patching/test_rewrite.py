"""The forward that takes the place of an attention, against one written by hand: the same code with ``W_M V`` in it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snntorch_smixer.patching.standins import SwappedAttention
from snntorch_smixer.patching.wrap import unwrap, wrap
from tests.fakes.neurons import Soma
from tests.fakes.odd import Entry

HEADS, WIDTH, TOKENS = 3, 24, 16
# How the channels of one projection are divided into Q, K and V (s), heads (h) and channels of a head (d).
ORDERS = {"s h d": (3, 3, 8), "h s d": (3, 3, 8), "h d s": (3, 8, 3), "d s h": (8, 3, 3), "s d h": (3, 8, 3)}


def scores_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)) * 0.2 @ v


def values_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.matmul(q, 0.2 * torch.matmul(k.mT, v))


def channels_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((v.mT @ k) @ q.mT).mT * 0.2


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("tbhnm,tbhmd->tbhnd", torch.einsum("tbhnd,tbhmd->tbhnm", q, k), v) * 0.2


def folded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    T, B, H, N, D = q.shape
    a, b, c = (one.reshape(T * B * H, N, D) for one in (q, k, v))
    return (torch.bmm(torch.bmm(a, b.mT), c) * 0.2).view(T, B, H, N, D)


def unpacked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    outer = v.shape[:-2]
    a, b, c = (one.reshape(-1, *one.shape[-2:]) for one in (q, k, v))
    return ((a @ b.mT) @ c * 0.2).view(*outer, *c.shape[-2:]) if len(outer) == 3 else v


class Attention(nn.Module):
    """(T, B, N, C) in and out; with ``matrix`` set, the product is that matrix, (h, N, N), times V."""

    def __init__(self, product, order: str = "s h d", drop: float = 0.0) -> None:
        super().__init__()
        self.product, self.order, self.drop = product, order, drop
        self.every, self.norm = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.BatchNorm1d(3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.fire_in, self.fire_all, self.fire_out = Soma(0.5), Soma(0.5), Soma(0.5)
        self.matrix: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        z = self.every(self.fire_in(x))
        z = self.fire_all(self.norm(z.flatten(0, 2)).view(z.shape)).unflatten(-1, ORDERS[self.order])
        axes = self.order.split()
        q, k, v = z.permute(3 + axes.index("s"), 0, 1, 3 + axes.index("h"), 2, 3 + axes.index("d"))
        y = self.product(q, k, v) if self.matrix is None else self.matrix @ v
        out = self.proj(self.fire_out(y.transpose(2, 3).flatten(3)))
        return F.dropout(out, self.drop, self.training)


class Block(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.look, self.fire, self.chew = attention, Soma(0.5), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.look(x)
        return x + self.chew(self.fire(x))


class Net(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.entry = Entry(WIDTH, 4)
        self.deck = nn.ModuleList(Block(copy.deepcopy(attention)) for _ in range(2))
        self.verdict = nn.Linear(WIDTH, 5)
        nn.init.constant_(self.deck[0].look.norm.bias, 0.6)
        nn.init.constant_(self.deck[1].look.norm.bias, 0.6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x).flatten(3).mT
        for block in self.deck:
            x = block(x)
        return self.verdict(x.mean((0, 2)))


def net(*args: object, **settings: object) -> tuple[Net, Tensor]:
    model, x = Net(Attention(*args, **settings)), torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(8, 3, 16, 16))
    return model.eval(), x


def by_hand(model: Net, wrapped: Net) -> Net:
    """The original with the matrices of the wrapped one."""
    for block, swapped in zip(model.deck, wrapped.deck, strict=True):
        assert isinstance(swapped.look, SwappedAttention)
        block.look.matrix = swapped.look.mixer.w_m.weight.detach().view(HEADS, TOKENS, TOKENS)
    return model


@pytest.mark.parametrize("product", [scores_first, values_first, channels_first, by_einsum, folded])
@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_it_computes_w_m_times_v_head_by_head(product, order: str):
    model, x = net(product, order)
    before = model(x)
    wrapped = wrap(copy.deepcopy(model), ps=0, t=None, example_input=x)
    swapped = wrapped(x)
    assert torch.allclose(swapped, by_hand(model, wrapped)(x), atol=1e-5)
    assert (swapped - before).abs().max() > 1e-2
    assert torch.equal(unwrap(wrapped)(x), before)


@torch.no_grad()
def test_shapes_may_be_unpacked():
    model, x = net(unpacked)
    wrapped = wrap(copy.deepcopy(model), ps=0, t=None, example_input=x)
    assert torch.allclose(wrapped(x), by_hand(model, wrapped)(x), atol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_only_v_is_left_of_a_fused_projection(order: str):
    model, x = net(scores_first, order)
    wrapped = wrap(copy.deepcopy(model), ps=0, t=None, example_input=x)
    kept = ORDERS[order][order.split().index("s")] == 3 and order.split().index("s")
    rows = torch.arange(3 * WIDTH).view(ORDERS[order]).select(kept, 2)
    rows = rows.T if order.replace(" s", "").replace("s ", "") == "d h" else rows  # head by head
    for block, swapped in zip(model.deck, wrapped.deck, strict=True):
        (value,) = [m for m in swapped.look.modules() if isinstance(m, nn.Linear) and m is not swapped.look.proj]
        assert value.out_features == WIDTH
        assert torch.equal(value.weight, block.look.every.weight[rows.flatten()])


def test_gradients_are_those_of_the_forward_by_hand():
    model, x = net(values_first, "h s d")
    wrapped = wrap(copy.deepcopy(model), ps=0, t=None, example_input=x).train()
    hand = by_hand(model, wrapped).train()
    for block in hand.deck:
        block.look.matrix = nn.Parameter(block.look.matrix.clone())
    for one in (wrapped, hand):
        one(x).square().sum().backward()
    for block, swapped in zip(hand.deck, wrapped.deck, strict=True):
        grad = swapped.look.mixer.w_m.weight.grad.view(HEADS, TOKENS, TOKENS)
        assert grad.any()
        assert torch.allclose(grad, block.look.matrix.grad, atol=1e-5)
        assert torch.allclose(swapped.look.proj.weight.grad, block.look.proj.weight.grad, atol=1e-5)
    assert torch.allclose(wrapped.entry.first.weight.grad, hand.entry.first.weight.grad, atol=1e-4)


def test_dropout_by_a_function_acts_in_training_alone():
    model, x = net(scores_first, drop=0.9)
    wrapped = wrap(copy.deepcopy(model), ps=0, t=None, example_input=x)
    assert torch.equal(wrapped(x), wrapped(x))
    shares = []
    for mode in (True, False):
        outs: list[Tensor] = []
        handle = wrapped.deck[0].look.register_forward_hook(lambda module, args, out, outs=outs: outs.append(out))
        wrapped.train(mode)(x)
        handle.remove()
        shares.append((outs[0] == 0).float().mean().item())
    assert shares[0] == pytest.approx(0.9, abs=0.02)
    assert shares[1] < 0.1


@torch.no_grad()
def test_pruned_it_is_the_forward_by_hand_on_the_kept_tokens():
    model, x = net(channels_first, "h d s")
    wrapped = wrap(copy.deepcopy(model), ps=0.5, t=None, example_input=x)
    wrapped.dstsp.merge = "drop"
    kept: list[Tensor] = []
    wrapped.dstsp.register_forward_hook(lambda module, args, out: kept.append(out[1].tokens))
    pruned = wrapped(x)
    for sample, tokens in enumerate(kept[0]):
        hand = by_hand(copy.deepcopy(model), wrapped)
        for block in hand.deck:
            block.look.matrix = block.look.matrix[:, tokens][:, :, tokens]
        stream = hand.entry(x[sample : sample + 1]).flatten(3).mT[:, :, tokens]
        for block in hand.deck:
            stream = block(stream)
        assert torch.allclose(hand.verdict(stream.mean((0, 2)))[0], pruned[sample], atol=1e-5)
