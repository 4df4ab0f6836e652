"""Spikformer V1, in the three forms of its repository: cifar10, imagenet and cifar10dvs."""

import torch
from torch import Tensor, nn

from tests.fakes.neurons import MultiStepLIF
from tests.fakes.parts import per_step, per_step_linear


class SPS(nn.Module):
    """Stem to (T, B, C, H/4, W/4). Quirk: a sum of two spike maps, so its values are 0, 1 and 2."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj_conv = nn.Conv2d(in_channels, dim // 2, 3, padding=1, bias=False)
        self.proj_bn = nn.BatchNorm2d(dim // 2)
        self.proj_lif = MultiStepLIF()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.proj_conv1 = nn.Conv2d(dim // 2, dim, 3, padding=1, bias=False)
        self.proj_bn1 = nn.BatchNorm2d(dim)
        self.proj_lif1 = MultiStepLIF()
        self.maxpool1 = nn.MaxPool2d(3, 2, 1)
        self.rpe_conv = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.rpe_bn = nn.BatchNorm2d(dim)
        self.rpe_lif = MultiStepLIF()

    def features(self, x: Tensor) -> Tensor:
        x = per_step(self.proj_lif(per_step(x, self.proj_conv, self.proj_bn)), self.maxpool)
        x = per_step(self.proj_lif1(per_step(x, self.proj_conv1, self.proj_bn1)), self.maxpool1)
        return x + self.rpe_lif(per_step(x, self.rpe_conv, self.rpe_bn))  # quirk: position is in before the flatten


class CifarSPS(SPS):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).flatten(-2).transpose(-1, -2)  # (T, B, N, C)


class ImagenetSPS(SPS):
    """Quirk: returns a tuple."""

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.features(x)
        return x, (x.shape[-2], x.shape[-1])


class DvsSPS(SPS):
    """Quirk: the sizes of the map are literals, so only one input size fits."""

    def features(self, x: Tensor) -> Tensor:
        T, B = x.shape[:2]
        x = self.proj_bn(self.proj_conv(x.flatten(0, 1))).reshape(T, B, -1, 16, 16)
        x = self.maxpool(self.proj_lif(x).flatten(0, 1))
        x = self.proj_bn1(self.proj_conv1(x)).reshape(T, B, -1, 8, 8)
        x = self.maxpool1(self.proj_lif1(x).flatten(0, 1)).reshape(T, B, -1, 4, 4)
        return x + self.rpe_lif(per_step(x, self.rpe_conv, self.rpe_bn))

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).flatten(-2)  # (T, B, C, N)


class CifarSSA(nn.Module):
    """(T, B, N, C) in and out; (q k^T) v."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.dim, self.num_heads, self.scale = dim, num_heads, 0.125
        for name in ("q", "k", "v", "proj"):
            setattr(self, f"{name}_linear", nn.Linear(dim, dim))
            setattr(self, f"{name}_bn", nn.BatchNorm1d(dim))
            setattr(self, f"{name}_lif", MultiStepLIF())
        self.attn_lif = MultiStepLIF(v_threshold=0.5)

    def forward(self, x: Tensor) -> Tensor:
        def heads(name: str) -> Tensor:
            flat = per_step_linear(x, getattr(self, f"{name}_linear"), getattr(self, f"{name}_bn"))
            return getattr(self, f"{name}_lif")(flat).unflatten(-1, (self.num_heads, -1)).transpose(2, 3)

        q, k, v = heads("q"), heads("k"), heads("v")  # (T, B, h, N, d)
        attn = (q @ k.transpose(-2, -1)) * self.scale
        out = self.attn_lif((attn @ v).transpose(2, 3).flatten(3))
        return self.proj_lif(per_step_linear(out, self.proj_linear, self.proj_bn))


class ConvSSA(nn.Module):
    """(T, B, C, N) inside, 1x1 Conv1d."""

    def __init__(self, dim: int, num_heads: int, scale: float) -> None:
        super().__init__()
        self.dim, self.num_heads, self.scale = dim, num_heads, scale
        for name in ("q", "k", "v", "proj"):
            setattr(self, f"{name}_conv", nn.Conv1d(dim, dim, 1, bias=name == "proj"))
            setattr(self, f"{name}_bn", nn.BatchNorm1d(dim))
            setattr(self, f"{name}_lif", MultiStepLIF())
        self.attn_lif = MultiStepLIF(v_threshold=0.5)

    def heads(self, x: Tensor, name: str) -> Tensor:
        flat = per_step(x, getattr(self, f"{name}_conv"), getattr(self, f"{name}_bn"))
        return getattr(self, f"{name}_lif")(flat).unflatten(2, (self.num_heads, -1)).transpose(-1, -2)

    def project(self, x: Tensor) -> Tensor:
        x = self.attn_lif(x.transpose(-1, -2).flatten(2, 3))
        return self.proj_lif(per_step(x, self.proj_conv, self.proj_bn))


