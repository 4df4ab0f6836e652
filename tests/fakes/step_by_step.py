"""Small transformers as users of snnTorch write them: neurons with a hidden membrane, one step a call."""

import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor, nn

from snntorch_smixer import LIF


def leaky(threshold: float = 0.1) -> nn.Module:
    return snn.Leaky(
        beta=0.5, threshold=threshold, reset_mechanism="zero", init_hidden=True, spike_grad=surrogate.atan()
    )


def multi_step(threshold: float = 0.1) -> nn.Module:
    """The same neuron for all steps in one call."""
    return LIF(0.5, threshold=threshold, reset_mechanism="zero", spike_grad=surrogate.atan())


class Attention(nn.Module):
    def __init__(self, dim: int, neuron: type = leaky) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.q_lif, self.k_lif, self.v_lif, self.attn_lif, self.proj_lif = (neuron() for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        pairs = ((self.q_lif, self.q), (self.k_lif, self.k), (self.v_lif, self.v))
        q, k, v = (lif(linear(x)).unflatten(-1, (4, -1)).transpose(-3, -2) for lif, linear in pairs)
        y = (q @ k.transpose(-2, -1) @ v) * 0.25
        return self.proj_lif(self.proj(self.attn_lif(y.transpose(-3, -2).flatten(-2))))


class Block(nn.Module):
    def __init__(self, dim: int, neuron: type = leaky) -> None:
        super().__init__()
        self.attn = Attention(dim, neuron)
        self.fc1, self.fc1_lif = nn.Linear(dim, 2 * dim), neuron()
        self.fc2, self.fc2_lif = nn.Linear(2 * dim, dim), neuron()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.fc2_lif(self.fc2(self.fc1_lif(self.fc1(x))))


class Step(nn.Module):
    """One step: its caller loops, and resets the neurons."""

    def __init__(self, dim: int = 32, neuron: type = leaky) -> None:
        super().__init__()
        self.patch, self.patch_lif, self.head = nn.Conv2d(3, dim, 4, 4), neuron(), nn.Linear(dim, 10)
        self.blocks = nn.ModuleList([Block(dim, neuron), Block(dim, neuron)])

    def forward(self, x: Tensor) -> Tensor:
        z = self.patch_lif(self.patch(x)).flatten(-2).transpose(-2, -1)
        for block in self.blocks:
            z = block(z)
        return self.head(z.mean(-2))


class OwnLoop(Step):
    """A static picture, shown ``num_steps`` times by the model itself."""

    def __init__(self, dim: int = 32, num_steps: int = 4) -> None:
        super().__init__(dim)
        self.num_steps = num_steps

    def forward(self, x: Tensor) -> Tensor:
        for module in self.modules():
            if isinstance(module, snn.Leaky):
                module.reset_mem()
        return torch.stack([Step.forward(self, x) for _ in range(self.num_steps)])


class OverFrames(Step):
    """Frames (T, B, C, H, W), over which the model loops itself."""

    def forward(self, x: Tensor) -> Tensor:
        for module in self.modules():
            if isinstance(module, snn.Leaky):
                module.reset_mem()
        return torch.stack([Step.forward(self, frame) for frame in x])


class AllSteps(Step):
    """The same net with neurons that take all steps at once: frames (T, B, C, H, W) to logits (T, B, K)."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__(dim, multi_step)

    def forward(self, x: Tensor) -> Tensor:
        z = self.patch_lif(self.patch(x.flatten(0, 1)).unflatten(0, x.shape[:2])).flatten(3).transpose(2, 3)
        for block in self.blocks:
            z = block(z)
        return self.head(z.mean(2))
