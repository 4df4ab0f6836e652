"""The reference of the cost estimator, slow, in float64, by the definition of each count; and what it is tried on.

Every nonzero input is sent alone through a copy of the layer whose weights are all one and whose bias is gone; the sum
of what comes out is the number of synapses that this one event crosses, a synapse that it meets twice (circular or
reflected padding) counted twice.
"""

import copy
import math
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
T, B, N, C = 3, 2, 5, 4
WEIGHTED = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)


@dataclass(frozen=True)
class Replay:
    """What a layer does with one batch.

    Attributes:
        events: synapses crossed by nonzero inputs, of each sample.
        units: the same with an input of value 3 as three, of each sample.
        reached: outputs that at least one event reached, of each sample.
        synapses: synapses crossed if every input were nonzero, of one sample.
        dense: multiply-accumulates by formula, padding included, of one sample.
        outputs: outputs of one sample.
    """

    events: list[int]
    units: list[int]
    reached: list[int]
    synapses: int
    dense: int
    outputs: int


def twin_of_ones(layer: nn.Module) -> nn.Module:
    """A copy in float64 whose weights are one and whose bias is gone."""
    twin = copy.deepcopy(layer).double().requires_grad_(False)
    twin.weight.fill_(1)
    twin.bias = None
    return twin


@torch.no_grad()
def replay(layer: nn.Module, x: Tensor) -> Replay:
    """Send the nonzero numbers of ``x`` (B, ...) through ``layer`` one by one; units are multiples of one."""
    twin = twin_of_ones(layer)
    events, units, reached = [], [], []
    for sample in x.detach().double():
        where = sample.nonzero(as_tuple=True)
        lone = torch.zeros(len(where[0]) + 1, *sample.shape, dtype=torch.float64)  # the last one stays empty
        lone[(torch.arange(len(where[0])), *where)] = 1
        crossed = twin(lone)
        one_each = crossed.flatten(1).sum(1)[:-1]
        events.append(round(one_each.sum().item()))
        units.append(round((one_each * sample[where].abs()).sum().item()))
        reached.append(int(crossed.ne(0).any(0).sum()))
    full = twin(torch.ones(1, *x.shape[1:], dtype=torch.float64))
    return Replay(events, units, reached, round(full.sum().item()), dense(layer, x[:1], full), full.numel())


