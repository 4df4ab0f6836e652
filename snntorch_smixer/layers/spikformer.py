"""Parts of Spikformer and QKFormer, with the names that their published weights have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.neurons import LIF

SCALE = 0.125
"""What the attention multiplies its product by, whatever the channels of a head."""


class _SigmoidStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        if torch.compiler.is_compiling():
            return (x >= 0).to(x.dtype)
        return torch.ge(x, 0, out=torch.empty_like(x))  # many times faster than making a mask and then numbers of it

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad * _sigmoid_slope(x, ctx.slope), None


def _sigmoid_slope(x: Tensor, slope: float) -> Tensor:
    s = torch.sigmoid(slope * x)
    # slope * (1 - s) * s in one pass.
    return torch.ops.aten.sigmoid_backward(s.new_full((), slope).expand_as(s), s)


class SigmoidAtThreshold:
    """Surrogate gradient of a sigmoid; unlike snnTorch's it fires at the threshold too, ``u >= threshold``.

    Args:
        slope: of the sigmoid, per unit of the membrane.
    """

    at_threshold = True  # see kernels.fire.Firing

    def __init__(self, slope: float = 2.0) -> None:
        self.slope = slope

    def __call__(self, x: Tensor) -> Tensor:
        """Spikes of ``x = u - threshold`` in its shape and dtype."""
        return _SigmoidStep.apply(x, self.slope)

    def derivative(self, x: Tensor) -> Tensor:
        """The surrogate ``ds/dx``, in the dtype of ``x``."""
        return _sigmoid_slope(x, self.slope)

    def __repr__(self) -> str:
        return f"SigmoidAtThreshold(slope={self.slope})"


class InputDecayLIF(LIF):
    """SpikingJelly's ``MultiStepLIFNode(tau=2.0, v_threshold=threshold, detach_reset=True)`` as a `LIF`.

    That neuron charges ``v += (x - v) / 2`` and fires at ``v >= threshold``. Here ``u = 2 v``: the input is not halved,
    the threshold is doubled, and spikes and gradients are the same. Both round alike wherever ``x`` and ``v`` are short
    binary fractions, as behind the attention, where ties with the threshold are common; elsewhere their membranes may
    differ in the last bit. Nothing of it is in the state dict, as upstream.

    Args:
        threshold: of ``v``.
    """

    def __init__(self, threshold: float = 1.0) -> None:
        super().__init__(0.5, threshold=2 * threshold, spike_grad=SigmoidAtThreshold())
        for name, buffer in list(self.named_buffers(recurse=False)):
            self.register_buffer(name, buffer, persistent=False)


def per_step(x: Tensor, *layers: nn.Module) -> Tensor:
    """Layers that know no time, one after the other, on each step of ``(T, B, ...)``."""
    y = shapes.fold_steps(x)
    for layer in layers:
        y = layer(y)
    return shapes.unfold_steps(y, x.shape[0])


def show(x: Tensor, steps: int) -> Tensor:
    """Repeat a static map ``(1, B, ...)`` for ``steps`` steps without copying it; frames stay as they are."""
    return x if x.shape[0] == steps else x.expand(steps, *x.shape[1:])


def _linear(x: Tensor, linear: nn.Linear, norm: nn.BatchNorm1d) -> Tensor:
    y = linear(x)
    return norm(y.flatten(0, -2)).view_as(y)


class SPS(nn.Module):
    """Spiking patch splitting: four 3x3 convolutions, each with a neuron, then one that adds the position.

    in -> D/8 -> D/4 -> D/2 -> D, 3x3 max pooling of stride 2 behind the last ``pools`` neurons. The output is the sum
    of two spike maps: 0, 1 or 2. A static image passes the first convolution and BatchNorm once, not T times; in
    training BatchNorm's running variance differs by the sample-size correction from that of T repeated images.

    Args:
        in_channels: channels of the input.
        dim: D.
        pools: 2 for a total stride of 4, 4 for one of 16.
    """

    rpe_conv: nn.Conv2d
    rpe_bn: nn.BatchNorm2d
    rpe_lif: InputDecayLIF

    def __init__(self, in_channels: int, dim: int, *, pools: int) -> None:
        super().__init__()
        widths = (in_channels, dim // 8, dim // 4, dim // 2, dim, dim)
        self.names = [("proj", ""), ("proj", "1"), ("proj", "2"), ("proj", "3"), ("rpe", "")]
        for (name, number), inside, outside in zip(self.names, widths[:-1], widths[1:], strict=True):
            self.add_module(f"{name}_conv{number}", nn.Conv2d(inside, outside, 3, padding=1, bias=False))
            self.add_module(f"{name}_bn{number}", nn.BatchNorm2d(outside))
            self.add_module(f"{name}_lif{number}", InputDecayLIF())
        self.pools = [i >= 4 - pools for i in range(4)]
        self.maxpool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor, *, steps: int) -> Tensor:
        """``(T, B, C, H, W)``, or ``(1, B, C, H, W)`` for a static image, to ``(T, B, D, H/s, W/s)``."""
        for (name, number), pool in zip(self.names[:4], self.pools, strict=True):
            y = per_step(x, getattr(self, f"{name}_conv{number}"), getattr(self, f"{name}_bn{number}"))
            x = getattr(self, f"{name}_lif{number}")(show(y, steps))
            x = per_step(x, self.maxpool) if pool else x
        return x + self.rpe_lif(per_step(x, self.rpe_conv, self.rpe_bn))


class LinearSSA(nn.Module):
    """Spiking self-attention on tokens ``(T, B, N, C)``: ``SN(BN(W SN(Q K^T s V)))``, linear maps with bias.

    Args:
        dim: C.
        heads: h.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.dim, self.num_heads, self.scale = dim, heads, SCALE
        for name in ("q", "k", "v", "proj"):
            self.add_module(f"{name}_linear", nn.Linear(dim, dim))
            self.add_module(f"{name}_bn", nn.BatchNorm1d(dim))
            self.add_module(f"{name}_lif", InputDecayLIF())
        self.attn_lif = InputDecayLIF(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Spikes ``(T, B, N, C)``; the residual is the block's."""
        spikes = (self._spikes(x, name) for name in ("q", "k", "v"))
        q, k, v = (s.unflatten(3, (self.num_heads, -1)).transpose(2, 3) for s in spikes)  # (T, B, h, N, C/h)
        product = (q @ k.transpose(3, 4)) * self.scale @ v
        return self._spikes(self.attn_lif(product.transpose(2, 3).flatten(3)), "proj")

    def _spikes(self, x: Tensor, name: str) -> Tensor:
        return getattr(self, f"{name}_lif")(_linear(x, getattr(self, f"{name}_linear"), getattr(self, f"{name}_bn")))


class ConvSSA(nn.Module):
    """Spiking self-attention on maps ``(T, B, C, H, W)``: ``Q (K^T V) s`` with pointwise convolutions.

    Args:
        dim: C.
        heads: h.
        proj_over_batch: True lets the last neuron take the samples of a batch for further steps: T*B steps of one
            sample. See `QKFormerConfig`.
    """

    proj_lif: InputDecayLIF

    def __init__(self, dim: int, heads: int, *, proj_over_batch: bool = False) -> None:
        super().__init__()
        self.dim, self.num_heads, self.scale, self.proj_over_batch = dim, heads, SCALE, proj_over_batch
        for name in ("q", "k", "v", "proj"):
            self.add_module(f"{name}_conv", nn.Conv1d(dim, dim, 1, bias=name == "proj"))
            self.add_module(f"{name}_bn", nn.BatchNorm1d(dim))
            self.add_module(f"{name}_lif", InputDecayLIF())
        self.attn_lif = InputDecayLIF(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Spikes ``(T, B, C, H, W)``; the residual is the block's."""
        flat = x.flatten(3)  # (T, B, C, N)
        spikes = (getattr(self, f"{name}_lif")(self._mapped(flat, name)) for name in ("q", "k", "v"))
        q, k, v = (s.unflatten(2, (self.num_heads, -1)) for s in spikes)  # (T, B, h, C/h, N)
        product = (v @ k.transpose(3, 4)) @ q * self.scale
        current = self._mapped(self.attn_lif(product.flatten(2, 3)), "proj")
        if self.proj_over_batch:
            spikes_out = shapes.unfold_steps(self.proj_lif(shapes.fold_steps(current)), x.shape[0])
        else:
            spikes_out = self.proj_lif(current)
        return spikes_out.view_as(x)

    def _mapped(self, x: Tensor, name: str) -> Tensor:
        return per_step(x, getattr(self, f"{name}_conv"), getattr(self, f"{name}_bn"))


class LinearMLP(nn.Module):
    """Two linear maps on tokens ``(T, B, N, C)``, BatchNorm and a neuron behind each.

    Args:
        dim: C.
        hidden: channels between the maps.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1_linear, self.fc1_bn, self.fc1_lif = nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), InputDecayLIF()
        self.fc2_linear, self.fc2_bn, self.fc2_lif = nn.Linear(hidden, dim), nn.BatchNorm1d(dim), InputDecayLIF()

    def forward(self, x: Tensor) -> Tensor:
        """Spikes ``(T, B, N, C)``."""
        x = self.fc1_lif(_linear(x, self.fc1_linear, self.fc1_bn))
        return self.fc2_lif(_linear(x, self.fc2_linear, self.fc2_bn))


class ConvMLP(nn.Module):
    """Two 1x1 convolutions on maps ``(T, B, C, H, W)``, BatchNorm and a neuron behind each.

    Args:
        dim: C.
        hidden: channels between the maps.
        prefix: "fc" or "mlp", of the names of the layers.
    """

    def __init__(self, dim: int, hidden: int, *, prefix: str = "fc") -> None:
        super().__init__()
        self.names = (f"{prefix}1", f"{prefix}2")
        for name, inside, outside in zip(self.names, (dim, hidden), (hidden, dim), strict=True):
            self.add_module(f"{name}_conv", nn.Conv2d(inside, outside, 1))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(outside))
            self.add_module(f"{name}_lif", InputDecayLIF())

    def forward(self, x: Tensor) -> Tensor:
        """Spikes ``(T, B, C, H, W)``."""
        for name in self.names:
            y = per_step(x, getattr(self, f"{name}_conv"), getattr(self, f"{name}_bn"))
            x = getattr(self, f"{name}_lif")(y)
        return x


class Block(nn.Module):
    """``x += attention(x); x += mlp(x)`` on spikes: each block adds up to 2 to the values of the stream.

    Args:
        attention: over tokens.
        mlp: over channels.
        name: of the attention as a child.
    """

    def __init__(self, attention: nn.Module, mlp: nn.Module, *, name: str = "attn") -> None:
        super().__init__()
        self.attention_name = name
        self.add_module(name, attention)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        x = x + getattr(self, self.attention_name)(x)
        return x + self.mlp(x)
