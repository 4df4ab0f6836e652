"""Integer LIF over all steps that keeps one bit per element for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snntorch_smixer.kernels.fire import once
from snntorch_smixer.kernels.lif import integer_lif
from snntorch_smixer.kernels.spikes import pack, unpack


def integer_fire(x: Tensor, beta: float, levels: int) -> Tensor:
    """`kernels.lif.integer_lif` that keeps whether each membrane was inside [0, levels]: all that its gradient asks.

    Same spikes and same gradients, bit for bit. Differentiable once.

    Args:
        x: input current, ``(T, ...)``.
        beta: membrane decay per step.
        levels: highest spike count that one step may carry.
    """
    if not (x.requires_grad and torch.is_grad_enabled()):
        return integer_lif(x, beta, levels)
    spikes: Tensor = _IntegerFire.apply(x, beta, levels)
    return spikes


def integer_spikes(x: Tensor, beta: float, levels: int, *, memory: str) -> Tensor:
    """`kernels.lif.integer_lif` in a memory mode: one bit per element is kept, unless ``memory`` is "reference".

    ``torch.compile`` of a whole model takes the plain function and fuses it by itself.
    """
    plain = memory == "reference" or torch.compiler.is_compiling()
    return integer_lif(x, beta, levels) if plain else integer_fire(x, beta, levels)


class _IntegerFire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: float, levels: int) -> Tensor:
        ctx.beta, ctx.dtype = beta, x.dtype
        spikes, bits = x.new_empty(x.shape), []
        mem = x[0].to(torch.promote_types(x.dtype, torch.float32))
        for step, current in enumerate(x):
            if step:
                # The operations of `integer_lif` in their order, so that not one bit differs.
                mem = beta * (mem - spikes[step - 1].to(mem.dtype)) + current.to(mem.dtype)
            bounded = mem.clamp(0, levels)
            bits.append(pack(torch.eq(bounded, mem, out=torch.empty_like(mem)), trusted=True))
            torch.round(bounded, out=bounded)
            spikes[step] = bounded
        ctx.save_for_backward(torch.stack(bits))
        return spikes

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (bits,) = ctx.saved_tensors
        by_x = torch.empty_like(grad, dtype=torch.promote_types(ctx.dtype, torch.float32))
        by_mem: Tensor | None = None
        for step in reversed(range(len(grad))):
            inside = unpack(bits[step], grad.shape[-1], by_x.dtype)
            # The gradient where `inside` is one, and zero elsewhere.
            now = torch.ops.aten.threshold_backward(grad[step].to(by_x.dtype), inside, 0.0)
            by_mem = now if by_mem is None else now.add_(by_mem * ctx.beta)
            by_x[step] = by_mem
        return by_x.to(ctx.dtype), None, None
