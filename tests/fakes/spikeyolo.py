"""SpikeYOLO: a detector of convolutions only, wired by layer numbers as ultralytics does; there is no attention."""

import torch
from torch import Tensor, nn

from tests.fakes.neurons import MemUpdate
from tests.fakes.parts import per_step


class MS_GetT(nn.Module):  # noqa: N801 - the name upstream
    """Quirk: layer 0 makes the time axis."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = T

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)


class MS_DownSampling(nn.Module):  # noqa: N801 - the name upstream
    def __init__(self, inside: int, outside: int, first_layer: bool = False) -> None:
        super().__init__()
        self.encode_conv, self.encode_bn = nn.Conv2d(inside, outside, 3, 2, 1), nn.BatchNorm2d(outside)
        if not first_layer:
            self.encode_lif = MemUpdate()

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "encode_lif"):
            x = self.encode_lif(x)
        return per_step(x, self.encode_conv, self.encode_bn)


class MS_StandardConv(nn.Module):  # noqa: N801 - the name upstream
    def __init__(self, inside: int, outside: int, kernel: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.lif = MemUpdate()
        self.conv = nn.Conv2d(inside, outside, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        return per_step(self.lif(x), self.conv, self.bn)


class SepConv(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pw1, self.dw = MS_StandardConv(dim, 2 * dim), MS_StandardConv(2 * dim, 2 * dim, 3, groups=2 * dim)
        self.pw2 = MS_StandardConv(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.pw2(self.dw(self.pw1(x)))


class MS_AllConvBlock(nn.Module):  # noqa: N801 - the name upstream
    """Early stages: 3x3 convolutions for the channels too; membrane residuals."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.Conv = SepConv(dim)
        self.conv1, self.conv2 = MS_StandardConv(dim, 2 * dim, 3), MS_StandardConv(2 * dim, dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv(x) + x
        return x + self.conv2(self.conv1(x))


class MS_ConvBlock(nn.Module):  # noqa: N801 - the name upstream
    """Late stages: 1x1 convolutions for the channels; membrane residuals."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.Conv = SepConv(dim)
        self.conv1, self.conv2 = MS_StandardConv(dim, 2 * dim), MS_StandardConv(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv(x) + x
        return x + self.conv2(self.conv1(x))


class SpikeSPPF(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = MS_StandardConv(dim, dim // 2), MS_StandardConv(dim * 2, dim)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(per_step(parts[-1], self.m))
        return self.cv2(torch.cat(parts, 2))


class Concat(nn.Module):
    """Quirk: dimension 2, because of time; all inputs must agree in T, H and W."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.d = dimension

    def forward(self, x: list[Tensor]) -> Tensor:
        return torch.cat(x, self.d)


class SpikeDetect(nn.Module):
    """A map (B, 4 + classes, H, W) per scale, the mean over T."""

    def __init__(self, classes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.nc, self.no, self.nl = classes, classes + 4, len(widths)
        self.cv2 = nn.ModuleList(MS_StandardConv(width, 4, 3) for width in widths)
        self.cv3 = nn.ModuleList(MS_StandardConv(width, classes, 3) for width in widths)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        return [
            torch.cat((box(one), kind(one)), 2).mean(0) for one, box, kind in zip(x, self.cv2, self.cv3, strict=True)
        ]


class DetectionModel(nn.Module):
    """Layers know their number ``i`` and whose output they take, ``f``; ``save`` lists the outputs to be kept."""

    def __init__(self, T: int = 4, classes: int = 5) -> None:
        super().__init__()
        layers: list[tuple[int | list[int], nn.Module]] = [
            (-1, MS_GetT(T)),
            (-1, MS_DownSampling(3, 8, first_layer=True)),
            (-1, MS_AllConvBlock(8)),
            (-1, MS_DownSampling(8, 16)),
            (-1, MS_ConvBlock(16)),
            (-1, MS_DownSampling(16, 24)),
            (-1, SpikeSPPF(24)),
            (-1, nn.Upsample(scale_factor=(1.0, 2.0, 2.0))),
            ([-1, 4], Concat(2)),
            (-1, MS_StandardConv(40, 16)),
            (-1, MS_ConvBlock(16)),
            ([10, 6], SpikeDetect(classes, (16, 24))),
        ]
        for number, (source, layer) in enumerate(layers):
            layer.f, layer.i = source, number
        self.model = nn.Sequential(*(layer for _, layer in layers))
        self.save = [4, 6, 10]

    def forward(self, x: Tensor) -> list[Tensor]:
        kept: list[Tensor | None] = []
        for layer in self.model:
            if layer.f != -1:
                x = [x if source == -1 else kept[source] for source in layer.f]
            x = layer(x)
            kept.append(x if layer.i in self.save else None)
        return x
