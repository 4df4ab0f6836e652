"""Any network as a source of the feature maps P3, P4 and P5 of a detector."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.detect.layers import SpikingConv, Upsample
from snntorch_smixer.detect.rows import SpikingPyramid
from snntorch_smixer.errors import LayoutError, SettingError, check_count
from snntorch_smixer.kernels.token_mix import expand_to_grid
from snntorch_smixer.layouts import Layout
from snntorch_smixer.models.network import Network
from snntorch_smixer.models.resizing import at_size
from snntorch_smixer.models.sdt_v3 import SDTV3
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.modes import in_mode, random_state_kept
from snntorch_smixer.neurons import IntegerLIF
from snntorch_smixer.patching.hooks import Prune
from snntorch_smixer.patching.modules import WrappedDSTSP

STRIDES = (8, 16, 32)
"""Pixels per cell of P3, P4 and P5."""

_BLOCKS = ("blocks", "block", "stage1", "stage2", "stage3", "ConvBlock2_2", "block3", "block4")
"""Lists of blocks in the networks of this package, in the order of their calls."""


class SpikingBackbone(nn.Module):
    """A network as a source of maps P3, P4, P5 with ``channels`` each, 8, 16 and 32 pixels a cell.

    Each map is made from that output of the network whose resolution is nearest, by spiking units: a convolution of
    stride 2 per halving, and per doubling a nearest-neighbour upsampling in front of a convolution (a simple feature
    pyramid; source: ViTDet, Li et al., 2022). Networks of one resolution give their last block, those with stages the
    last block of each.

    Dropped tokens come back to their place on the grid as zeros; where the network itself keeps the grid they have the
    value that it gives them. Time is left as it is: a detection head averages it, in `MeanOverSteps`.

    Pictures may have any size that is a multiple of 32, rectangular too: ``W_M`` is resized over its grid, see
    `at_size`.

    Args:
        net: a network of this package, pruned or not; a third-party one, wrapped or not; or a `SpikingPyramid`.
        channels: of each map.
        at: where maps are taken: numbers of blocks, or names of modules, "stage2"; a third-party network needs names.
            None: see above.
        layout: axes of what the named modules give, "t b n c" or "(t b) c y x", see `Layout`; None: that of a wrapped
            network, else maps ``(T, B, C, H, W)`` or ``(T*B, C, H, W)``.
        size: (H, W) of the picture on which the network is tried; default: that of its configuration, or 64 x 64.
        neuron: makes one neuron.

    Attributes:
        strides: pixels per cell of each map.
        channels: of each map.

    Raises:
        SettingError: no blocks of these numbers or names, or a network that has no grid.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import SMixerConfig, SMixerNet
        >>> from snntorch_smixer.detect import SpikingBackbone
        >>> net = SMixerNet(SMixerConfig((64, 64), 3, 10, 2, dim=32, depth=2, heads=4, strides=(1, 2, 2, 2, 2)))
        >>> maps = SpikingBackbone(net, channels=16)(torch.rand(1, 3, 64, 96))
        >>> [tuple(one.shape) for one in maps]  # (T, B, C, H, W)
        [(2, 1, 16, 8, 12), (2, 1, 16, 4, 6), (2, 1, 16, 2, 3)]
    """

    strides: tuple[int, ...] = STRIDES

    def __init__(
        self,
        net: nn.Module,
        *,
        channels: int = 128,
        at: Sequence[int | str] | None = None,
        layout: str | None = None,
        size: tuple[int, int] | None = None,
        neuron: Callable[[], nn.Module] = IntegerLIF,
    ) -> None:
        super().__init__()
        check_count("SpikingBackbone", "channels", channels)
        self.net, self.channels = net, (channels,) * len(STRIDES)
        self.layout = None if layout is None else Layout(layout)
        self.indices, self.paths = _places(net, at)
        self._views: dict[tuple[int, int], tuple[tuple[int, ...], nn.Module]] = {}
        found = self._try(size)
        self.sources = tuple(_nearest([stride for stride, _ in found], wanted) for wanted in STRIDES)
        self.branches = nn.ModuleList(
            _branch(found[i][1], channels, found[i][0] / wanted, neuron)
            for i, wanted in zip(self.sources, STRIDES, strict=True)
        )

    @property
    def dstsp(self) -> Any:
        """The pruning of the network, whose settings may be changed at any time; None without."""
        return getattr(self.net, "dstsp", None)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Pictures ``(B, C, H, W)`` or frames ``(T, B, C, H, W)`` to maps ``(T', B, channels, H', W')``.

        Raises:
            LayoutError: another rank, or a size that is no multiple of 32.
            SettingError: a size that the network cannot take.
        """
        if x.dim() not in (4, 5):
            raise LayoutError(
                f"SpikingBackbone: expected (B, C, H, W) or (T, B, C, H, W), got shape {tuple(x.shape)}. Add the batch "
                "axis."
            )
        if x.shape[-2] % STRIDES[-1] or x.shape[-1] % STRIDES[-1]:
            raise LayoutError(
                f"SpikingBackbone: a picture of {x.shape[-2]} x {x.shape[-1]} is no multiple of {STRIDES[-1]}, the "
                "largest stride. Pad or resize it, see letterbox."
            )
        maps = self.maps(x)
        return [branch(maps[i]) for branch, i in zip(self.branches, self.sources, strict=True)]

    def maps(self, x: Tensor) -> list[Tensor]:
        """What the network gives at each place, ``(T', B, C, H, W)``, dropped tokens zero."""
        if isinstance(self.net, SpikingPyramid):
            return self.net(x)
        net = self._at((x.shape[-2], x.shape[-1]))
        by_hooks = isinstance(net, SDTV3) or isinstance(self.dstsp, WrappedDSTSP)
        if self.indices is None or (by_hooks and not isinstance(net, SMixerNet)):
            return hooked_maps(net, x, self.paths, self.layout)
        return cast(Network, net).forward_intermediates(x, indices=self.indices)[1]

    def _at(self, size: tuple[int, int]) -> nn.Module:
        """The network for a size of picture, made once for each, and again where parts of it were replaced."""
        net = self.net
        if not isinstance(net, Network) or isinstance(net, SDTV3) or size == tuple(net.config.img_size):
            return net
        parts = tuple(id(part) for part in (self.dstsp, net.config, *net.parameters(), *net.buffers()))
        if size not in self._views or self._views[size][0] != parts:
            self._views[size] = parts, at_size(net, size)
        return self._views[size][1].train(net.training)

    def _try(self, size: tuple[int, int] | None) -> list[tuple[float, int]]:
        """Stride and channels at each place, on an empty picture."""
        net = self.net
        if isinstance(net, SpikingPyramid):
            return [(float(s), c) for s, c in zip(net.strides, net.channels, strict=True)]
        config = getattr(net, "config", None) if isinstance(net, Network) else None
        height, width = size or (config.img_size if config else (64, 64))
        colours = config.in_channels if config else next((p.shape[1] for p in net.parameters() if p.dim() == 4), 3)
        like = next(net.parameters())
        blank = torch.zeros(1, colours, height, width, device=like.device, dtype=like.dtype)
        with torch.no_grad(), random_state_kept(), in_mode(net, training=False):
            maps = self.maps(blank)
        return [(math.sqrt(height * width / (m.shape[3] * m.shape[4])), m.shape[2]) for m in maps]


