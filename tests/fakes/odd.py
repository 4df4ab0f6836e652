"""Four nets of no family: whatever finds attention in them has looked at what they compute, not at names."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fakes.neurons import MultiStepLIF, Soma
from tests.fakes.parts import per_step


class Entry(nn.Module):
    """(B, 3, H, W) -> (T, B, C, H/s, W/s); real values, as in nets that add before the neuron."""

    def __init__(self, width: int, shrink: int, rounds: int = 4) -> None:
        super().__init__()
        self.rounds = rounds
        self.first, self.first_norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.fire = Soma()
        self.second, self.second_norm = nn.Conv2d(width, width, shrink, shrink, bias=False), nn.BatchNorm2d(width)

    def forward(self, picture: Tensor) -> Tensor:
        x = picture.expand(self.rounds, *picture.shape)
        x = self.fire(per_step(x, self.first, self.first_norm))
        return per_step(x, self.second, self.second_norm)


class OneBigBlock(nn.Module):
    """Attention, both residuals and the MLP in one forward on (T, B, N, C); q, k and v from one matrix."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.spark_a, self.spark_b, self.spark_c = Soma(), Soma(), Soma(0.5)
        self.spark_d, self.spark_e = Soma(), Soma()
        self.triple = nn.Parameter(torch.randn(3 * width, width) * width**-0.5)
        self.merge = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.grow = nn.Parameter(torch.randn(2 * width, width) * width**-0.5)
        self.shrink = nn.Parameter(torch.randn(width, 2 * width) * (2 * width) ** -0.5)
        self.norms = nn.ModuleList(nn.BatchNorm1d(size) for size in (3 * width, width, 2 * width, width))

    def affine(self, x: Tensor, weight: Tensor, place: int) -> Tensor:
        y = F.linear(x, weight)
        return self.norms[place](y.flatten(0, 2)).view(y.shape)

    def forward(self, x: Tensor) -> Tensor:
        T, B, N, C = x.shape
        wide = self.spark_b(self.affine(self.spark_a(x), self.triple, 0))
        a, b, c = wide.view(T, B, N, 3, self.groups, -1).permute(3, 0, 1, 4, 2, 5)
        mixed = torch.matmul(torch.matmul(a, b.mT) * 0.1, c)
        mixed = self.spark_c(mixed.permute(0, 1, 3, 2, 4).reshape(T, B, N, C))
        x = x + self.affine(mixed, self.merge, 1)
        hidden = self.spark_e(self.affine(self.spark_d(x), self.grow, 2))
        return x + self.affine(hidden, self.shrink, 3)


