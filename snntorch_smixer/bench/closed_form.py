"""Multiply-accumulates of an `SMixerNet` from its configuration alone: what `bench.macs` counts, as formulas."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from snntorch_smixer.kernels.token_mix import grid_is_cheaper
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.pruning.place import unit_of
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.pruning.rates import rate_at
from snntorch_smixer.pruning.spatial import tokens_kept
from snntorch_smixer.selection import Selection


@dataclass(frozen=True)
class NetMacs:
    """Dense multiply-accumulates per sample, summed over the steps, in evaluation mode.

    Attributes:
        stem: the five convolutions and the short path; those on a static image run once.
        mixing: token mixing alone: products with ``W_M``, or the two products of attention.
        projections: linear maps of the mixers.
        mlp: linear maps of the MLPs.
        merging: similarities and sums of Softmatch.
        head: the classifier.
    """

    stem: int
    mixing: int
    projections: int
    mlp: int
    merging: int
    head: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.stem + self.mixing + self.projections + self.mlp + self.merging + self.head

    @property
    def stem_share(self) -> float:
        """Share of the stem: no pruning behind it goes below (Amdahl's bound)."""
        return self.stem / self.total


def closed_form_macs(config: SMixerConfig, *, frames: bool = False) -> NetMacs:
    """Multiply-accumulates of the network of ``config``, with its pruning, wherever that drops steps.

    Args:
        config: of an `SMixerNet`. Its pruning counts where it is active in evaluation mode.
        frames: the input is event frames, not a static image.
    """
    prune = config.prune if config.prune is not None and config.prune.active in ("both", "eval") else None
    steps = config.T if prune is None or prune.t is None else prune.t
    sums = [0, 0, 0, 0]
    tokens = config.num_tokens
    for block in range(config.depth):
        left, merged = _tokens_in(config, prune, block)
        if merged and left < tokens:
            sums[3] += 2 * steps * config.dim * left * (tokens - left)
        tokens = left
        for at, macs in enumerate(_block(config, prune, tokens)):
            sums[at] += steps * macs
    stem = _stem(config, (config.T, steps), unit_of(prune.place) if prune else 0, frames)
    mixing, projections, mlp, merging = sums
    return NetMacs(stem, mixing, projections, mlp, merging, steps * config.dim * config.num_classes)


def _tokens_in(config: SMixerConfig, prune: DSTSPConfig | None, block: int) -> tuple[int, bool]:
    """Kept tokens in a block, and whether Softmatch's products merge the others."""
    if prune is None:
        return config.num_tokens, False
    left = tokens_kept(config.num_tokens, rate_at(prune.ps, block, config.depth))
    return left, prune.merge in ("softmatch", "sum")


def _block(config: SMixerConfig, prune: DSTSPConfig | None, kept: int) -> tuple[int, int, int]:
    """Mixing, projections and MLP of one block and step with ``kept`` tokens, and the fused one where there is one."""
    dim, all_tokens = config.dim, config.num_tokens
    tokens = kept + int(prune is not None and prune.merge == "fuse" and kept < all_tokens)
    mlp = 2 * tokens * dim * round(dim * config.mlp_ratio)
    if config.mixer == "ssa":
        return 2 * tokens * tokens * dim, 4 * tokens * dim * dim, mlp
    rows = tokens
    if prune is not None and kept < all_tokens and prune.w_prime != "crop" and _on_grid(config, prune, tokens):
        rows = all_tokens
    return rows * rows * dim, 2 * tokens * dim * dim, mlp


def _on_grid(config: SMixerConfig, prune: DSTSPConfig, tokens: int) -> bool:
    """True where the mixer fills up the grid rather than gather one matrix per sample."""
    steps = config.T if prune.t is None else prune.t
    nothing = torch.empty(0, 0, dtype=torch.int64)
    x = torch.empty(steps, 1, tokens, config.dim, device="meta")
    return grid_is_cheaper(x, config.heads, Selection(nothing, nothing, config.T, config.num_tokens))


def _stem(config: SMixerConfig, steps: tuple[int, int], cut: int, frames: bool) -> int:
    """The stem, whose unit ``cut`` is the first to see the kept steps; 0 where all of it sees all steps."""
    all_steps, kept = steps if cut else (steps[0], steps[0])
    dim, channels = config.dim, config.in_channels
    widths = [channels, dim // 8, dim // 4, dim // 2, dim, dim - dim // 8]
    (height, width), total = config.img_size, 0
    for unit, stride in enumerate(config.strides):
        height, width = -(-height // stride), -(-width // stride)
        seen = kept if unit >= cut else all_steps
        seen = seen if unit or frames else 1
        total += seen * height * width * 9 * widths[unit] * widths[unit + 1]
    # One convolution whose kernel is its stride reads every pixel once.
    return total + (kept if frames else 1) * config.img_size[0] * config.img_size[1] * channels * (dim // 8)
