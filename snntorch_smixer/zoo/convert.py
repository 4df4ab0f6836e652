"""Turn a published checkpoint into a network of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import snntorch as snn
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import CardError, check_choice, check_count
from snntorch_smixer.models.architectures import build
from snntorch_smixer.models.network import Network, NetworkConfig
from snntorch_smixer.zoo.checkpoint import open_checkpoint as open_checkpoint
from snntorch_smixer.zoo.checkpoint import read_checkpoint as read_checkpoint
from snntorch_smixer.zoo.sources import qkformer, sdt_v3, spikformer, stmixer
from snntorch_smixer.zoo.sources.read import NUM_HEADS
from snntorch_smixer.zoo.verify import is_dropped
from snntorch_smixer.zoo.verify import upstream_class as upstream_class
from snntorch_smixer.zoo.verify import verify as verify


class Source(Protocol):
    """A module of `snntorch_smixer.zoo.sources`."""

    DROPPED: tuple[str, ...]

    def convert(self, state: Mapping[str, Tensor]) -> tuple[NetworkConfig, dict[str, Tensor]]:
        """Configuration and state dict of our network."""


SOURCES: Mapping[str, Source] = {"stmixer": stmixer, "spikformer": spikformer, "qkformer": qkformer, "sdt-v3": sdt_v3}
"""Converters by the name of the published model."""

_SIGNS: Mapping[str, tuple[str, ...]] = {
    "stmixer": ("token_mix.attn.linear_mix.",),
    "spikformer": ("patch_embed.proj_conv", "block.0.attn.q_"),
    "qkformer": ("patch_embed1.", "stage1.0.tssa."),
    "sdt-v3": ("downsample1_1.encode_conv.", ".conv.pwconv1."),
}


@dataclass(frozen=True)
class Conversion:
    """A converted model.

    Attributes:
        net: in evaluation mode, with the converted weights.
        config: of ``net``.
        source: one of `SOURCES`.
        dropped: names in the checkpoint that nothing uses.
        verified: what was compared with what came out of it, or "not verified: ..." and what to do.
    """

    net: Network
    config: NetworkConfig
    source: str
    dropped: tuple[str, ...]
    verified: str


def convert(
    state: Mapping[str, Tensor],
    source: str,
    *,
    heads: int | None = None,
    T: int | None = None,
    upstream: nn.Module | None = None,
) -> Conversion:
    """Our network with the weights of a published model.

    Args:
        state: state dict of the published model, as `read_checkpoint` gives it.
        source: one of `SOURCES`.
        heads: h, where the weights do not tell it and it is not the published one.
        T: time steps, where they are not the published ones; no weight tells them.
        upstream: the published module, built with the same T, to compare with; see `verify`.

    Raises:
        CardError: the tensors are not those of ``source``, or ``upstream`` computes something else.
        SettingError: ``source`` is unknown, or ``heads`` or ``T`` is out of range for its network.
    """
    check_choice("convert", "source", source, tuple(SOURCES))
    for name, value in (("heads", heads), ("T", T)):
        if value is not None:
            check_count("convert", name, value)
    asked = state if heads is None else {**state, NUM_HEADS: torch.tensor(heads)}
    try:
        config, weights = SOURCES[source].convert(asked)
    except CardError as error:
        seen = looks_like(state)
        if seen in (None, source):
            raise
        raise CardError(f"{error} The names look like those of {seen}: convert with source {seen!r}.") from error
    config = config if T is None else dataclasses.replace(config, T=T)
    net = build(config)
    _load(net, weights)
    dropped = tuple(key for key in state if is_dropped(key, SOURCES[source].DROPPED))
    verified = (
        "not verified: there was no published module to compare with. Have the published code importable and name a "
        "function that builds the model, as package.module:function."
    )
    if upstream is not None:
        worst = verify(net, upstream, state, dropped=SOURCES[source].DROPPED)
        verified = (
            f"equal to {type(upstream).__name__} on random images in double precision: largest difference {worst:.1e} "
            "of how far the logits vary"
        )
    return Conversion(net.eval(), config, source, dropped, verified)


def looks_like(state: Mapping[str, Tensor]) -> str | None:
    """The one of `SOURCES` whose names these are by a few typical ones, or None."""
    found = (name for name, signs in _SIGNS.items() if all(any(sign in key for key in state) for sign in signs))
    return next(found, None)


def _load(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    mine = net.state_dict()
    constants = {
        f"{path}.{name}"
        for path, module in net.named_modules()
        if isinstance(module, snn.SpikingNeuron)
        for name, _ in module.named_buffers(recurse=False)
    }
    wanted = {key: tuple(value.shape) for key, value in mine.items() if key in weights or key not in constants}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if wrong:
        raise CardError(
            f"convert: {len(wrong)} tensors do not fit {type(net).__name__}, first {wrong[0]}: expected "
            f"{wanted.get(wrong[0])}, got {found.get(wrong[0])}. The checkpoint is of another model than its names say."
        )
    net.load_state_dict({**mine, **weights})
