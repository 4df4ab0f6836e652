"""Small spiking transformers of no family, one for each way in which users of snnTorch mix tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import snntorch as snn
import torch
from torch import Tensor, nn

from tests.fakes.attentions import (
    DIM,
    SIDE,
    STEPS,
    Attention,
    Called,
    CausalCall,
    Depthwise,
    FewerKeys,
    Filled,
    Fixed,
    FlatWindows,
    Fourier,
    HadamardEinsum,
    HadamardMean,
    HadamardMul,
    HadamardSum,
    Linear,
    LoopOfMembranes,
    MultiHead,
    NoValues,
    OverTime,
    Softmax,
    Swin,
    TokenMLP,
    Tril,
    fire,
    heads,
    joined,
)


class Block(nn.Module):
    """Attention and MLP with residuals."""

    def __init__(self, attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.attn = attention()
        self.fc1, self.fc1_lif = nn.Linear(DIM, 2 * DIM), fire()
        self.fc2, self.fc2_lif = nn.Linear(2 * DIM, DIM), fire()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.fc2_lif(self.fc2(self.fc1_lif(self.fc1(x))))


class LoopBlock(Block):
    """The block loops over the steps, its neurons have hidden membranes."""

    def __init__(self) -> None:
        super().__init__(OneStep)
        hidden = partial(snn.Leaky, beta=0.5, threshold=0.1, init_hidden=True)
        self.fc1_lif, self.fc2_lif = hidden(), hidden()

    def forward(self, x: Tensor) -> Tensor:
        for module in self.modules():
            if isinstance(module, snn.Leaky):
                module.reset_mem()
        return torch.stack([super(LoopBlock, self).forward(step) for step in x])


class OneStep(Attention):
    """One step a call: (B, N, C)."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("q_lif", "k_lif", "v_lif", "attn_lif", "proj_lif"):
            setattr(self, name, snn.Leaky(beta=0.5, threshold=0.1, init_hidden=True))


class Net(nn.Module):
    """A picture (B, 3, 24, 24), shown T times."""

    def __init__(self, attention: Callable[[], nn.Module] = Attention, depth: int = 2) -> None:
        super().__init__()
        self.patch, self.patch_lif, self.head = nn.Conv2d(3, DIM, 4, 4), fire(), nn.Linear(DIM, 5)
        self.place = nn.Parameter(torch.randn(SIDE * SIDE, DIM) * 0.2)
        self.blocks = nn.ModuleList(self.block(attention) for _ in range(depth))

    def block(self, attention: Callable[[], nn.Module]) -> nn.Module:
        return Block(attention)

    def tokens(self, x: Tensor) -> Tensor:
        z = self.patch(x).flatten(2).transpose(1, 2) + self.place
        return self.patch_lif(z.expand(STEPS, *z.shape))

    def read(self, z: Tensor) -> Tensor:
        return z.mean(2)

    def forward(self, x: Tensor) -> Tensor:
        z = self.tokens(x)
        for block in self.blocks:
            z = block(z)
        return self.head(self.read(z).mean(0))


class Looped(Net):
    def block(self, attention: Callable[[], nn.Module]) -> nn.Module:
        return LoopBlock()


class ClassToken(Net):
    """A learned token in front, which the head alone reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.rand(1, 1, DIM))

    def tokens(self, x: Tensor) -> Tensor:
        z = self.patch(x).flatten(2).transpose(1, 2) + self.place
        z = torch.cat((self.first.expand(len(z), -1, -1), z), 1)
        return self.patch_lif(z.expand(STEPS, *z.shape))

    def read(self, z: Tensor) -> Tensor:
        return z[:, :, 0]


class TwoTokens(ClassToken):
    """A token for the class and one that a teacher speaks to, at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.rand(1, 2, DIM))

    def tokens(self, x: Tensor) -> Tensor:
        z = super().tokens(x)
        return torch.cat((z[:, :, 2:], z[:, :, :2]), 2)

    def read(self, z: Tensor) -> Tensor:
        return (z[:, :, -1] + z[:, :, -2]) / 2


class Language(Net):
    """Token ids (B, N), causal attention, logits of the next token at the last place."""

    def __init__(self, attention: Callable[[], nn.Module] = CausalCall) -> None:
        super().__init__(attention)
        self.words = nn.Embedding(50, DIM)

    def tokens(self, x: Tensor) -> Tensor:
        z = self.words(x)
        return self.patch_lif(z.expand(STEPS, *z.shape))

    def read(self, z: Tensor) -> Tensor:
        return z


