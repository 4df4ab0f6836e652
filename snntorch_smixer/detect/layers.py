"""Layers of a spiking detector on maps (T, B, C, H, W): convolutions, the mixer stage, pruning that keeps the grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snntorch_smixer import shapes
from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.kernels.token_mix import expand_to_grid, mix, mix_shared, resize_matrix
from snntorch_smixer.layers.block import EncodingBlock
from snntorch_smixer.layers.mixer import SMixer
from snntorch_smixer.layers.mlp import SpikingMLP
from snntorch_smixer.layers.unit import Unit, fire
from snntorch_smixer.neurons import IntegerLIF
from snntorch_smixer.pruning.pruner import DSTSP, DSTSPConfig
from snntorch_smixer.pruning.rates import rate_at
from snntorch_smixer.pruning.softmatch import merge_dropped
from snntorch_smixer.selection import Selection

Neuron = Callable[[], nn.Module]


class GridDSTSP(DSTSP):
    """DSTSP for a detector: steps are dropped, tokens only chosen, because every map keeps its grid."""

    keeps_grid = True
    wrapped: Any = None
    """What `snntorch_smixer.dstsp.wrap` needs to undo itself; None where it did nothing."""

    def check(self, settings: DSTSPConfig) -> None:
        """Raise `SettingError` where ``settings`` do not fit a detector.

        Args:
            settings: those to come.
        """
        super().check(settings)
        if settings.spike_cap is not None:
            raise SettingError(
                f"DSTSP: spike_cap={settings.spike_cap} is not for detectors, whose convolution blocks do not cap "
                "spikes. Pass None, and fewer levels in the YAML file."
            )
        if settings.place != "stem":
            raise SettingError(
                f"DSTSP: place={settings.place!r} is not for detectors: the row PruneSteps says where steps are "
                "dropped. Pass place='stem'."
            )
        if settings.w_prime == "crop":
            raise SettingError(
                "DSTSP: w_prime='crop' gives W_M a meaning that depends on the number of tokens, and a detector has "
                "one for each picture size. Pass 'gather' or 'shared'."
            )


@dataclass(frozen=True, eq=False)
class BlockPruning:
    """The pruning of a detector for one of its blocks.

    Attributes:
        dstsp: shared by all blocks; None in front of the place where steps are dropped.
        index: number of the block, for rates per block.
    """

    dstsp: DSTSP | None = None
    index: int = 0


UNPRUNED = BlockPruning()
"""Of a block in front of the place where steps are dropped."""


def drops_tokens(dstsp: DSTSP | None, index: int) -> bool:
    """True where the pruning of a detector drops tokens in front of a block, in this mode."""
    return dstsp is not None and dstsp.is_active() and rate_at(dstsp.ps, index, dstsp.depth or 1) > 0


def kept_tokens(dstsp: DSTSP, spikes: Tensor, index: int) -> Selection | None:
    """What is kept of tokens in front of a block, by their spikes ``(T, B, N, C)``; None where all are."""
    _, kept = dstsp(spikes, spikes, None, index)
    return kept if kept is not None and kept.drops_tokens else None


class SpikingConv(Unit):
    """neuron - convolution - BN on maps ``(T, B, C, H, W)``; the size is divided by ``stride``, rounded up.

    Args:
        inside: channels in.
        outside: channels out.
        kernel: odd.
        stride: of the convolution.
        groups: of the convolution.
        neuron: makes the neuron in front; None where spikes arrive already.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        neuron: Neuron | None = IntegerLIF,
    ) -> None:
        convolution = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(convolution, None if neuron is None else neuron())
        self.stride = stride

    @property
    def conv(self) -> nn.Module:
        """The convolution, under the name by which detection heads ask for it."""
        return self.linear


class SpikingStem(nn.Module):
    """Images ``(B, C, H, W)`` to a real-valued map ``(T, B, C', H / stride, W / stride)``: convolution and BN.

    The same picture is shown for T steps, so the convolution runs once. Event frames ``(T, B, C, H, W)`` run step by
    step.

    Args:
        inside: channels of the picture.
        outside: C'.
        kernel: odd.
        stride: of the convolution.
        steps: T.
    """

    def __init__(self, inside: int, outside: int, kernel: int = 3, stride: int = 2, *, steps: int = 1) -> None:
        super().__init__()
        self.T = steps
        self.unit = SpikingConv(inside, outside, kernel, stride, neuron=None)

    def forward(self, x: Tensor) -> Tensor:
        """See the class.

        Raises:
            LayoutError: no picture and no event frames, or frames of another number of steps.
        """
        if x.dim() == 5:
            if x.shape[0] != self.T:
                raise LayoutError(
                    f"SpikingStem: expected {self.T} steps in (T, B, C, H, W), got shape {tuple(x.shape)}. Pass as "
                    "many frames as the detector has steps."
                )
            return self.unit(x)
        if x.dim() != 4:
            raise LayoutError(f"SpikingStem: expected (B, C, H, W) or (T, B, C, H, W), got shape {tuple(x.shape)}.")
        once = self.unit(x[None])
        return once.expand(self.T, *once.shape[1:])


