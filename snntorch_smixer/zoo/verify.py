"""Compare a converted network with the published code, where that is importable."""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import CardError, check_choice
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.models.network import Network, NetworkConfig
from snntorch_smixer.patching.observe import first_tensor

TOLERANCE = 1e-4
"""Largest difference of the logits that `verify` accepts, over how far they vary between images."""


_UPSTREAM: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "stmixer": (("models.STMixer", "STMixer"), ("STMixerV3",)),
    "spikformer": (("model",), ("Spikformer",)),
    "qkformer": (("model", "qkformer"), ("spiking_transformer", "hierarchical_spiking_transformer")),
    "sdt-v3": (("models",), ("Spiking_vit_MetaFormer_Spike_SepConv",)),
}
"""Modules as they are called from a folder of the published code, and the classes that they may declare."""


def upstream_class(source: str) -> type[nn.Module] | None:
    """The class of the published code, where a folder of it is on the import path; None where it is not.

    A module is only imported if its file declares the class: "model" and "models" are names that many projects use.

    Raises:
        SettingError: ``source`` is unknown.
    """
    check_choice("upstream_class", "source", source, tuple(_UPSTREAM))
    modules, classes = _UPSTREAM[source]
    for module in modules:
        text = _text_of(module)
        for name in classes:
            if f"class {name}(" not in text:
                continue
            try:
                return getattr(importlib.import_module(module), name, None)
            except Exception:  # noqa: BLE001 - foreign code may fail in any way, most often by what it imports
                continue
    return None


@torch.no_grad()
def verify(
    net: Network,
    upstream: nn.Module,
    state: Mapping[str, Tensor],
    *,
    dropped: Sequence[str] = (),
    images: Tensor | None = None,
) -> float:
    """Compare ``net`` with the published module on the same input; both stay as they are.

    Copies of both compute in double precision, evaluation mode and from rest. There a membrane that two orders of
    summation put on different sides of a threshold is next to impossible, so no flipped spike has to be forgiven and
    every image has to agree; a wrongly placed weight changes all of them by about how far they vary. In single
    precision a deep network turns one flipped spike into other logits for an image, without being a worse network.

    Args:
        net: the converted network.
        upstream: the published module, built with the sizes, heads and T of ``net``; its weights do not matter.
        state: state dict of the published model.
        dropped: patterns of names that ``upstream`` may lack, or ``state``.
        images: ``(B, C, H, W)``, or frames ``(T, B, C, H, W)``, which ``upstream`` gets batch first. None: random ones.

    Returns:
        Largest difference of a logit, over how far the logits of one class vary between the images. Outputs ``(T, B,
        K)`` are averaged over T, and of several outputs the first is taken.

    Raises:
        CardError: ``state`` is not that of ``upstream``, which fails, ignores its input or differs by more than
            `TOLERANCE`.
    """
    x = (_random_images(net.config) if images is None else images).double()
    ours = copy.deepcopy(net).double().eval()(x)
    theirs = _logits(_loaded(upstream, state, dropped), x.transpose(0, 1) if x.dim() == 5 else x)
    name = type(upstream).__name__
    if theirs is None or theirs.shape != ours.shape:
        got = None if theirs is None else tuple(theirs.shape)
        raise CardError(
            f"verify: {name} gave {got}, expected logits {tuple(ours.shape)}. Build it with the settings of the "
            f"converted network: {net.config}."
        )
    spread = (theirs - theirs.mean(0)).abs().max().item()
    if not spread > 1e-6 * theirs.abs().max().item():
        raise CardError(
            f"verify: {name} gives the same logits for every image, which proves nothing. Pass images of its data set."
        )
    worst = (ours - theirs).abs().max().item() / spread
    if not worst <= TOLERANCE:
        raise CardError(
            f"verify: the logits differ by {worst:.2g} of how far they vary, more than {TOLERANCE:g} is no rounding. "
            f"Build {name} with the heads and T of the converted network, or convert with its own, on the command line "
            f"--heads and --T: {net.config}."
        )
    return worst


def _logits(upstream: nn.Module, x: Tensor) -> Tensor | None:
    """First output, averaged over steps."""
    try:
        _reset(upstream)
        out = first_tensor(upstream(x))
    except Exception as error:  # foreign code may fail in any way
        raise CardError(
            f"verify: {type(upstream).__name__} failed on {tuple(x.shape)}: {error}. Build it for these images."
        ) from error
    return out.mean(0) if out is not None and out.dim() == 3 else out


def _loaded(upstream: nn.Module, state: Mapping[str, Tensor], dropped: Sequence[str]) -> nn.Module:
    twin = copy.deepcopy(upstream)
    try:
        missing, unknown = twin.load_state_dict(state, strict=False)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise CardError(
            f"verify: the weights do not fit {type(upstream).__name__}: {first}. Build it with their sizes."
        ) from error
    wrong = [key for key in (*missing, *unknown) if not is_dropped(key, dropped)]
    if wrong:
        raise CardError(
            f"verify: {len(wrong)} names are not both in the checkpoint and in {type(upstream).__name__}, first "
            f"{wrong[0]}. Build the published model of these weights."
        )
    for module in twin.modules():
        # Some published neurons answer in float32 whatever they are given.
        module.register_forward_pre_hook(_to_double)
    return twin.double().eval()


def _random_images(config: NetworkConfig, batch: int = 4) -> Tensor:
    """Coarse blobs under noise, other ones in each image; frames for a network that reads events."""
    draw = torch.Generator().manual_seed(0)
    events = isinstance(config, SMixerConfig) and config.takes_frames
    images = batch * (config.T if events else 1)
    coarse = torch.randn(images, config.in_channels, 4, 4, generator=draw)
    noise = torch.randn(images, config.in_channels, *config.img_size, generator=draw)
    x = nn.functional.interpolate(coarse, size=config.img_size) + 0.5 * noise
    return x.unflatten(0, (-1, batch)) if events else x


def _to_double(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)


def _reset(net: nn.Module) -> None:
    for module in net.modules():
        reset = getattr(module, "reset", None)
        if callable(reset):
            reset()


def is_dropped(key: str, patterns: Sequence[str]) -> bool:
    """True for a name that fits one of the shell patterns."""
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _text_of(module: str) -> str:
    """Text of a module's file, found without running anything; "" where there is none."""
    package, _, name = module.partition(".")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    folders = spec.submodule_search_locations or ()
    paths = [Path(folder) / f"{name}.py" for folder in folders] if name else [Path(spec.origin or "")]
    files = (path for path in paths if path.suffix == ".py" and path.is_file())
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
