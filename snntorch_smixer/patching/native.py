"""Networks of this package: they prune by themselves, and their attention is swapped part by part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from torch import nn

from snntorch_smixer.layers.attention import SpikingSelfAttention
from snntorch_smixer.memory import MODES, KeepsLess, memory_of
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.patching.edits import Context
from snntorch_smixer.patching.record import Plan, check_fits, steps_after, tokens_after
from snntorch_smixer.patching.standins import SwappedMixer
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.pruning.rates import check_rates


@dataclass(frozen=True, eq=False)
class NativeSwap:
    """Put `SwappedMixer` in the place of a block's spiking self-attention."""

    path: str
    num_tokens: int

    def describe(self) -> str:
        """What is swapped."""
        return f"{self.path}: Q K^T V -> W_M, {self.num_tokens} x {self.num_tokens}; Q and K dropped"

    def apply(self, model: nn.Module, context: Context) -> None:  # noqa: ARG002
        """Replace the block's mixer, and say so in the network's configuration."""
        block, _, name = self.path.rpartition(".")
        attention = cast(SpikingSelfAttention, model.get_submodule(self.path))
        mixer = SwappedMixer(attention, self.num_tokens)
        if (mode := memory_of(attention)) in MODES:
            mixer.memory = mode
        mixer.chunks = max(part.chunks for part in attention.modules() if isinstance(part, KeepsLess))
        setattr(model.get_submodule(block), name, mixer)
        net = cast(SMixerNet, model)
        net.config = replace(net.config, mixer="smixer")


def look(model: SMixerNet, settings: DSTSPConfig, swap: bool | str) -> tuple[Plan, tuple[NativeSwap, ...]]:
    """The plan and the swaps of a network of this package; see `snntorch_smixer.patching.plan.look`."""
    config = model.config
    swaps = tuple(
        NativeSwap(f"blocks.{i}.mixer", config.num_tokens)
        for i in range(config.depth if config.mixer == "ssa" and swap else 0)
    )
    gone = sum(
        p.numel()
        for edit in swaps
        for unit in (model.get_submodule(f"{edit.path}.query"), model.get_submodule(f"{edit.path}.key"))
        for p in unit.parameters()
    )
    before = sum(p.numel() for p in model.parameters())
    after = before - gone + len(swaps) * config.heads * config.num_tokens**2
    steps, tokens = (config.T, steps_after(settings, config.T)), config.num_tokens
    check_rates(settings.ps, depth=config.depth, may_fall=False)
    kept = tokens_after(settings, tokens, config.depth)
    plan = Plan(
        model=type(model).__name__,
        family="native",
        settings=settings,
        steps=steps,
        tokens=(tokens, kept),
        parameters=(before, after),
        depth=config.depth,
        levels=None,
        keeps_grid=False,
        has_spikes=True,
        refusal="",
        edits=(*(edit.describe() for edit in swaps), pruning(steps, (tokens, kept))),
    )
    check_fits(plan, settings)
    return plan, swaps


def pruning(steps: tuple[int | None, int | None], tokens: tuple[int | None, int | None]) -> str:
    """The line of a plan about what is dropped."""
    return f"dstsp: prunes behind the stem, T {steps[0]} -> {steps[1]}, tokens {tokens[0]} -> {tokens[1]}"


def undo(model: SMixerNet) -> None:
    """Let the configuration say again what it said before the swap."""
    if any(isinstance(m, SpikingSelfAttention) for m in model.modules()):
        model.config = replace(model.config, mixer="ssa")