class PruneSteps(nn.Module):
    """DSTP in a detector: keep the t of T steps with the most spikes, ``(T, B, C, H, W)`` to ``(t, B, C, H, W)``.

    Stands in front of the first map that the neck takes, so that all maps behind it have the same steps.

    Args:
        dstsp: of the detector.
        neuron: makes the neuron whose spikes are counted, that of the layer behind.
    """

    index = -1

    def __init__(self, dstsp: DSTSP, *, neuron: Neuron = IntegerLIF) -> None:
        super().__init__()
        self.dstsp = dstsp
        self.neuron = neuron()

    def forward(self, x: Tensor) -> Tensor:
        """Fewer steps, each sample its own; ``x`` itself where none are dropped."""
        t = self.dstsp.t
        if not self.dstsp.is_active() or t is None or t == x.shape[0]:
            return x
        tokens = shapes.grid_to_tokens(x)
        with torch.no_grad():
            spikes = self.neuron(tokens)
        left, _ = self.dstsp(tokens, spikes, None, self.index)
        return shapes.tokens_to_grid(left, *x.shape[3:])


class SpikingConvBlock(nn.Module):
    """Separable convolution, then a channel MLP of convolutions, each added to the real-valued stream.

    With pruning, dropped positions are silent in every layer of the block and keep their value in the stream: on a chip
    their events are saved, in dense arithmetic nothing is.

    Args:
        dim: C.
        kernel: of the depthwise convolution, odd.
        full: 3 x 3 convolutions in the MLP, for early stages; else 1 x 1.
        pruning: of the detector, for this block.
        neuron: makes one neuron.
    """

    saves_dense = False

    def __init__(
        self,
        dim: int,
        *,
        kernel: int = 5,
        full: bool = False,
        pruning: BlockPruning = UNPRUNED,
        neuron: Neuron = IntegerLIF,
    ) -> None:
        super().__init__()
        hidden, size = 2 * dim, 3 if full else 1
        self.dstsp, self.index = pruning.dstsp, pruning.index
        conv = partial(SpikingConv, neuron=neuron)
        self.separable = nn.ModuleList(
            [conv(dim, hidden), conv(hidden, hidden, kernel, groups=hidden), conv(hidden, dim)]
        )
        self.mlp = nn.ModuleList([conv(dim, hidden, size), conv(hidden, dim, size)])

    def forward(self, x: Tensor) -> Tensor:
        """``(T, B, C, H, W)`` to the same shape."""
        kept = self._kept(x)
        for branch in (self.separable, self.mlp):
            y = x
            for unit in branch:
                y = unit(y if kept is None else y * kept)
            x = x + (y if kept is None else y * kept)
        return x

    def _kept(self, x: Tensor) -> Tensor | None:
        """``(B, 1, H, W)``, 1 at kept positions; None where all are."""
        if self.dstsp is None or not drops_tokens(self.dstsp, self.index):
            return None
        with torch.no_grad():
            spikes = self.separable[0].neuron(x)  # type: ignore[operator]
        kept = kept_tokens(self.dstsp, shapes.grid_to_tokens(spikes), self.index)
        return None if kept is None else kept.keep_mask().view(-1, 1, *x.shape[3:]).to(x.dtype)


