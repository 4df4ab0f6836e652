"""BrainCog's Spikformer: nodes on (step*B, ...) with the steps stored in nodes and blocks; layers reset themselves."""

from torch import Tensor, nn

from tests.fakes.neurons import StepNode


class StepModule(nn.Module):
    """Quirks: ``step`` is stored, and the forward starts by resetting the nodes below."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def reset(self) -> None:
        for module in self.modules():
            if isinstance(module, StepNode):
                module.n_reset()

    def fold(self, x: Tensor) -> Tensor:
        """(T, B, N, C) -> (T*B, C, N); as einops would, this refuses another T than the stored one."""
        if x.shape[0] != self.step:
            raise RuntimeError(f"{type(self).__name__}: got {x.shape[0]} steps, step is {self.step}")
        return x.flatten(0, 1).transpose(1, 2)

    def unfold(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(self.step, -1, x.shape[2], x.shape[1])


class SPS(StepModule):
    """(T*B, 3, H, W) -> (T, B, N, C). Quirk: what comes is split by the stored step."""

    def __init__(self, step: int, dim: int) -> None:
        super().__init__(step)
        self.proj_conv, self.proj_bn, self.proj_node = nn.Conv2d(3, dim, 3, 2, 1), nn.BatchNorm2d(dim), StepNode(step)
        self.rpe_conv, self.rpe_bn, self.rpe_node = nn.Conv2d(dim, dim, 3, 2, 1), nn.BatchNorm2d(dim), StepNode(step)

    def forward(self, x: Tensor) -> Tensor:
        self.reset()
        x = self.proj_node(self.proj_bn(self.proj_conv(x)))
        return self.unfold(self.rpe_node(self.rpe_bn(self.rpe_conv(x))).flatten(2))


class SSA(StepModule):
    """(T, B, N, C) in and out; (q k^T) v."""

    def __init__(self, step: int, dim: int, num_heads: int) -> None:
        super().__init__(step)
        self.dim, self.num_heads, self.scale = dim, num_heads, 0.25
        for name in ("q", "k", "v", "proj"):
            setattr(self, f"{name}_conv", nn.Conv1d(dim, dim, 1, bias=False))
            setattr(self, f"{name}_bn", nn.BatchNorm1d(dim))
            setattr(self, f"{name}_node", StepNode(step))
        self.attn_node = StepNode(step, threshold=0.5)

    def branch(self, x: Tensor, name: str) -> Tensor:
        return getattr(self, f"{name}_node")(getattr(self, f"{name}_bn")(getattr(self, f"{name}_conv")(x)))

    def forward(self, x: Tensor) -> Tensor:
        self.reset()
        flat = self.fold(x)
        q, k, v = (self.branch(flat, name).unflatten(1, (self.num_heads, -1)).mT for name in ("q", "k", "v"))
        out = (q @ k.mT) @ v * self.scale
        return self.unfold(self.branch(self.attn_node(out.mT.flatten(1, 2)), "proj"))


class MLP(StepModule):
    def __init__(self, step: int, dim: int, hidden: int) -> None:
        super().__init__(step)
        self.fc1_conv, self.fc1_bn, self.fc1_node = nn.Conv1d(dim, hidden, 1), nn.BatchNorm1d(hidden), StepNode(step)
        self.fc2_conv, self.fc2_bn, self.fc2_node = nn.Conv1d(hidden, dim, 1), nn.BatchNorm1d(dim), StepNode(step)

    def forward(self, x: Tensor) -> Tensor:
        self.reset()
        hidden = self.fc1_node(self.fc1_bn(self.fc1_conv(self.fold(x))))
        return self.unfold(self.fc2_node(self.fc2_bn(self.fc2_conv(hidden))))


class Block(nn.Module):
    def __init__(self, step: int, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attn, self.mlp = SSA(step, dim, num_heads), MLP(step, dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class Spikformer(nn.Module):
    def __init__(self, step: int = 4, dim: int = 24, num_heads: int = 3, depth: int = 2, num_classes: int = 5) -> None:
        super().__init__()
        self.step, self.num_classes = step, num_classes
        self.patch_embed = SPS(step, dim)
        self.block = nn.ModuleList(Block(step, dim, num_heads) for _ in range(depth))
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x.repeat(self.step, 1, 1, 1))
        for block in self.block:
            x = block(x)
        return self.head(x.mean(2).mean(0))
