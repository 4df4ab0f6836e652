"""Spike-Driven Transformer, version 1: linear attention by element-wise products, residuals inside the layers."""

from torch import Tensor, nn

from tests.fakes.neurons import MultiStepLIF
from tests.fakes.parts import per_step

Hook = dict[str, Tensor] | None


class Erode(nn.Module):
    """3x3 max-pool over the last two axes of five."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool3d((1, 3, 3), 1, (0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)


class MS_SPS(nn.Module):  # noqa: N801 - the name upstream
    """Quirks: real values out (the sum is of two BatchNorms), and a triple with the map's size and the hook."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj_conv = nn.Conv2d(in_channels, dim // 2, 3, padding=1, bias=False)
        self.proj_bn, self.proj_lif = nn.BatchNorm2d(dim // 2), MultiStepLIF()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.proj_conv1 = nn.Conv2d(dim // 2, dim, 3, padding=1, bias=False)
        self.proj_bn1, self.proj_lif1 = nn.BatchNorm2d(dim), MultiStepLIF()
        self.maxpool1 = nn.MaxPool2d(3, 2, 1)
        self.rpe_conv = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.rpe_bn = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor, hook: Hook = None) -> tuple[Tensor, tuple[int, int], Hook]:
        x = per_step(self.proj_lif(per_step(x, self.proj_conv, self.proj_bn)), self.maxpool)
        x = per_step(x, self.proj_conv1, self.proj_bn1, self.maxpool1)
        spikes = self.proj_lif1(x)
        if hook is not None:
            hook["MS_SPS_lif"] = spikes.detach()
        x = x + per_step(spikes, self.rpe_conv, self.rpe_bn)
        return x, (x.shape[-2], x.shape[-1]), hook


class MS_SSA_Conv(nn.Module):  # noqa: N801 - the name upstream
    """Quirks: SSA by name only; input neuron first, residual inside, hook in and out, two layers never used."""

    def __init__(self, dim: int, num_heads: int, dvs: bool, layer: int) -> None:
        super().__init__()
        self.dim, self.num_heads, self.scale, self.dvs, self.layer = dim, num_heads, 0.125, dvs, layer
        if dvs:
            self.pool = Erode()
        for name in ("q", "k", "v"):
            setattr(self, f"{name}_conv", nn.Conv2d(dim, dim, 1, bias=False))
            setattr(self, f"{name}_bn", nn.BatchNorm2d(dim))
            setattr(self, f"{name}_lif", MultiStepLIF())
        self.attn_lif = MultiStepLIF(v_threshold=0.5)  # never used
        self.talking_heads = nn.Conv1d(num_heads, num_heads, 1, bias=False)  # never used
        self.talking_heads_lif = MultiStepLIF(v_threshold=0.5)
        self.proj_conv, self.proj_bn = nn.Conv2d(dim, dim, 1), nn.BatchNorm2d(dim)
        self.shortcut_lif = MultiStepLIF()

    def erode(self, x: Tensor) -> Tensor:
        return self.pool(x) if self.dvs else x

    def maps(self, x: Tensor, name: str) -> Tensor:
        return getattr(self, f"{name}_lif")(per_step(x, getattr(self, f"{name}_conv"), getattr(self, f"{name}_bn")))

    def heads(self, x: Tensor) -> Tensor:
        return x.flatten(3).unflatten(2, (self.num_heads, -1)).transpose(-1, -2)  # (T, B, h, N, d)

    def forward(self, x: Tensor, hook: Hook = None) -> tuple[Tensor, Tensor, Hook]:
        identity = x
        x = self.shortcut_lif(x)
        if hook is not None:
            hook[f"MS_SSA_Conv{self.layer}_first_lif"] = x.detach()
        q = self.heads(self.maps(x, "q"))
        k = self.heads(self.erode(self.maps(x, "k")))
        v = self.heads(self.erode(self.maps(x, "v")))
        kv = self.erode(k.mul(v))  # quirk: k and v are pooled as maps, kv and x over (N, d)
        kv = self.talking_heads_lif(kv.sum(dim=-2, keepdim=True))
        x = self.erode(q.mul(kv))
        x = per_step(x.transpose(3, 4).reshape(identity.shape), self.proj_conv, self.proj_bn)
        return x + identity, v, hook


class MS_MLP_Conv(nn.Module):  # noqa: N801 - the name upstream
    """Quirk: residual inside, hook in and out."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1_lif, self.fc1_conv, self.fc1_bn = MultiStepLIF(), nn.Conv2d(dim, hidden, 1), nn.BatchNorm2d(hidden)
        self.fc2_lif, self.fc2_conv, self.fc2_bn = MultiStepLIF(), nn.Conv2d(hidden, dim, 1), nn.BatchNorm2d(dim)
        self.c_hidden, self.c_output = hidden, dim

    def forward(self, x: Tensor, hook: Hook = None) -> tuple[Tensor, Hook]:
        hidden = per_step(self.fc1_lif(x), self.fc1_conv, self.fc1_bn)
        return x + per_step(self.fc2_lif(hidden), self.fc2_conv, self.fc2_bn), hook


class MS_Block_Conv(nn.Module):  # noqa: N801 - the name upstream
    def __init__(self, dim: int, num_heads: int, dvs: bool, layer: int) -> None:
        super().__init__()
        self.attn = MS_SSA_Conv(dim, num_heads, dvs, layer)
        self.drop_path = nn.Identity()  # never used
        self.mlp = MS_MLP_Conv(dim, 4 * dim)

    def forward(self, x: Tensor, hook: Hook = None) -> tuple[Tensor, Tensor, Hook]:
        x, attn, hook = self.attn(x, hook=hook)
        x, hook = self.mlp(x, hook=hook)
        return x, attn, hook


class SpikeDrivenTransformer(nn.Module):
    """Returns (logits, hook). Quirks: a neuron after the token mean; with TET the logits keep T."""

    def __init__(self, in_channels: int = 3, dim: int = 24, num_heads: int = 3, dvs: bool = False, TET: bool = False):
        super().__init__()
        self.T, self.num_classes, self.TET, self.dvs = 4, 5, TET, dvs
        self.patch_embed = MS_SPS(in_channels, dim)
        self.block = nn.ModuleList(MS_Block_Conv(dim, num_heads, dvs, layer) for layer in range(2))
        self.head_lif = MultiStepLIF()
        self.head = nn.Linear(dim, self.num_classes)

    def forward(self, x: Tensor, hook: Hook = None) -> tuple[Tensor, Hook]:
        x = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1) if x.dim() < 5 else x.transpose(0, 1)
        x, _, hook = self.patch_embed(x, hook=hook)
        for block in self.block:
            x, _, hook = block(x, hook=hook)
        x = self.head(self.head_lif(x.flatten(3).mean(3)))
        return x if self.TET else x.mean(0), hook