class GridMixer(SMixer):
    """`SMixer` on a map of any size: ``W_M`` belongs to one grid, and is resized bicubically to every other.

    Args:
        dim: C.
        grid: (rows, columns) that ``W_M`` is made for.
        heads: h.
        neuron: makes one neuron.
    """

    def __init__(self, dim: int, *, grid: tuple[int, int], heads: int = 1, neuron: Neuron = IntegerLIF) -> None:
        super().__init__(dim, num_tokens=grid[0] * grid[1], heads=heads, neuron=neuron)
        self.grid = grid

    def forward(self, x: Tensor, kept: Selection | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        """Tokens ``(T, B, N', C)`` of a map of ``grid``, (rows, columns); None for that of ``W_M``."""
        if grid is None or grid == self.grid:
            return super().forward(x, kept)
        weight = resize_matrix(self.matrix, self.grid, grid)
        spikes = fire(self.neuron, self.value(x))
        return self.proj(mix(spikes, weight, kept, partial(mix_shared, w_prime=weight)))


@torch.no_grad()
def regrid(net: nn.Module, grid: tuple[int, int]) -> nn.Module:
    """Give every `GridMixer` of ``net`` the ``W_M`` of another grid, in place: it is not resized in each forward then.

    Args:
        net: changed; an optimizer has to be made anew.
        grid: (rows, columns) of the coarse map.
    """
    for mixer in net.modules():
        if isinstance(mixer, GridMixer) and mixer.grid != grid:
            weight = resize_matrix(mixer.matrix, mixer.grid, grid)
            rows = weight.shape[0] * weight.shape[1]
            mixer.w_m = nn.Conv1d(rows, rows, 1, groups=mixer.heads, bias=False).to(weight)
            mixer.w_m.weight.copy_(weight.reshape(rows, -1, 1))
            mixer.grid, mixer.num_tokens = grid, weight.shape[1]
    return net


class SpikingMixerBlocks(nn.Module):
    """SMixer encoding blocks on the coarse map, ``(T, B, C, H, W)`` to the same shape; N = H W up to about 400.

    With pruning the blocks run on the kept tokens only, which saves dense compute too. Dropped tokens keep their value
    and come back to their place behind the last block.

    Args:
        dim: C.
        depth: number of blocks.
        grid: (rows, columns) that ``W_M`` is made for.
        heads: h, divides C.
        pruning: of the detector, for the first block.
        neuron: makes one neuron.
    """

    saves_dense = True

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        grid: tuple[int, int],
        heads: int = 8,
        pruning: BlockPruning = UNPRUNED,
        neuron: Neuron = IntegerLIF,
    ) -> None:
        super().__init__()
        self.dstsp, self.index = pruning.dstsp, pruning.index
        self.blocks = nn.ModuleList(
            EncodingBlock(
                GridMixer(dim, grid=grid, heads=heads, neuron=neuron), SpikingMLP(dim, hidden=2 * dim, neuron=neuron)
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        size = (x.shape[3], x.shape[4])
        whole = shapes.grid_to_tokens(x)
        kept = self._kept(whole)
        tokens = whole
        if kept is not None and self.dstsp is not None:
            tokens = merge_dropped(whole, kept, self.dstsp.merge)
        for block in cast(Iterable[EncodingBlock], self.blocks):
            tokens = tokens + cast(GridMixer, block.mixer)(tokens, kept, size)
            tokens = tokens + block.mlp(tokens, kept)
        if kept is not None:
            back = expand_to_grid(tokens, kept)
            tokens = back if kept.fused else torch.where(kept.keep_mask()[None, :, :, None], back, whole)
        return shapes.tokens_to_grid(tokens, *size)

    def _kept(self, tokens: Tensor) -> Selection | None:
        if self.dstsp is None or not drops_tokens(self.dstsp, self.index):
            return None
        spikes = cast(EncodingBlock, self.blocks[0]).first_spikes(tokens)
        return kept_tokens(self.dstsp, spikes, self.index)


class SpikingSPPF(nn.Module):
    """Pyramid of poolings over spikes: 5 x 5 means of means beside each other, between two convolutions.

    The mean of spikes is a fixed synaptic sum, which asynchronous chips run; a maximum over membranes is not.

    Args:
        inside: channels in.
        outside: channels out.
        kernel: of the pooling, odd.
        neuron: makes one neuron.
    """

    def __init__(self, inside: int, outside: int, kernel: int = 5, *, neuron: Neuron = IntegerLIF) -> None:
        super().__init__()
        hidden = inside // 2
        self.reduce = SpikingConv(inside, hidden, neuron=neuron)
        self.neuron = neuron()
        self.pool = nn.AvgPool2d(kernel, 1, kernel // 2, count_include_pad=False)
        self.fuse = SpikingConv(4 * hidden, outside, neuron=None)

    def forward(self, x: Tensor) -> Tensor:
        """``(T, B, C, H, W)`` to ``(T, B, C', H, W)``."""
        parts = [fire(self.neuron, self.reduce(x))]
        for _ in range(3):
            parts.append(shapes.unfold_steps(self.pool(shapes.fold_steps(parts[-1])), x.shape[0]))
        return self.fuse(torch.cat(parts, 2))


class Upsample(nn.Module):
    """Nearest neighbour, twice the size: ``(T, B, C, H, W)`` to ``(T, B, C, 2 H, 2 W)``."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return shapes.unfold_steps(F.interpolate(shapes.fold_steps(x), scale_factor=2.0, mode="nearest"), x.shape[0])


class Join(nn.Module):
    """Maps of one size, behind each other along the channels."""

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """``(T, B, C_i, H, W)`` each to ``(T, B, sum of C_i, H, W)``.

        Raises:
            LayoutError: maps of several sizes: the picture is no multiple of the largest stride.
        """
        height, width = x[0].shape[3:]
        if any(one.shape[3] != height or one.shape[4] != width for one in x):
            sizes = [tuple(one.shape[3:]) for one in x]
            raise LayoutError(
                f"detector: maps of the sizes {sizes} meet, so the picture is no multiple of the largest stride. Pad "
                "or resize it to a multiple of 32."
            )
        return torch.cat(list(x), 2)
