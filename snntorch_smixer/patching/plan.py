"""Look at a model, list every edit, touch nothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from snntorch_smixer.errors import FamilyError, SettingError
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.patching.modules import WrappedDSTSP
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.pruning.spatial import tokens_kept


@dataclass(frozen=True)
class Plan:
    """What `wrap` would do.

    Attributes:
        model: the class of the model.
        settings: of the pruning.
        steps: (T, T').
        tokens: (N, N').
        edits: one line per edit.
    """

    model: str
    settings: DSTSPConfig
    steps: tuple[int, int]
    tokens: tuple[int, int]
    edits: tuple[str, ...]


def plan(model: nn.Module, settings: DSTSPConfig) -> Plan:
    """Every edit that wrapping ``model`` needs; the model is not touched.

    Raises:
        FamilyError: the model is none of ours, has attention to be swapped first, is compiled or distributed, or prunes
            already.
        SettingError: t outside 1..T.
    """
    name = type(model).__name__
    inner = "_orig_mod" if hasattr(model, "_orig_mod") else "module"
    if isinstance(getattr(model, inner, None), SMixerNet):
        raise FamilyError(f"wrap: got a SMixerNet inside {name}. Wrap the net itself, then compile or distribute it.")
    if not isinstance(model, SMixerNet):
        raise FamilyError(f"wrap: no family matches {name}. Expected SMixerNet; build it with create_model.")
    if model.dstsp is not None:
        undo = "unwrap it first" if isinstance(model.dstsp, WrappedDSTSP) else "build it without pruning"
        raise FamilyError(
            f"wrap: this {name} prunes already ({model.dstsp.extra_repr()}). Set model.dstsp.ps and model.dstsp.t "
            f"instead, or {undo}."
        )
    if model.config.mixer != "smixer":
        raise FamilyError(f"wrap: this {name} mixes tokens by {model.config.mixer!r}. Build it with mixer='smixer'.")
    steps, tokens = model.config.T, model.config.num_tokens
    t = steps if settings.t is None else settings.t
    if t > steps:
        raise SettingError(f"wrap: t={t} is outside 1..{steps}, the steps of this {name}. Keep fewer steps.")
    keep = tokens_kept(tokens, settings.ps)
    edit = f"dstsp: prune behind the stem, T {steps} -> {t}, tokens {tokens} -> {keep}, W_M' by {settings.w_prime}"
    return Plan(name, settings, (steps, t), (tokens, keep), (edit,))