class Speech(Net):
    """Frames of a spectrogram (B, N, 16), N of any length; each is a token."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Linear(16, DIM)

    def tokens(self, x: Tensor) -> Tensor:
        z = self.frames(x)
        return self.patch_lif(z.expand(STEPS, *z.shape))


class Membranes(nn.Module):
    """Blocks take and return their membranes, as in the tutorials; the loop over the steps is in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.lif, self.head = nn.Conv2d(3, DIM, 4, 4), snn.Leaky(beta=0.5, threshold=0.1), nn.Linear(DIM, 5)
        self.blocks, self.num_steps = nn.ModuleList(MembraneBlock() for _ in range(2)), STEPS

    def step(self, x: Tensor, mem: Tensor, states: list[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor, list]:
        z, mem = self.lif(self.patch(x).flatten(2).transpose(1, 2), mem)
        after = []
        for block, state in zip(self.blocks, states, strict=True):
            z, *state = block(z, *state)
            after.append(tuple(state))
        return self.head(z.mean(1)), mem, after

    def forward(self, x: Tensor) -> Tensor:
        mem, states = self.lif.init_leaky(), [block.start() for block in self.blocks]
        outs = []
        for _ in range(self.num_steps):
            out, mem, states = self.step(x, mem, states)
            outs.append(out)
        return torch.stack(outs).mean(0)


class MembraneBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(DIM, DIM) for _ in range(4))
        self.q_lif, self.k_lif, self.v_lif, self.a_lif, self.p_lif = (
            snn.Leaky(beta=0.5, threshold=0.1) for _ in range(5)
        )
        self.fc, self.f_lif = nn.Linear(DIM, DIM), snn.Leaky(beta=0.5, threshold=0.1)

    def start(self) -> tuple[Tensor, ...]:
        return tuple(torch.zeros(0) for _ in range(6))

    def forward(
        self, x: Tensor, q_mem: Tensor, k_mem: Tensor, v_mem: Tensor, a_mem: Tensor, p_mem: Tensor, f_mem: Tensor
    ) -> tuple[Tensor, ...]:
        q, q_mem = self.q_lif(self.q(x), q_mem)
        k, k_mem = self.k_lif(self.k(x), k_mem)
        v, v_mem = self.v_lif(self.v(x), v_mem)
        y, a_mem = self.a_lif(joined((heads(q) @ heads(k).transpose(-2, -1)) @ heads(v) * 0.2), a_mem)
        y, p_mem = self.p_lif(self.proj(y), p_mem)
        x = x + y
        y, f_mem = self.f_lif(self.fc(x), f_mem)
        return x + y, q_mem, k_mem, v_mem, a_mem, p_mem, f_mem


class TupleBlock(MembraneBlock):
    """All membranes in one tuple."""

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        x, *state = super().forward(x, *state)
        return x, tuple(state)


class Tuples(Membranes):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TupleBlock() for _ in range(2))

    def step(self, x: Tensor, mem: Tensor, states: list[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor, list]:
        z, mem = self.lif(self.patch(x).flatten(2).transpose(1, 2), mem)
        after = []
        for block, state in zip(self.blocks, states, strict=True):
            z, state = block(z, state)
            after.append(state)
        return self.head(z.mean(1)), mem, after


class Chain(Net):
    """A layer and its input added by a small module, no MLP."""

    def block(self, attention: Callable[[], nn.Module]) -> nn.Module:
        return Plus(attention())


class Plus(nn.Module):
    def __init__(self, held: nn.Module) -> None:
        super().__init__()
        self.held = held

    def forward(self, x: Tensor) -> Tensor:
        return x + self.held(x)


def pictures(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, 4 * SIDE, 4 * SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 0.5


def sentences(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(0, 50, (batch, 20), generator=torch.Generator().manual_seed(seed))


def spectrograms(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(batch, 30, 16, generator=torch.Generator().manual_seed(seed)) * 2


@dataclass(frozen=True)
class Kind:
    """A way of mixing tokens.

    Attributes:
        make: a model.
        example: (batch, seed) to an input of it.
        settings: arguments of `dstsp.wrap` besides ps=0.3, t=1.
        swapped: modules that get a W_M.
    """

    make: Callable[[], nn.Module]
    example: Callable[..., Tensor] = pictures
    settings: Mapping[str, Any] = field(default_factory=dict)
    swapped: int = 2

    def build(self) -> nn.Module:
        """The same model each time, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make().eval()


def _net(attention: Callable[[], nn.Module], swapped: int = 2, **settings: Any) -> Kind:
    return Kind(partial(Net, attention), settings=settings, swapped=swapped)


_ALL_TOKENS = {"ps": 0, "t": None}
KINDS = {
    "softmax": _net(Softmax),
    "sdpa": _net(Called),
    "multihead": _net(partial(MultiHead, batch_first=False)),
    "multihead_batch_first": _net(partial(MultiHead, batch_first=True)),
    "flat_windows": _net(FlatWindows),
    "swin": _net(Swin),
    "over_time": _net(OverTime),
    "hadamard_sum": _net(HadamardSum, swap="all"),
    "hadamard_mul": _net(HadamardMul, swap="all"),
    "hadamard_mean": _net(HadamardMean, swap="all"),
    "hadamard_einsum": _net(HadamardEinsum, swap="all"),
    "hadamard_kept": _net(HadamardSum, 0, swap=False),
    "no_values": _net(NoValues),
    "fewer_keys": _net(FewerKeys),
    "fixed": _net(Fixed),
    "keys_and_values_first": _net(Linear),
    "tril": _net(Tril, **_ALL_TOKENS),
    "filled": _net(Filled, **_ALL_TOKENS),
    "causal_sdpa": _net(CausalCall, **_ALL_TOKENS),
    "loop_in_attention": _net(LoopOfMembranes),
    "loop_in_block": Kind(Looped),
    "membranes": Kind(Membranes),
    "tuple_of_membranes": Kind(Tuples),
    "depthwise": _net(Depthwise, 0, swap=False),
    "token_mlp": _net(TokenMLP, 0, swap=False, ps=0),
    "fourier": _net(Fourier, 0, swap=False),
    "chain": Kind(Chain),
    "class_token": Kind(ClassToken),
    "two_tokens_behind": Kind(TwoTokens),
    "language": Kind(Language, sentences, _ALL_TOKENS),
    "speech": Kind(Speech, spectrograms),
}
