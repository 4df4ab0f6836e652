"""Neurons of the upstream families: spikingjelly 0.12, STMixer, SDT-V3, SpikeYOLO and one that nobody knows."""

import torch
from torch import Tensor, nn
from torch.autograd import Function


class _Sigmoid(Function):
    """Step at 0 forward, the slope of a sigmoid backward."""

    @staticmethod
    def forward(ctx, x: Tensor, alpha: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.alpha = alpha
        return (x >= 0).to(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(ctx.alpha * x)
        return grad * ctx.alpha * s * (1 - s), None


class _Window(Function):
    """Step at 0 forward, a window of width 2 backward."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        return grad * 0.5 * (x.abs() < 1)


class _Round(Function):
    """round(clamp(x, 0, top)) forward, straight through inside the range backward."""

    @staticmethod
    def forward(ctx, x: Tensor, top: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.top = top
        return x.clamp(0, top).round()

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        return grad * ((x >= 0) & (x <= ctx.top)), None


class MultiStepLIF(nn.Module):
    """spikingjelly 0.12: input (T, ...). Quirk: ``v`` outlives the call and is no buffer; users call ``reset``."""

    def __init__(self, tau: float = 2.0, v_threshold: float = 1.0) -> None:
        super().__init__()
        self.tau, self.v_threshold = tau, v_threshold
        self.v: Tensor | float = 0.0

    def forward(self, x_seq: Tensor) -> Tensor:
        if isinstance(self.v, Tensor) and self.v.shape != x_seq.shape[1:]:
            raise RuntimeError(
                f"MultiStepLIF: got {tuple(x_seq.shape[1:])} per step, but v is {tuple(self.v.shape)}. Call reset()."
            )
        spikes = []
        for x in x_seq:
            v = self.v + (x - self.v) / self.tau
            spike = _Sigmoid.apply(v - self.v_threshold, 4.0)
            self.v = v * (1 - spike.detach())
            spikes.append(spike)
        return torch.stack(spikes)

    def reset(self) -> None:
        self.v = 0.0


class StoredTLIF(nn.Module):
    """STMixer: input (T*B, ...) with T outside. Quirk: T is stored, so a wrong one splits the batch into steps."""

    def __init__(self, T: int, thresh: float = 1.0, tau: float = 0.5) -> None:
        super().__init__()
        self.T, self.thresh, self.tau = T, thresh, tau

    def forward(self, x: Tensor) -> Tensor:
        if self.T == 1:  # quirk: no loop at all
            return _Window.apply(x - self.thresh)
        steps = x.view(self.T, -1, *x.shape[1:])
        mem, spikes = torch.zeros_like(steps[0]), []
        for step in steps:
            mem = self.tau * mem + step  # quirk: the input is not scaled by 1 / tau
            spike = _Window.apply(mem - self.thresh)
            mem = mem * (1 - spike)  # quirk: the reset carries gradient
            spikes.append(spike)
        return torch.stack(spikes).view(x.shape)


class MultiSpike(nn.Module):
    """SDT-V3: no time and no state; the levels 0..max_value divided by Norm."""

    def __init__(self, max_value: int = 4, Norm: int = 4) -> None:
        super().__init__()
        self.max_value, self.Norm = max_value, Norm

    def forward(self, x: Tensor) -> Tensor:
        return _Round.apply(x, float(self.max_value)) / self.Norm


LEVELS = 4


class Multispike(nn.Module):
    """SDT-V3's large model. Quirk: the levels are a global of the module, and ``lens`` is ignored."""

    def __init__(self, lens: int = 4) -> None:
        super().__init__()
        self.lens = lens

    def forward(self, x: Tensor) -> Tensor:
        return _Round.apply(x, float(LEVELS)) / LEVELS


class MultiSpike4(nn.Module):
    """SpikeYOLO: the levels 0..4, not normalised."""

    def forward(self, x: Tensor) -> Tensor:
        return _Round.apply(x, 4.0)


class MemUpdate(nn.Module):
    """SpikeYOLO's mem_update: input (T, ...), nothing kept between calls, the levels are made by a child."""

    def __init__(self) -> None:
        super().__init__()
        self.qtrick = MultiSpike4()

    def forward(self, x: Tensor) -> Tensor:
        mem = spike = torch.zeros_like(x[0])
        spikes = []
        for step in x:
            mem = (mem - spike.detach()) * 0.25 + step  # soft reset
            spike = self.qtrick(mem)
            spikes.append(spike)
        return torch.stack(spikes)


class StepNode(nn.Module):
    """BrainCog: input (step*B, ...), steps outside. Quirk: ``step`` is stored, and ``mem`` outlives the call."""

    def __init__(self, step: int, threshold: float = 1.0, tau: float = 2.0) -> None:
        super().__init__()
        self.step, self.threshold, self.tau = step, threshold, tau
        self.mem: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        spikes = []
        for step in x.view(self.step, -1, *x.shape[1:]):
            mem = self.mem + (step - self.mem) / self.tau
            spike = _Sigmoid.apply(mem - self.threshold, 4.0)
            self.mem = mem * (1 - spike.detach())
            spikes.append(spike)
        return torch.stack(spikes).view(x.shape)

    def n_reset(self) -> None:
        self.mem = 0.0


class Soma(nn.Module):
    """Of no family: input (T, ...), soft reset, nothing kept between calls, and no name or attribute that tells."""

    def __init__(self, level: float = 1.5) -> None:
        super().__init__()
        self.level = level

    def forward(self, drive: Tensor) -> Tensor:
        charge, out = torch.zeros_like(drive[0]), []
        for now in drive:
            charge = 0.5 * charge + now
            out.append(_Sigmoid.apply(charge - self.level, 4.0))
            charge = charge - self.level * out[-1].detach()
        return torch.stack(out)


# A child that makes the levels for another neuron, as MultiSpike4 does, is not counted.
NEURONS = (MultiStepLIF, StoredTLIF, MultiSpike, Multispike, MemUpdate, StepNode, Soma)


def reset(model: nn.Module) -> None:
    """Call ``reset`` on every module that has one, as spikingjelly's users do between two batches."""
    for module in model.modules():
        if callable(getattr(module, "reset", None)):
            module.reset()