def hooked_maps(net: nn.Module, x: Tensor, paths: Sequence[str], layout: Layout | None = None) -> list[Tensor]:
    """What named modules give in one forward, as maps ``(T', B, C, H, W)`` where dropped tokens are zero.

    Args:
        net: is called with ``x``; it may be wrapped.
        x: ``(B, C, H, W)`` or ``(T, B, C, H, W)``.
        paths: dotted names of modules.
        layout: of their outputs; None: see `SpikingBackbone`.

    Raises:
        SettingError: a module that was not called, or whose output is no map and no grid of tokens.
    """
    dstsp = getattr(net, "dstsp", None)
    dstsp = dstsp if isinstance(dstsp, WrappedDSTSP) else None
    layout = _layout_of(net) if layout is None and dstsp is not None else layout
    seen: dict[str, Tensor] = {}

    def reader(path: str) -> Callable[..., None]:
        def read(_module: nn.Module, _args: Any, out: Any) -> None:
            one = out[0] if isinstance(out, (tuple, list)) else out
            kept = None if dstsp is None else dstsp.current.kept
            tokens, grid = _as_tokens(path, one, x, layout)
            if kept is not None and kept.drops_tokens and tokens.shape[2] == kept.num_tokens:
                tokens, grid = expand_to_grid(tokens, kept), None
            seen[path] = shapes.tokens_to_grid(tokens, *(grid or _grid_of(path, tokens.shape[2], x)))

        return read

    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(net.get_submodule(path).register_forward_hook(reader(path)))
        net(x)
    missing = [path for path in paths if path not in seen]
    if missing:
        raise SettingError(f"SpikingBackbone: {missing[0]} was not called in a forward. Pass another name in at.")
    return [seen[path] for path in paths]


def _layout_of(net: nn.Module) -> Layout | None:
    """Layout of the stream of a wrapped network, as its own hooks know it."""
    hooks: Iterator[Any] = (
        hook for m in net.modules() for kind in (m._forward_pre_hooks, m._forward_hooks) for hook in kind.values()
    )
    return next((hook.layout for hook in hooks if isinstance(hook, Prune)), None)