class OneBigNet(nn.Module):
    def __init__(self, width: int = 24, groups: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.entry = Entry(width, 4)
        self.deck = nn.Sequential(*(OneBigBlock(width, groups) for _ in range(2)))
        self.verdict = nn.Linear(width, classes)

    def forward(self, picture: Tensor) -> Tensor:
        return self.verdict(self.deck(self.entry(picture).flatten(3).mT).mean((0, 2)))


class Product(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


class StridedKeys(nn.Module):
    """Keys and values are one tensor, from a strided convolution of the map: N x N_k, four times fewer keys.

    As in SpikingResformer: the products are child modules, there is no v, the residual is inside, and training updates
    a buffer of firing rates that scales the product.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.gate, self.ask_gate, self.memo_gate = MultiStepLIF(), MultiStepLIF(), MultiStepLIF()
        self.map_gate, self.out_gate = MultiStepLIF(v_threshold=0.5), MultiStepLIF(v_threshold=0.5)
        self.ask, self.ask_norm = nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width)
        self.memo, self.memo_norm = nn.Conv2d(width, width, 2, 2, bias=False), nn.BatchNorm2d(width)
        self.matmul1, self.matmul2 = Product(), Product()
        self.back, self.back_norm = nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width)
        self.register_buffer("busy", torch.full((), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        s = self.gate(x)
        ask = self.ask_gate(per_step(s, self.ask, self.ask_norm)).flatten(3).unflatten(2, (self.groups, -1))
        memo = self.memo_gate(per_step(s, self.memo, self.memo_norm)).flatten(3).unflatten(2, (self.groups, -1))
        if self.training:
            with torch.no_grad():
                self.busy.lerp_(memo.mean(), 0.1)
        scale = (self.busy * memo.shape[3]).rsqrt()
        table = self.map_gate(self.matmul1(ask.mT, memo) * scale)  # (T, B, h, N, N_k)
        found = self.out_gate(self.matmul2(table, memo.mT) * scale)
        return x + per_step(found.mT.reshape(x.shape), self.back, self.back_norm)


class StridedNet(nn.Module):
    """64 tokens, 16 keys."""

    def __init__(self, width: int = 24, groups: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.entry = Entry(width, 2)
        self.rungs = nn.Sequential(StridedKeys(width, groups), StridedKeys(width, groups))
        self.last = MultiStepLIF()
        self.verdict = nn.Linear(width, classes)

    def forward(self, picture: Tensor) -> Tensor:
        return self.verdict(self.last(self.rungs(self.entry(picture))).mean((0, 3, 4)))


class EinsumMix(nn.Module):
    """(T, B, N, C) in and out; the heads are the last axis, so that channel c belongs to head c % heads."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.roles = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(4))
        self.cells = nn.ModuleList((Soma(), Soma(), Soma(), Soma()))
        self.sum_cell = Soma(0.5)

    def role(self, x: Tensor, place: int) -> Tensor:
        y = self.roles[place](x)
        return self.cells[place](self.norms[place](y.flatten(0, 2)).view(y.shape))

    def forward(self, x: Tensor) -> Tensor:
        one, two, three = (self.role(x, place).unflatten(-1, (-1, self.groups)) for place in range(3))
        table = torch.einsum("tbndh,tbmdh->tbnmh", one, two)
        mixed = torch.einsum("tbnmh,tbmdh->tbndh", table, three).flatten(3)
        return self.role(self.sum_cell(0.06 * mixed), 3)


class Feed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.up_norm, self.up_cell = nn.Linear(width, 2 * width), nn.BatchNorm1d(2 * width), Soma()
        self.down, self.down_norm, self.down_cell = nn.Linear(2 * width, width), nn.BatchNorm1d(width), Soma()

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        y = self.up_cell(self.up_norm(y.flatten(0, 2)).view(y.shape))
        y = self.down(y)
        return self.down_cell(self.down_norm(y.flatten(0, 2)).view(y.shape))


class Plus(nn.Module):
    """Adds what it holds to what comes in."""

    def __init__(self, held: nn.Module) -> None:
        super().__init__()
        self.held = held

    def forward(self, x: Tensor) -> Tensor:
        return x + self.held(x)


class EinsumNet(nn.Module):
    def __init__(self, width: int = 24, groups: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.entry, self.entry_cell = Entry(width, 4), Soma()
        self.chain = nn.Sequential(
            Plus(EinsumMix(width, groups)), Plus(Feed(width)), Plus(EinsumMix(width, groups)), Plus(Feed(width))
        )
        self.verdict = nn.Linear(width, classes)

    def forward(self, picture: Tensor) -> Tensor:
        return self.verdict(self.chain(self.entry_cell(self.entry(picture)).flatten(3).mT).mean((0, 2)))


class Look(nn.Module):
    """(T, B, C, N) in and out, channels first throughout: v (k^T q)."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.mix, self.mix_norm = nn.Conv1d(width, 3 * width, 1, bias=False), nn.BatchNorm1d(3 * width)
        self.out, self.out_norm = nn.Conv1d(width, width, 1, bias=False), nn.BatchNorm1d(width)
        self.split_fire, self.sum_fire, self.out_fire = MultiStepLIF(), MultiStepLIF(v_threshold=0.5), MultiStepLIF()

    def forward(self, x: Tensor) -> Tensor:
        three = self.split_fire(per_step(x, self.mix, self.mix_norm)).unflatten(2, (3, self.groups, -1))
        a, b, c = three.unbind(2)  # (T, B, h, d, N) each
        mixed = self.sum_fire((c @ (b.mT @ a) * 0.2).flatten(2, 3))
        return self.out_fire(per_step(mixed, self.out, self.out_norm))


class RootAttention(nn.Module):
    """No blocks: the root makes the tokens, holds the attention layers and adds the residuals."""

    def __init__(self, width: int = 24, groups: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.entry, self.entry_fire = Entry(width, 4), MultiStepLIF()
        self.look_one = Look(width, groups)
        self.chew_one = nn.Sequential(nn.Conv1d(width, width, 1, bias=False), nn.BatchNorm1d(width))
        self.fire_one = MultiStepLIF()
        self.look_two = Look(width, groups)
        self.chew_two = nn.Sequential(nn.Conv1d(width, width, 1, bias=False), nn.BatchNorm1d(width))
        self.fire_two = MultiStepLIF()
        self.verdict = nn.Linear(width, classes)

    def forward(self, picture: Tensor) -> Tensor:
        x = self.entry_fire(self.entry(picture)).flatten(3)
        x = x + self.look_one(x)
        x = x + self.fire_one(per_step(x, self.chew_one))
        x = x + self.look_two(x)
        x = x + self.fire_two(per_step(x, self.chew_two))
        return self.verdict(x.mean((0, 3)))
