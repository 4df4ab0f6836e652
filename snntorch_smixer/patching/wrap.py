"""Put DSTSP into a model, and take it out again."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.patching import plan as planning
from snntorch_smixer.patching.modules import WrappedDSTSP
from snntorch_smixer.pruning.pruner import DSTSPConfig

Model = TypeVar("Model", bound=nn.Module)


def plan(
    model: nn.Module,
    *,
    ps: float = 0.3,
    t: int | None = 1,
    merge: str = "softmatch",
    w_prime: str = "gather",
    active: str = "both",
) -> planning.Plan:
    """What `wrap` with the same arguments would do; the model is not touched. Raises what `wrap` raises."""
    return planning.plan(model, DSTSPConfig(ps=ps, t=t, merge=merge, w_prime=w_prime, active=active))


def wrap(
    model: Model,
    *,
    ps: float = 0.3,
    t: int | None = 1,
    merge: str = "softmatch",
    w_prime: str = "gather",
    active: str = "both",
) -> Model:
    """Add Dynamic Spatial-Temporal Spiking Pruning to ``model``, in place.

    No parameters are added and no state-dict key changes. Afterwards every setting can be changed: ``model.dstsp.ps``,
    ``.t``, ``.merge``, ``.ranking``, ``.w_prime``, ``.spike_cap``, ``.active``.

    Args:
        model: an `SMixerNet`.
        ps: share of tokens to drop, in [0, 1).
        t: steps to keep, 1..T; None keeps all.
        merge: "softmatch", "drop", "sum" or "fuse".
        w_prime: "gather", "crop" or "shared"; see `DSTSPConfig`.
        active: prune in "train", "eval", "both" or "never".

    Returns:
        The same model.

    Raises:
        FamilyError: no family matches, or the model prunes already.
        SettingError: a setting is out of range. In every case the model is as before.
    """
    checked = plan(model, ps=ps, t=t, merge=merge, w_prime=w_prime, active=active)
    model.dstsp = WrappedDSTSP(checked.settings).train(model.training)
    return model


def unwrap(model: Model) -> Model:
    """Undo `wrap`: outputs are bit-identical to those before.

    Raises:
        FamilyError: the model was not wrapped.
    """
    if not isinstance(getattr(model, "dstsp", None), WrappedDSTSP):
        raise FamilyError(
            f"unwrap: this {type(model).__name__} was not wrapped, so there is nothing to undo. A net built "
            "with pruning stops with model.dstsp.active = 'never'."
        )
    model.dstsp = None  # type: ignore[assignment]
    return model