def dense(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    """Multiply-accumulates as FLOP counters have them."""
    if isinstance(layer, nn.Linear):
        return x.numel() * layer.out_features
    if isinstance(layer, TRANSPOSED):
        return x.numel() * math.prod(layer.kernel_size) * layer.out_channels // layer.groups
    return y.numel() * math.prod(layer.kernel_size) * layer.in_channels // layer.groups


def mixing_events(x: Tensor) -> int:
    """Synaptic events of ``Y = W_M X`` by definition: a spike of token n meets the weight to each token m."""
    tokens, channels = x.shape[-2:]
    found = 0
    for one in x.reshape(-1, tokens, channels):
        for n, c, _m in product(range(tokens), range(channels), range(tokens)):
            found += bool(one[n, c] != 0)
    return found


def product_events(a: Tensor, b: Tensor) -> tuple[int, int, int]:
    """``a @ b`` of two activations (..., n, d), (..., d, m): events, unit events, pairs that are both nonzero.

    Without both operands at hand a chip has to send a[i, j] to all m columns and b[j, k] to all n rows.
    """
    (n, d), m = a.shape[-2:], b.shape[-1]
    events = units = pairs = 0
    for one, other in zip(a.reshape(-1, n, d).tolist(), b.reshape(-1, d, m).tolist(), strict=True):
        for row in one:
            for value in row:
                events += (value != 0) * m
                units += round(abs(value)) * m
        for row in other:
            for value in row:
                events += (value != 0) * n
                units += round(abs(value)) * n
        pairs += sum(one[i][j] != 0 and other[j][k] != 0 for i in range(n) for j in range(d) for k in range(m))
    return events, units, pairs


def kind(x: Tensor) -> str:
    """ "spikes" for one value beside 0, "graded" for whole multiples of one number, else "analog"."""
    values = x.detach().double().unique()
    values = values[values != 0]
    if len(values) <= 1:
        return "spikes"
    for parts in range(1, 65):  # the smallest value may itself be several units
        multiples = values / (values.abs().min() / parts)
        if bool((multiples - multiples.round()).abs().max() < 1e-4 * parts):
            return "graded"
    return "analog"


@contextmanager
def _heard(model: nn.Module, kinds: tuple[type[nn.Module], ...], arriving: bool) -> Iterator[dict[str, list[Tensor]]]:
    seen: dict[str, list[Tensor]] = {}

    def note(name: str, args: tuple, out: object) -> None:
        one = args[0] if arriving else out[0] if isinstance(out, tuple) else out
        seen.setdefault(name, []).append(one.detach())

    handles = [
        module.register_forward_hook(lambda _, args, out, name=name: note(name, args, out))
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def inputs_of(model: nn.Module, *kinds: type[nn.Module]) -> AbstractContextManager[dict[str, list[Tensor]]]:
    """What enters each module of these kinds (all with weights), by dotted path, one tensor a call."""
    return _heard(model, kinds or WEIGHTED, arriving=True)


def spikes_of(model: nn.Module, *kinds: type[nn.Module]) -> AbstractContextManager[dict[str, list[Tensor]]]:
    """The first thing that leaves each module of these kinds, by dotted path, one tensor a call."""
    return _heard(model, kinds, arriving=False)


def values(what: str, *shape: int, rate: float = 0.3, seed: int = 0) -> Tensor:
    """Spikes, halves, whole numbers or real values; each holds what its name promises, and zeros."""
    drawn = torch.Generator().manual_seed(seed)
    mask = (torch.rand(shape, generator=drawn) < rate).float()
    numbers = {
        "spikes": torch.ones(shape),
        "half": torch.full(shape, 0.5),
        "graded": torch.randint(1, 4, shape, generator=drawn).float(),
        "signed": torch.randint(1, 4, shape, generator=drawn) * (1.0 - 2 * (torch.rand(shape, generator=drawn) < 0.5)),
        "analog": torch.randn(shape, generator=drawn),
    }
    x = mask * numbers[what]
    sure = {
        "spikes": (0, 1),
        "half": (0, 0.5),
        "graded": (0, 1, 2),
        "signed": (0, 1, -2),
        "analog": (0, 0.371, -1.2, 0.6),
    }
    x.view(-1)[torch.randperm(x.numel(), generator=drawn)[: len(sure[what])]] = torch.tensor(sure[what]) * 1.0
    assert kind(x) == {"half": "spikes", "signed": "graded"}.get(what, what)
    assert 0 < x.count_nonzero() < x.numel()
    return x


def drawn_layer(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A convolution with random settings that fit, and the shape of one sample."""
    rng = random.Random(seed)
    dims, groups = rng.choice((1, 2, 3)), rng.choice((1, 1, 2))
    inside, outside = groups * rng.randint(1, 2), groups * rng.randint(1, 2)
    size = tuple(rng.randint(5, 6) if dims < 3 else 4 for _ in range(dims))
    kernel = tuple(rng.randint(1, 3) for _ in range(dims))
    settings = {"stride": rng.randint(1, 3), "dilation": rng.randint(1, 2), "groups": groups}
    if rng.random() < 0.4:
        padding = tuple(rng.randint(0, settings["dilation"] * (k - 1)) for k in kernel)
        more = {"output_padding": rng.randint(0, max(settings["stride"], settings["dilation"]) - 1)}
        name = f"ConvTranspose{dims}d"
    else:
        padding = tuple(rng.randint(0, 2) for _ in kernel)
        more = {"padding_mode": rng.choice(("zeros", "circular", "reflect", "replicate"))}
        name = f"Conv{dims}d"
        if dims < 3:
            size = tuple(max(s, 5) for s in size)
    layer = getattr(nn, name)(inside, outside, kernel, padding=padding, **settings, **more)
    return layer, (inside, *size)


HARD = {
    "linear": (nn.Linear(7, 3), (7,)),
    "linear_tokens": (nn.Linear(7, 3, bias=False), (4, 7)),
    "linear_wide": (nn.Linear(3, 9), (2, 2, 3)),
    "odd_border": (nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 8, 8)),
    "depthwise": (nn.Conv2d(4, 8, 3, padding=1, groups=4), (4, 5, 5)),
    "same_even": (nn.Conv2d(2, 3, (2, 4), padding="same"), (2, 5, 6)),
    "same_dilated": (nn.Conv1d(2, 3, 4, padding="same", dilation=3), (2, 9)),
    "valid": (nn.Conv2d(2, 3, 3, padding="valid"), (2, 5, 5)),
    "stride_skips": (nn.Conv1d(2, 3, 1, stride=3), (2, 8)),
    "circular": (nn.Conv2d(2, 2, 3, padding=(2, 1), padding_mode="circular"), (2, 4, 5)),
    "circular_same": (nn.Conv1d(2, 2, 4, padding="same", padding_mode="circular"), (2, 6)),
    "reflect": (nn.Conv1d(2, 3, 3, padding=3, padding_mode="reflect", stride=2), (2, 6)),
    "replicate": (nn.Conv3d(1, 2, 2, padding=1, padding_mode="replicate"), (1, 3, 3, 3)),
    "transposed_1d": (nn.ConvTranspose1d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2), (2, 5)),
    "transposed_2d": (nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, dilation=2), (3, 4, 4)),
    "transposed_3d": (nn.ConvTranspose3d(2, 2, 2, stride=3, output_padding=1), (2, 2, 3, 2)),
}
LAYERS = {**HARD, **{f"drawn_{seed}": drawn_layer(seed) for seed in range(14)}}


class Spelled(nn.Module):
    """``Y = W_M X`` over the tokens of (..., N, C), one matrix for all channels."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(N, N))
        self.spelling = spelling

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.spelling)(x)

    def at(self, x: Tensor) -> Tensor:
        return self.W @ x

    def matmul(self, x: Tensor) -> Tensor:
        return torch.matmul(self.W, x)

    def bmm(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, N, C)
        return torch.bmm(self.W.expand(len(flat), N, N), flat).view(x.shape)

    def einsum(self, x: Tensor) -> Tensor:
        return torch.einsum("mn,...nc->...mc", self.W, x)

    def linear(self, x: Tensor) -> Tensor:
        return F.linear(x.transpose(-1, -2), self.W).transpose(-1, -2)

    def conv1d(self, x: Tensor) -> Tensor:
        return F.conv1d(x.reshape(-1, N, C), self.W.unsqueeze(-1)).view(x.shape)


SPELLINGS = ("at", "matmul", "bmm", "einsum", "linear", "conv1d")


class Heads(nn.Module):
    """A matrix for each of two heads of channels: (..., N, C)."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling, self.W = spelling, nn.Parameter(torch.randn(2, N, N))
        self.conv = nn.Conv1d(2 * N, 2 * N, 1, groups=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        split = x.reshape(-1, N, 2, C // 2).transpose(1, 2)
        if self.spelling == "conv":
            y = self.conv(split.reshape(-1, 2 * N, C // 2)).view(split.shape)
        elif self.spelling == "einsum":
            y = torch.einsum("hmn,bhnc->bhmc", self.W, split)
        else:
            y = self.W @ split
        return y.transpose(1, 2).reshape(x.shape)


class QK(nn.Module):
    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-1, -2)


class AV(nn.Module):
    def forward(self, a: Tensor, v: Tensor) -> Tensor:
        return a @ v


class SSA(nn.Module):
    """Spiking self-attention of three given tensors (T, B, h, N, d)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.qk, self.av, self.scale = QK(), AV(), scale

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.av(self.qk(q, k) * self.scale, v)
