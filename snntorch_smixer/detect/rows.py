"""A detector from the rows of a YAML file: [from, repeats, layer, [channels, ...]]."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, cast

import yaml
from torch import Tensor, nn

from snntorch_smixer.detect import layers
from snntorch_smixer.errors import SettingError, check_choice, check_count, check_name, is_count
from snntorch_smixer.neurons import IntegerLIF
from snntorch_smixer.pruning.pruner import DSTSPConfig

FOLDER = Path(__file__).with_name("models")
"""Where the shipped YAML files are."""

KEYS = ("nc", "T", "levels", "heads", "grid", "ps", "t", "scales", "scale", "backbone", "head")
_KEPT_BY_OTHERS = ("channels", "yaml_file", "ch", "end2end", "reg_max", "names")

Head = Callable[[int, Sequence[int]], nn.Module]
"""Classes and the channels of each map to a head."""


def read_config(name: str | Path) -> dict[str, Any]:
    """The table of a YAML file, with its scale.

    Args:
        name: a file, or a shipped one, ``"spike-yolo-n-smixer.yaml"``: the letter chooses the scale.

    Raises:
        SettingError: no such file, no scale of that letter, or no table in it.
    """
    path, scale = _locate(Path(name))
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingError(f"detector: {path} cannot be read as YAML: {error}.") from error
    if not isinstance(raw, dict) or not all(isinstance(raw.get(part), list) for part in ("backbone", "head")):
        raise SettingError(f"detector: {path} holds no table with the lists backbone and head. See {FOLDER}.")
    return {**raw, "scale": scale or _scale(raw)}


def _scale(table: Mapping[str, Any]) -> str:
    """The letter of a table, "n" where it says none."""
    return table.get("scale") or ("n" if "n" in (table.get("scales") or ()) else next(iter(table.get("scales") or "n")))


def config_path(name: str) -> Path:
    """Where a YAML file is that this package ships: "spike-yolo-smixer.yaml" or "spike-yolo-conv.yaml".

    Raises:
        SettingError: there is none of that name.

    Examples:
        >>> from snntorch_smixer.detect import config_path
        >>> config_path("spike-yolo-smixer.yaml").name
        'spike-yolo-smixer.yaml'
    """
    check_name("detector", "configuration", name, sorted(path.name for path in FOLDER.glob("*.yaml")))
    return FOLDER / name


def shipped() -> list[str]:
    """Names of the shipped detectors, one per scale: "spike-yolo-n-smixer.yaml"."""
    return [
        f"{stem}-{scale}-{kind}.yaml"
        for path in sorted(FOLDER.glob("*.yaml"), reverse=True)
        for stem, kind in [path.stem.rsplit("-", 1)]
        for scale in "pnsml"
    ]


def _locate(path: Path) -> tuple[Path, str]:
    if path.is_file():
        return path, ""
    match = re.fullmatch(r"(.+)-([a-z])-([a-z]+)\.ya?ml", path.name)
    if match and path.parent == Path() and path.name in shipped():
        return FOLDER / f"{match[1]}-{match[3]}.yaml", match[2]
    check_name("detector", "configuration", str(path), shipped())
    raise SettingError(f"detector: there is no file {path}.")


@dataclass
class Build:
    """What rows are built with.

    Attributes:
        steps: T.
        neuron: makes one neuron.
        dstsp: shared by all layers that prune.
        grid: that ``W_M`` is made for.
        heads: h.
        blocks: pruned blocks so far.
        pruned: True behind the row that drops steps.
    """

    steps: int
    neuron: Callable[[], nn.Module]
    dstsp: layers.GridDSTSP
    grid: tuple[int, int]
    heads: int
    blocks: int = 0
    pruned: bool = False

    def next_block(self) -> dict[str, Any]:
        """Arguments of the next block that prunes; of one in front of the pruning, none."""
        if not self.pruned:
            return {}
        self.blocks += 1
        return {"pruning": layers.BlockPruning(self.dstsp, self.blocks - 1)}


def _stem(build: Build, inside: int, outside: int, *args: Any) -> nn.Module:
    return layers.SpikingStem(inside, outside, *args, steps=build.steps)


def _conv(build: Build, inside: int, outside: int, *args: Any) -> nn.Module:
    return layers.SpikingConv(inside, outside, *args, neuron=build.neuron)


def _block(build: Build, inside: int, outside: int, kernel: int = 5, full: bool = False) -> nn.Module:
    _same("SpikingConvBlock", inside, outside)
    return layers.SpikingConvBlock(inside, kernel=kernel, full=full, neuron=build.neuron, **build.next_block())


def _mixer(build: Build, inside: int, outside: int, depth: int) -> nn.Module:
    _same("SpikingMixerBlocks", inside, outside)
    return layers.SpikingMixerBlocks(
        inside, depth, grid=build.grid, heads=build.heads, neuron=build.neuron, **build.next_block()
    )


def _sppf(build: Build, inside: int, outside: int, *args: Any) -> nn.Module:
    return layers.SpikingSPPF(inside, outside, *args, neuron=build.neuron)


def _prune(build: Build) -> nn.Module:
    build.pruned = True
    return layers.PruneSteps(build.dstsp, neuron=build.neuron)


def _same(name: str, inside: int, outside: int) -> None:
    if inside != outside:
        raise SettingError(
            f"{name} keeps its channels, but {inside} arrive and {outside} are asked for. Put a SpikingConv in front."
        )


WIDE: Mapping[str, Callable[..., nn.Module]] = {
    "SpikingStem": _stem,
    "SpikingConv": _conv,
    "SpikingConvBlock": _block,
    "SpikingMixerBlocks": _mixer,
    "SpikingSPPF": _sppf,
}
"""Layers whose first argument is their channels, before scaling."""


def _upsample(_build: Build) -> nn.Module:
    return layers.Upsample()


def _join(_build: Build) -> nn.Module:
    return layers.Join()


PLAIN: Mapping[str, Callable[..., nn.Module]] = {"PruneSteps": _prune, "Upsample": _upsample, "Join": _join}
"""Layers that give the channels that arrive."""


def build_rows(config: Mapping[str, Any], channels: int, head: Head) -> tuple[nn.Sequential, list[int], Build]:
    """The layers of all rows, each with ``i`` (its number) and ``f`` (whose output it takes).

    Args:
        config: see `read_config`.
        channels: of the picture.
        head: makes the layer of the row "Detect".

    Returns:
        The layers, the numbers of those whose output another one takes later, and what they share.

    Raises:
        SettingError: an unknown key or layer, with close matches, a row of another form, or channels that do not fit;
            with the number of the row.
    """
    config = {**config, "scale": _scale(config)}
    _check(config)
    depth, width, most = config["scales"][config["scale"]]
    build = _shared(config)
    widths: list[int] = []
    rows: list[nn.Module] = []
    save: set[int] = set()
    for number, row in enumerate([*config["backbone"], *config["head"]]):
        try:
            sources, repeats, name, args = _parts(row, number)
            arrive = [widths[s] if number else channels for s in sources]
            scaled = partial(_scaled, width=width, most=most)
            repeats = max(round(repeats * depth), 1) if repeats > 1 else repeats
            layer, out = _layer(build, name, args, (arrive, repeats, scaled), config, head)
        except (SettingError, TypeError, ValueError) as error:
            raise SettingError(f"detector: row {number}, {row}: {error}") from error
        layer.i, layer.f = number, row[0]  # type: ignore[assignment]
        layer.np, layer.type = sum(p.numel() for p in layer.parameters()), name  # type: ignore[assignment]
        named = row[0] if isinstance(row[0], (list, tuple)) else [row[0]]
        save.update(s for s, given in zip(sources, named, strict=True) if given != -1)
        rows.append(layer)
        widths.append(out)
    if not build.pruned and (config.get("ps") or config.get("t") is not None):
        raise SettingError(
            f"detector: got ps={config.get('ps')}, t={config.get('t')} and no row PruneSteps, behind which they act. "
            "Put [-1, 1, PruneSteps, []] in front of the first map that the neck takes."
        )
    build.dstsp.bind(depth=max(build.blocks, 1), steps=build.steps)
    build.dstsp.settings = DSTSPConfig(ps=config.get("ps") or 0.0, t=config.get("t"), merge="drop")
    return nn.Sequential(*rows), sorted(save), build


def _check(config: Mapping[str, Any]) -> None:
    for key in config:
        if key not in _KEPT_BY_OTHERS:
            check_name("detector", "key", key, KEYS)
    check_count("detector", "nc", config.get("nc"))
    check_choice("detector", "scale", config.get("scale"), tuple(config.get("scales") or ()))
    scale = config["scales"][config["scale"]]
    if not isinstance(scale, (list, tuple)) or len(scale) != 3 or not all(isinstance(v, (int, float)) for v in scale):
        raise SettingError(
            f"detector: scale {config['scale']!r} is {scale!r}. Expected three numbers: depth, width, most channels."
        )


def _shared(config: Mapping[str, Any]) -> Build:
    steps, levels = config.get("T", 1), config.get("levels", 4)
    check_count("detector", "T", steps)
    check_count("detector", "levels", levels)
    grid = config.get("grid", (10, 10))
    if not isinstance(grid, (list, tuple)) or len(grid) != 2 or not all(map(is_count, grid)):
        raise SettingError(f"detector: grid={grid!r} must be two whole numbers, rows and columns. Pass [10, 10].")
    dstsp = layers.GridDSTSP(DSTSPConfig(ps=0.0, t=None, merge="drop"))
    return Build(steps, partial(IntegerLIF, levels), dstsp, (grid[0], grid[1]), config.get("heads", 8))


def _parts(row: Any, number: int) -> tuple[list[int], int, str, list[Any]]:
    """Sources counted from the first row, repeats, name and arguments of one row."""
    if not isinstance(row, (list, tuple)) or len(row) != 4 or not isinstance(row[3], (list, tuple)):
        raise SettingError("a row has four parts. Write [from, repeats, layer, [arguments]].")
    source, repeats, name, args = row
    sources = list(source) if isinstance(source, (list, tuple)) else [source]
    wrong = [s for s in sources if type(s) is not int or not -max(number, 1) <= s < max(number, 1)]
    if wrong:
        raise SettingError(f"there is no layer {wrong[0]!r} in front of it. Pass -1 for the layer before.")
    check_count("row", "repeats", repeats)
    return [s % max(number, 1) for s in sources], repeats, str(name), list(args)


def _scaled(channels: Any, *, width: float, most: float) -> int:
    check_count("row", "channels", channels)
    return max(8, round(min(channels, most) * width / 8) * 8)


def _layer(
    build: Build,
    name: str,
    args: list[Any],
    sizes: tuple[list[int], int, Callable[[Any], int]],
    config: Mapping[str, Any],
    head: Head,
) -> tuple[nn.Module, int]:
    arrive, repeats, scaled = sizes
    if name == "Detect":
        return head(config["nc"], arrive), 0
    if name in PLAIN:
        return PLAIN[name](build), sum(arrive)
    check_name("row", "layer", name, [*WIDE, *PLAIN, "Detect"])
    if not args:
        raise SettingError(f"{name} needs its channels. Write [256].")
    inside, outside = sum(arrive), scaled(args[0])
    if name == "SpikingMixerBlocks":
        return WIDE[name](build, inside, outside, repeats), outside
    made = [WIDE[name](build, inside if not i else outside, outside, *args[1:]) for i in range(repeats)]
    return (made[0] if repeats == 1 else nn.Sequential(*made)), outside


class SpikingPyramid(nn.Module):
    """The rows of a detector without its head: pictures to maps P3, P4, P5.

    Args:
        config: see `read_config`, or the name of a shipped one.
        channels: of the picture.

    Attributes:
        dstsp: the pruning; its settings may be changed at any time.
        strides: pixels per cell of each map.
        channels: of each map.

    Examples:
        >>> import torch
        >>> from snntorch_smixer.detect import SpikingPyramid
        >>> maps = SpikingPyramid("spike-yolo-n-smixer.yaml").eval()(torch.rand(1, 3, 64, 64))
        >>> [tuple(one.shape) for one in maps]  # (T, B, C, H, W)
        [(2, 1, 64, 8, 8), (2, 1, 128, 4, 4), (2, 1, 256, 2, 2)]
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]

    def __init__(self, config: Mapping[str, Any] | str | Path, *, channels: int = 3) -> None:
        super().__init__()
        self.config = read_config(config) if isinstance(config, (str, Path)) else dict(config)
        widths: list[int] = []

        def head(_classes: int, arrive: Sequence[int]) -> nn.Module:
            widths.extend(arrive)
            return nn.Identity()

        self.rows, save, build = build_rows(self.config, channels, head)
        if not widths:
            raise SettingError("detector: no row Detect. Write [[20, 24, 28], 1, Detect, []] as the last one.")
        self.save, self.dstsp, self.channels = frozenset(save), build.dstsp, tuple(widths)
        self.strides = tuple(strides_of(self.rows)[s] for s in self.rows[-1].f)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Pictures ``(B, C, H, W)`` or frames ``(T, B, C, H, W)`` to maps ``(T', B, C, H', W')``."""
        kept: list[Tensor | None] = []
        state: Any = x
        for layer in self.rows:
            if layer.f != -1:
                where = cast(int | list[int], layer.f)
                sources = [where] if isinstance(where, int) else where
                taken = [state if s == -1 else kept[s] for s in sources]
                state = taken[0] if isinstance(where, int) else taken
            state = layer(state)
            kept.append(state if layer.i in self.save else None)
        return list(state)


def strides_of(rows: nn.Sequential) -> list[int]:
    """Pixels per cell behind each row."""
    found: list[int] = []
    for layer in rows.children():
        sources = cast(int | list[int], layer.f)
        source = sources if isinstance(sources, int) else sources[0]
        before = found[source] if found else 1
        down = prod(m.stride for m in layer.modules() if isinstance(m, layers.SpikingConv))
        found.append(before // 2 if isinstance(layer, layers.Upsample) else before * down)
    return found