def _as_tokens(path: str, out: Any, x: Tensor, layout: Layout | None) -> tuple[Tensor, tuple[int, int] | None]:
    """Tokens ``(T, B, N, C)``, and their grid where the axes say it."""
    samples = x.shape[-4]
    if not isinstance(out, Tensor):
        raise SettingError(f"SpikingBackbone: {path} gives a {type(out).__name__}, no tensor. Pass another name in at.")
    if layout is not None:
        tokens = layout.to_tokens(out, {"b": samples})
        whole = (("y",) in layout.groups) and (("x",) in layout.groups)
        grid = (layout.size(out, "y"), layout.size(out, "x")) if whole else None
        return tokens, grid
    if out.dim() == 4 and out.shape[0] % samples == 0:
        out = out.unflatten(0, (-1, samples))
    if out.dim() != 5 or out.shape[1] != samples or not _same_shape(out.shape[3:], x.shape[-2:]):
        raise SettingError(
            f"SpikingBackbone: {path} gives shape {tuple(out.shape)} for a picture of {tuple(x.shape[-2:])}, expected "
            "a map (T, B, C, H, W) or (T*B, C, H, W). Say what its axes are, layout='t b n c', or pass another name."
        )
    return shapes.grid_to_tokens(out), (out.shape[3], out.shape[4])


def _same_shape(grid: Sequence[int], picture: Sequence[int]) -> bool:
    stride = picture[0] / grid[0]
    return stride >= 1 and abs(picture[1] / stride - grid[1]) < 1


def _grid_of(path: str, tokens: int, x: Tensor) -> tuple[int, int]:
    """(rows, columns) of so many tokens on a picture of the size of ``x``."""
    height, width = x.shape[-2:]
    rows = round(math.sqrt(tokens * height / width))
    if not rows or rows * round(rows * width / height) != tokens:
        raise SettingError(
            f"SpikingBackbone: {path} gives {tokens} tokens, which are no grid on a picture of {height} x {width}. "
            "Pass another name in at."
        )
    return rows, tokens // rows


def _places(net: nn.Module, at: Sequence[int | str] | None) -> tuple[list[int] | None, tuple[str, ...]]:
    """Numbers of blocks for `forward_intermediates`, None without, and the names of their modules for hooks."""
    if isinstance(net, SpikingPyramid):
        if at is not None:
            raise SettingError("SpikingBackbone: a SpikingPyramid has its three maps. Leave at out.")
        return None, ()
    ours = [f"{n}.{i}" for n in _BLOCKS if isinstance(net, Network) for i in range(len(getattr(net, n, ())))]
    if at is None and not ours:
        raise SettingError(
            f"SpikingBackbone: {type(net).__name__} is no network of this package, so its maps have no names here. "
            'Pass the modules that give them, at=("stage2", "stage3").'
        )
    chosen = list(range(len(ours))) if at is None else list(at)
    known = set(ours) if isinstance(net, SMixerNet) else {name for name, _ in net.named_modules() if name}
    wrong = [p for p in chosen if (p not in known if isinstance(p, str) else p not in range(-len(ours), len(ours)))]
    if wrong or not chosen or len({isinstance(p, str) for p in chosen}) > 1:
        some = f"0..{len(ours) - 1}" if ours else ", ".join(n for n, _ in net.named_children())
        raise SettingError(f"SpikingBackbone: at={at!r} are no places in {type(net).__name__}. Pass some of {some}.")
    if isinstance(chosen[0], str) and not isinstance(net, SMixerNet):
        return None, tuple(cast(list[str], chosen))
    numbers = [ours.index(p) if isinstance(p, str) else p % len(ours) for p in chosen]
    return numbers, tuple(ours[i] for i in numbers)


def _nearest(strides: Sequence[float], wanted: int) -> int:
    """The last place of nearest resolution; of two that are as near, the finer one."""
    distance = [(abs(math.log2(stride / wanted)), stride, -i) for i, stride in enumerate(strides)]
    return -min(distance)[2]


def _branch(inside: int, outside: int, factor: float, neuron: Callable[[], nn.Module]) -> nn.Sequential:
    """Layers from a map to one of ``factor`` times its sides; above 1 it grows."""
    doublings = math.log2(factor)
    if doublings != round(doublings):
        raise SettingError(
            f"SpikingBackbone: a map is {factor:.3g} times too coarse, no power of two. Take it from another place."
        )
    if doublings < 0:
        widths = [inside, *(outside for _ in range(-round(doublings)))]
        return nn.Sequential(*(SpikingConv(a, b, 3, 2, neuron=neuron) for a, b in pairwise(widths)))
    layers: list[nn.Module] = [SpikingConv(inside, outside, neuron=neuron)]
    for _ in range(round(doublings)):
        layers += [Upsample(), SpikingConv(outside, outside, 3, neuron=neuron)]
    return nn.Sequential(*layers, *([] if doublings else [SpikingConv(outside, outside, 3, neuron=neuron)]))