class ImagenetSSA(ConvSSA):
    """Quirks: a second argument that is ignored, a pair returned, and q (k^T v) on a map."""

    def forward(self, x: Tensor, res_attn: Tensor | None) -> tuple[Tensor, Tensor]:
        flat = x.flatten(3)
        q, k, v = (self.heads(flat, name) for name in ("q", "k", "v"))
        return self.project(q @ (k.transpose(-2, -1) @ v) * self.scale).reshape(x.shape), v


class DvsSSA(ConvSSA):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.heads(x, name) for name in ("q", "k", "v"))
        return self.project((q @ k.transpose(-2, -1)) * self.scale @ v)


class LinearMLP(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1_linear, self.fc1_bn, self.fc1_lif = nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), MultiStepLIF()
        self.fc2_linear, self.fc2_bn, self.fc2_lif = nn.Linear(hidden, dim), nn.BatchNorm1d(dim), MultiStepLIF()
        self.c_hidden, self.c_output = hidden, dim

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1_lif(per_step_linear(x, self.fc1_linear, self.fc1_bn))
        return self.fc2_lif(per_step_linear(x, self.fc2_linear, self.fc2_bn))


class ConvMLP(nn.Module):
    """Pointwise, so the same for (T, B, C, N) and (T, B, C, H, W)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1_conv, self.fc1_bn, self.fc1_lif = nn.Conv1d(dim, hidden, 1), nn.BatchNorm1d(hidden), MultiStepLIF()
        self.fc2_conv, self.fc2_bn, self.fc2_lif = nn.Conv1d(hidden, dim, 1), nn.BatchNorm1d(dim), MultiStepLIF()
        self.c_hidden, self.c_output = hidden, dim

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1_lif(per_step(x.flatten(3), self.fc1_conv, self.fc1_bn))
        return self.fc2_lif(per_step(hidden, self.fc2_conv, self.fc2_bn)).reshape(x.shape)


class Block(nn.Module):
    """x + attn(x), then x + mlp(x), on spikes: values grow by 2 per block. Quirk: norms and drop_path stay unused."""

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attn, self.drop_path = nn.LayerNorm(dim), attn, nn.Identity()
        self.norm2, self.mlp = nn.LayerNorm(dim), mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class ImagenetBlock(Block):
    """Quirk: the second return value of the attention travels along."""

    def forward(self, x: Tensor, attn: Tensor | None) -> tuple[Tensor, Tensor]:
        x_attn, attn = self.attn(x, attn)
        x = x + x_attn
        return x + self.mlp(x), attn


class Spikformer(nn.Module):
    """The cifar10 form."""

    def __init__(self, T: int = 4, dim: int = 24, num_heads: int = 3, depth: int = 2, num_classes: int = 5) -> None:
        super().__init__()
        self.T, self.num_classes = T, num_classes
        self.patch_embed = CifarSPS(3, dim)
        self.block = nn.ModuleList(Block(dim, CifarSSA(dim, num_heads), LinearMLP(dim, 4 * dim)) for _ in range(depth))
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1))
        for block in self.block:
            x = block(x)
        return self.head(x.mean(2).mean(0))


class SpikformerImagenet(nn.Module):
    """The imagenet form. Quirk: T is a literal of the forward, so there is no attribute to set."""

    def __init__(self, dim: int = 24, num_heads: int = 3, depth: int = 2, num_classes: int = 5) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.patch_embed = ImagenetSPS(3, dim)
        self.block = nn.ModuleList(
            ImagenetBlock(dim, ImagenetSSA(dim, num_heads, 0.125), ConvMLP(dim, 4 * dim)) for _ in range(depth)
        )
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        T = 4
        x, _ = self.patch_embed(x.unsqueeze(0).repeat(T, 1, 1, 1, 1))
        attn = None
        for block in self.block:
            x, attn = block(x, attn)
        return self.head(x.flatten(3).mean(3).mean(0))


class SpikformerDvs(nn.Module):
    """The cifar10dvs form: (B, T, 2, H, W) in. Quirk: pos_embed and norm are never used, so they get no gradient."""

    def __init__(self, dim: int = 24, num_heads: int = 3, depth: int = 2, num_classes: int = 5) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.patch_embed = DvsSPS(2, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, 16, dim))
        self.block = nn.ModuleList(
            Block(dim, DvsSSA(dim, num_heads, 0.25), ConvMLP(dim, 4 * dim)) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x.permute(1, 0, 2, 3, 4))
        for block in self.block:
            x = block(x)
        return self.head(x.mean(3).mean(0))
