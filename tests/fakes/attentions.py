"""Ways of mixing tokens in small spiking transformers, as users of snnTorch write them: (T, B, N, C) in and out."""

from __future__ import annotations

import snntorch as snn
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.fakes.neurons import MultiStepLIF

DIM, HEADS, STEPS, SIDE = 24, 3, 4, 6
"""Channels, heads, steps, and tokens along a side of the picture (36 tokens in all)."""


def fire() -> MultiStepLIF:
    return MultiStepLIF(v_threshold=0.15)


def heads(x: Tensor) -> Tensor:
    """(..., N, C) to (..., heads, N, C / heads)."""
    return x.unflatten(-1, (HEADS, -1)).transpose(-3, -2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(-3, -2).flatten(-2)


class Attention(nn.Module):
    """(T, B, N, C) in and out; subclasses mix q, k and v (T, B, N, C) in their own ways."""

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.q_lif, self.k_lif, self.v_lif, self.attn_lif, self.proj_lif = (fire() for _ in range(5))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = heads(q), heads(k), heads(v)
        return joined((q @ k.transpose(-2, -1)) @ v * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        pairs = ((self.q_lif, self.q), (self.k_lif, self.k), (self.v_lif, self.v))
        q, k, v = (lif(linear(x)) for lif, linear in pairs)
        return self.proj_lif(self.proj(self.attn_lif(self.mix(q, k, v))))


class Softmax(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = heads(q), heads(k), heads(v)
        return joined((q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v) * 2


class Called(Attention):
    """The products are one call of torch."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return joined(F.scaled_dot_product_attention(heads(q), heads(k), heads(v))) * 2


class MultiHead(nn.Module):
    """``nn.MultiheadAttention`` on spikes."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.lif, self.mha, self.out = fire(), nn.MultiheadAttention(DIM, HEADS, batch_first=batch_first), fire()

    def forward(self, x: Tensor) -> Tensor:
        s = self.lif(x).flatten(0, 1)
        s = s if self.batch_first else s.transpose(0, 1)
        y = self.mha(s, s, s, need_weights=False)[0]
        y = y if self.batch_first else y.transpose(0, 1)
        return self.out(2 * y.unflatten(0, x.shape[:2]))


class FlatWindows(Attention):
    """Windows of 12 tokens behind each other."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (heads(z.unflatten(2, (-1, 12))) for z in (q, k, v))
        return joined((q @ k.transpose(-2, -1)) @ v * 0.3).flatten(2, 3)


class Swin(Attention):
    """Windows of 3 x 3 on the grid, whose side is a number in the code, as in Swin."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def cut(z: Tensor) -> Tensor:
            z = z.reshape(-1, SIDE // 3, 3, SIDE // 3, 3, DIM).transpose(2, 3)
            return heads(z.reshape(-1, 9, DIM))

        steps, samples = q.shape[:2]
        q, k, v = cut(q), cut(k), cut(v)
        y = joined((q @ k.transpose(-2, -1)) @ v * 0.3)
        y = y.reshape(-1, SIDE // 3, SIDE // 3, 3, 3, DIM).transpose(2, 3)
        return y.reshape(steps, samples, SIDE * SIDE, DIM)


class OverTime(Attention):
    """Attention over T x N."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        steps = q.shape[0]
        q, k, v = (z.transpose(0, 1).flatten(1, 2) for z in (q, k, v))
        y = joined((heads(q) @ heads(k).transpose(-2, -1)) @ heads(v) * 0.05)
        return y.unflatten(1, (steps, -1)).transpose(0, 1)


class HadamardSum(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q * self.v_lif2((k * v).sum(-2, keepdim=True))

    def __init__(self) -> None:
        super().__init__()
        self.v_lif2 = fire()


class HadamardMul(HadamardSum):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.mul(self.v_lif2(torch.mul(v, k).sum(dim=2, keepdim=True)), q)


class HadamardMean(HadamardSum):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kv = k.mul(v).mean(2).mul(4)
        return self.v_lif2(kv).unsqueeze(2).mul(q)


class HadamardEinsum(HadamardSum):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.einsum("tbnc,tbc->tbnc", q, self.v_lif2(torch.einsum("tbnc,tbnc->tbc", k, v)))


class NoValues(Attention):
    """Scores times the input spikes themselves."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return joined((heads(q) @ heads(k).transpose(-2, -1)) @ heads(k) * 0.2)


class FewerKeys(Attention):
    """Keys and values of pairs of tokens: half as many."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = heads(q), heads(k[:, :, ::2]), heads(v[:, :, ::2])
        return joined((q @ k.transpose(-2, -1)) @ v * 0.3)


class Fixed(Attention):
    """The number of tokens is a number in the code."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (z.reshape(z.shape[0], -1, SIDE * SIDE, HEADS, DIM // HEADS).transpose(2, 3) for z in (q, k, v))
        return ((q @ k.transpose(-2, -1)) @ v * 0.2).transpose(2, 3).reshape(q.shape[0], -1, SIDE * SIDE, DIM)


class Linear(Attention):
    """Keys and values first."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return joined(heads(q) @ (heads(k).transpose(-2, -1) @ heads(v)) * 0.2)


class Tril(Attention):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(64, 64).tril().bool())

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n = q.shape[-2]
        scores = heads(q) @ heads(k).transpose(-2, -1)
        return joined(scores * self.mask[:n, :n] @ heads(v) * 0.2)


class Filled(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n = q.shape[-2]
        later = torch.ones(n, n, device=q.device).triu(1).bool()
        scores = heads(q) @ heads(k).transpose(-2, -1)
        return joined(scores.masked_fill(later, float("-inf")).softmax(-1) @ heads(v)) * 2


class CausalCall(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return joined(F.scaled_dot_product_attention(heads(q), heads(k), heads(v), is_causal=True)) * 2


class LoopOfMembranes(nn.Module):
    """A loop over the steps inside, with explicit membranes, as in the tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(DIM, DIM) for _ in range(4))
        self.q_lif, self.k_lif, self.v_lif, self.attn_lif, self.proj_lif = (
            snn.Leaky(beta=0.5, threshold=0.1) for _ in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        q_mem, k_mem, v_mem = self.q_lif.init_leaky(), self.k_lif.init_leaky(), self.v_lif.init_leaky()
        a_mem, p_mem = self.attn_lif.init_leaky(), self.proj_lif.init_leaky()
        outs = []
        for step in range(x.shape[0]):
            q, q_mem = self.q_lif(self.q(x[step]), q_mem)
            k, k_mem = self.k_lif(self.k(x[step]), k_mem)
            v, v_mem = self.v_lif(self.v(x[step]), v_mem)
            y = joined((heads(q) @ heads(k).transpose(-2, -1)) @ heads(v) * 0.2)
            y, a_mem = self.attn_lif(y, a_mem)
            y, p_mem = self.proj_lif(self.proj(y), p_mem)
            outs.append(y)
        return torch.stack(outs)


class Depthwise(nn.Module):
    """A depthwise convolution over the grid."""

    def __init__(self) -> None:
        super().__init__()
        self.lif, self.conv, self.out = fire(), nn.Conv2d(DIM, DIM, 3, padding=1, groups=DIM), fire()

    def forward(self, x: Tensor) -> Tensor:
        t, b, n, c = x.shape
        side = int(n**0.5)
        z = self.lif(x).transpose(-2, -1).reshape(t * b, c, side, side)
        return self.out(self.conv(z).reshape(t, b, c, n).transpose(-2, -1))


class TokenMLP(nn.Module):
    """An MLP over the tokens, as in MLP-Mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.lif, self.up, self.mid = fire(), nn.Linear(SIDE * SIDE, 48), fire()
        self.down, self.out = nn.Linear(48, SIDE * SIDE), fire()

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(self.mid(self.up(self.lif(x).transpose(-2, -1))))
        return self.out(y.transpose(-2, -1))


class Fourier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lif, self.out, self.scale = fire(), fire(), nn.Parameter(torch.ones(DIM))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.fft.fft2(self.lif(x), dim=(-2, -1)).real * self.scale * 0.1)


class RunningSum(nn.Module):
    """Each token reads those in front of it, without any product."""

    def __init__(self) -> None:
        super().__init__()
        self.lif, self.fc, self.out = fire(), nn.Linear(DIM, DIM), fire()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fc(self.lif(x).cumsum(2) * 0.2))
