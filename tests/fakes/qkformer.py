"""QKFormer: hierarchical, Q-K token attention in the early stages and SSA in the last, all on (T, B, C, H, W)."""

from torch import Tensor, nn

from tests.fakes.neurons import MultiStepLIF
from tests.fakes.parts import per_step


class PatchEmbedInit(nn.Module):
    """First stem. Quirk: a sum of two spike maps, 0..2."""

    def __init__(self, in_channels: int, dim: int, pool: int) -> None:
        super().__init__()
        self.proj_conv, self.proj_bn = nn.Conv2d(in_channels, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim)
        self.proj_lif = MultiStepLIF()
        self.maxpool = nn.MaxPool2d(3, pool, 1)
        self.proj1_conv, self.proj1_bn = nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim)
        self.proj1_lif = MultiStepLIF()

    def forward(self, x: Tensor) -> Tensor:
        x = per_step(self.proj_lif(per_step(x, self.proj_conv, self.proj_bn)), self.maxpool)
        return x + self.proj1_lif(per_step(x, self.proj1_conv, self.proj1_bn))


class PatchEmbeddingStage(nn.Module):
    """Halves the map between two stages. Quirk: both branches reshape to H // 2, so odd sides fail."""

    def __init__(self, inside: int, dim: int) -> None:
        super().__init__()
        self.proj3_conv, self.proj3_bn = nn.Conv2d(inside, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim)
        self.proj3_maxpool = nn.MaxPool2d(3, 2, 1)
        self.proj3_lif = MultiStepLIF()
        self.proj_res_conv, self.proj_res_bn = nn.Conv2d(inside, dim, 1, 2, bias=False), nn.BatchNorm2d(dim)
        self.proj_res_lif = MultiStepLIF()

    def forward(self, x: Tensor) -> Tensor:
        T, B, _, H, W = x.shape
        main = self.proj3_maxpool(self.proj3_bn(self.proj3_conv(x.flatten(0, 1))))
        short = self.proj_res_bn(self.proj_res_conv(x.flatten(0, 1)))
        main = self.proj3_lif(main.reshape(T, B, -1, H // 2, W // 2))
        return main + self.proj_res_lif(short.reshape(T, B, -1, H // 2, W // 2))


class Token_QK_Attention(nn.Module):  # noqa: N801 - the name upstream
    """Not quadratic: q summed over the channels of a head gives a mask over the tokens of k. There is no v."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.dim, self.num_heads = dim, num_heads
        for name in ("q", "k", "proj"):
            setattr(self, f"{name}_conv", nn.Conv1d(dim, dim, 1, bias=name == "proj"))
            setattr(self, f"{name}_bn", nn.BatchNorm1d(dim))
            setattr(self, f"{name}_lif", MultiStepLIF())
        self.attn_lif = MultiStepLIF(v_threshold=0.5)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(3)
        q = self.q_lif(per_step(flat, self.q_conv, self.q_bn)).unflatten(2, (self.num_heads, -1))
        k = self.k_lif(per_step(flat, self.k_conv, self.k_bn)).unflatten(2, (self.num_heads, -1))
        mask = self.attn_lif(q.sum(3, keepdim=True))  # (T, B, h, 1, N)
        out = (mask * k).flatten(2, 3)
        return self.proj_lif(per_step(out, self.proj_conv, self.proj_bn)).reshape(x.shape)


class Spiking_Self_Attention(nn.Module):  # noqa: N801 - the name upstream
    """q (k^T v). Three quirks: see the lines marked."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.dim, self.num_heads, self.scale = dim, num_heads, 0.125
        for name in ("q", "k", "v", "proj"):
            setattr(self, f"{name}_conv", nn.Conv1d(dim, dim, 1, bias=name == "proj"))
            setattr(self, f"{name}_bn", nn.BatchNorm1d(dim))
            setattr(self, f"{name}_lif", MultiStepLIF())
        self.attn_lif = MultiStepLIF(v_threshold=0.5)
        self.qkv_mp = nn.MaxPool1d(4)  # quirk: never used

    def heads(self, x: Tensor, name: str) -> Tensor:
        flat = per_step(x, getattr(self, f"{name}_conv"), getattr(self, f"{name}_bn"))
        return getattr(self, f"{name}_lif")(flat).unflatten(2, (self.num_heads, -1)).transpose(-1, -2)

    def forward(self, x: Tensor) -> Tensor:
        T, B, C, H, W = x.shape
        q, k, v = (self.heads(x.flatten(3), name) for name in ("q", "k", "v"))
        out = q @ (k.transpose(-2, -1) @ v) * self.scale
        out = self.attn_lif(out.transpose(-1, -2).reshape(T, B, C, -1))
        # Quirk, a bug upstream: the neuron gets (T*B, C, N), so it runs over the samples of the batch too.
        out = self.proj_lif(self.proj_bn(self.proj_conv(out.flatten(0, 1))))
        return out.reshape(T, B, C, W, H)  # quirk: not (H, W); x + this broadcasts where the map is (N, 1)


class Mlp(nn.Module):
    """Pointwise, on maps. Quirk: cifar and imagenet name the layers differently."""

    def __init__(self, dim: int, hidden: int, prefix: str) -> None:
        super().__init__()
        self.names = (f"{prefix}1", f"{prefix}2")
        for name, inside, outside in zip(self.names, (dim, hidden), (hidden, dim), strict=True):
            setattr(self, f"{name}_conv", nn.Conv2d(inside, outside, 1))
            setattr(self, f"{name}_bn", nn.BatchNorm2d(outside))
            setattr(self, f"{name}_lif", MultiStepLIF())
        self.c_hidden, self.c_output = hidden, dim

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = per_step(x, getattr(self, f"{name}_conv"), getattr(self, f"{name}_bn"))
            x = getattr(self, f"{name}_lif")(x)
        return x


class TokenSpikingTransformer(nn.Module):
    def __init__(self, dim: int, num_heads: int, prefix: str) -> None:
        super().__init__()
        self.tssa = Token_QK_Attention(dim, num_heads)
        self.mlp = Mlp(dim, 4 * dim, prefix)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tssa(x)
        return x + self.mlp(x)


class SpikingTransformer(nn.Module):
    """imagenet: the attention is called attn."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attn = Spiking_Self_Attention(dim, num_heads)
        self.mlp = Mlp(dim, 4 * dim, "fc")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class SpikingTransformerSsa(nn.Module):
    """cifar and dvs: the attention is called ssa."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.ssa = Spiking_Self_Attention(dim, num_heads)
        self.mlp = Mlp(dim, 4 * dim, "mlp")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ssa(x)
        return x + self.mlp(x)


class hierarchical_spiking_transformer(nn.Module):  # noqa: N801 - the name upstream
    """Three stages, as for imagenet: 256, 64 and 16 tokens of a 16x16 image."""

    def __init__(self, T: int = 4, dim: int = 40, num_heads: int = 5, depth: int = 2, num_classes: int = 5) -> None:
        super().__init__()
        self.T, self.num_classes = T, num_classes
        self.patch_embed1 = PatchEmbedInit(3, dim // 4, pool=1)
        self.stage1 = nn.ModuleList([TokenSpikingTransformer(dim // 4, num_heads, "fc")])
        self.patch_embed2 = PatchEmbeddingStage(dim // 4, dim // 2)
        self.stage2 = nn.ModuleList([TokenSpikingTransformer(dim // 2, num_heads, "fc")])
        self.patch_embed3 = PatchEmbeddingStage(dim // 2, dim)
        self.stage3 = nn.ModuleList(SpikingTransformer(dim, num_heads) for _ in range(depth))
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed1(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1))
        for block in self.stage1:
            x = block(x)
        x = self.patch_embed2(x)
        for block in self.stage2:
            x = block(x)
        x = self.patch_embed3(x)
        for block in self.stage3:
            x = block(x)
        return self.head(x.flatten(3).mean(3).mean(0))


class vit_snn(nn.Module):  # noqa: N801 - the name upstream
    """Two stages, as for dvs: (B, T, 2, H, W) in, 64 and 16 tokens of 16x16 frames."""

    def __init__(self, dim: int = 40, num_heads: int = 5, depth: int = 2, num_classes: int = 5) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.patch_embed1 = PatchEmbedInit(2, dim // 2, pool=2)
        self.stage1 = nn.ModuleList([TokenSpikingTransformer(dim // 2, num_heads, "mlp")])
        self.patch_embed2 = PatchEmbeddingStage(dim // 2, dim)
        self.stage2 = nn.ModuleList(SpikingTransformerSsa(dim, num_heads) for _ in range(depth))
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed1(x.permute(1, 0, 2, 3, 4))
        for block in self.stage1:
            x = block(x)
        x = self.patch_embed2(x)
        for block in self.stage2:
            x = block(x)
        return self.head(x.flatten(3).mean(3).mean(0))
