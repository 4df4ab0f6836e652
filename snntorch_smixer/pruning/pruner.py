"""DSTSP: temporal pruning, then spatial pruning, then merging, as one module without parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.errors import LayoutError, SettingError, check_choice, check_name, is_count
from snntorch_smixer.kernels.spikes import Spikes
from snntorch_smixer.pruning.place import PLACES, StepChoice, unit_of
from snntorch_smixer.pruning.rates import Rates, Schedule, check_rates, plain, rate_at
from snntorch_smixer.pruning.siv import RANKINGS, rank, siv
from snntorch_smixer.pruning.softmatch import MERGES, merge_dropped
from snntorch_smixer.pruning.spatial import tokens_kept
from snntorch_smixer.selection import W_PRIMES, Selection, take_steps
from snntorch_smixer.tables import check_keys

ACTIVE = ("both", "train", "eval", "never")


@dataclass(frozen=True)
class DSTSPConfig:
    """Settings of DSTSP; the defaults are the paper's for classification.

    Attributes:
        ps: share of tokens to drop, in [0, 1): a number, dropped once in front of the first block; a tuple, the share
            of all N that is gone in each block; or a `Schedule`.
        t: steps to keep, 1..T; None keeps all.
        merge: what becomes of dropped tokens: "softmatch", "drop", "sum" or "fuse".
        ranking: what is pruned first: "low", "high" or "random" SIV (LP, HP, RP in the paper).
        w_prime: how ``W_M`` meets the kept tokens. "gather": token i keeps row and column i, so ps may change at any
            time. "crop": tokens in SIV order against ``W_M[:N', :N']``. "shared": in training one random sorted set of
            N' rows and columns for the batch; at inference each token has its own row and column again.
        spike_cap: spikes that each neuron behind the pruning may fire over the kept steps; None for no limit. In
            the stem it holds only where steps are dropped there, see ``place``.
        active: prune in "train", "eval", "both" or "never".
        place: where steps are dropped. "stem": behind the stem, as in the paper. "lif4" to "lif1": at that neuron
            inside the stem of a network of this package, by its spikes; what follows runs on the kept steps only, so
            an earlier place costs less, and decides on less. Tokens are dropped behind the stem wherever steps are.

    Examples:
        >>> from snntorch_smixer import dstsp
        >>> dstsp.DSTSPConfig(ps=0.2, t=1, merge="drop").merge
        'drop'
    """

    ps: Rates = 0.3
    t: int | None = 1
    merge: str = "softmatch"
    ranking: str = "low"
    w_prime: str = "gather"
    spike_cap: int | None = None
    active: str = "both"
    place: str = "stem"

    def __post_init__(self) -> None:
        ps = tuple(map(plain, self.ps)) if isinstance(self.ps, (list, tuple)) else plain(self.ps)
        for name, value in {"ps": ps, "t": plain(self.t), "spike_cap": plain(self.spike_cap)}.items():
            object.__setattr__(self, name, value)
        check_rates(self.ps)
        for name in ("t", "spike_cap"):
            value = getattr(self, name)
            if value is not None and not is_count(value):
                raise SettingError(
                    f"DSTSP: {name}={value!r} must be a whole number of at least 1, or None for no limit."
                )
        check_choice("DSTSP", "merge", self.merge, MERGES)
        if self.merge == "fuse" and not isinstance(self.ps, (int, float)):
            raise SettingError("DSTSP: merge='fuse' makes one extra token once. Pass one number as ps.")
        check_choice("DSTSP", "ranking", self.ranking, RANKINGS)
        check_choice("DSTSP", "w_prime", self.w_prime, W_PRIMES)
        check_choice("DSTSP", "active", self.active, ACTIVE)
        check_choice("DSTSP", "place", self.place, PLACES)
        if self.w_prime == "crop" and self.active in ("train", "eval"):
            raise SettingError(
                f"DSTSP: w_prime='crop' gives W_M another meaning (row i is the i-th busiest token), so it cannot be "
                f"active={self.active!r} only. Pass active='both', or w_prime='gather'."
            )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> DSTSPConfig:
        """The inverse of ``dataclasses.asdict`` without its Nones.

        Raises:
            SettingError: an unknown key, with close matches, or a value that the settings refuse.
        """
        check_keys("DSTSPConfig", cls, raw)
        values = dict(raw)
        if isinstance(values.get("ps"), Mapping):
            check_keys("DSTSPConfig.ps", Schedule, values["ps"])
            values["ps"] = Schedule(**values["ps"])
        # A file has no null: a table without t or spike_cap means no limit.
        return cls(**{"t": None, **values})


class _Setting:
    """A field of ``self.settings`` that can be read and set on the module, validated."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        return self if module is None else getattr(module.settings, self.name)

    def __set__(self, module: Any, value: Any) -> None:
        module.settings = replace(module.settings, **{self.name: value})


class DSTSP(nn.Module):
    """Dynamic Spatial-Temporal Spiking Pruning: ``(tokens, spikes)`` in, fewer tokens and their `Selection` out.

    No parameters, no buffers: a state dict does not change. Every setting can be changed at any time, for example
    ``net.dstsp.ps = 0.2``. Source: paper, DSTSP = DSTP then DSSP, placed after the stem.

    Args:
        settings: see `DSTSPConfig`.
        depth: number of blocks behind it, for rates per block; None when one number is all it will get.
        steps: T that arrive, which bounds t; None when not known yet.

    Raises:
        SettingError: settings that do not fit these; when they are set too, and for a setting that there is not.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import dstsp
        >>> tokens = torch.randn(4, 2, 16, 8)  # (T, B, N, C)
        >>> pruned, kept = dstsp.DSTSP(dstsp.DSTSPConfig(ps=0.25, t=1))(tokens, (tokens > 0).float())
        >>> pruned.shape
        torch.Size([1, 2, 12, 8])
    """

    depth: int | None
    steps: int | None
    settings: DSTSPConfig
    ps, t, merge, ranking, w_prime, spike_cap, active, place = (_Setting() for _ in range(8))

    def __init__(
        self, settings: DSTSPConfig | None = None, *, depth: int | None = None, steps: int | None = None
    ) -> None:
        super().__init__()
        self.depth, self.steps = depth, steps
        self.settings = DSTSPConfig() if settings is None else settings

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "settings":
            self.check(value)
        elif not name.startswith("_") and name not in vars(self) and not hasattr(type(self), name):
            declared = {a for c in type(self).__mro__ for a in vars(c).get("__annotations__", ())}
            if name not in declared:
                check_name("DSTSP", "setting", name, [*(f.name for f in fields(DSTSPConfig)), *self._more_settings])
        super().__setattr__(name, value)

    _more_settings: tuple[str, ...] = ()
    """What can be set besides the fields of `DSTSPConfig`."""

    def bind(self, *, depth: int, steps: int) -> None:
        """Let it prune a network of these sizes.

        Raises:
            SettingError: its settings do not fit them; it is as before.
        """
        before = self.depth, self.steps
        self.depth, self.steps = depth, steps
        try:
            self.check(self.settings)
        except SettingError:
            self.depth, self.steps = before
            raise

    always: tuple[int, ...] = ()
    """Places of tokens that are never dropped and that nothing is merged into, as class tokens."""

    keeps_grid = False
    """True where dropped tokens keep their place in ``x``: a `Selection` is made, but ``x`` only loses steps."""

    def check(self, settings: DSTSPConfig) -> None:
        """Raise `SettingError` when ``settings`` do not fit the network that this prunes."""
        if not isinstance(settings, DSTSPConfig):
            raise SettingError(f"DSTSP: got settings of type {type(settings).__name__}. Pass a DSTSPConfig.")
        check_rates(settings.ps, depth=self.depth, may_fall=self.keeps_grid)
        if self.steps is not None and settings.t is not None and settings.t > self.steps:
            raise SettingError(
                f"DSTSP: t={settings.t} is outside 1..{self.steps}, the steps that arrive. Keep fewer, or pass None "
                "for all."
            )

    def is_active(self) -> bool:
        """True when the settings let it prune in this mode, training or evaluation."""
        return self.settings.active in ("both", "train" if self.training else "eval")

    def tokens_left(self, full_tokens: int, block: int = 0) -> int:
        """N' of N in front of block ``block``."""
        return (
            tokens_kept(full_tokens, rate_at(self.settings.ps, block, self.depth or 1), len(self.always))
            if block >= 0
            else full_tokens
        )

    def prunes(self, x: Tensor, kept: Selection | None = None, block: int = 0) -> bool:
        """True when a call on tokens ``x`` would change anything; else it gives back ``(x, kept)``."""
        s, (steps, _, tokens, _) = self.settings, x.shape
        if not self.is_active():
            return False
        if kept is None:
            all_steps = self._steps_to_keep(steps) == steps
            return not (all_steps and self.tokens_left(tokens, block) == tokens and s.spike_cap is None)
        left = self.tokens_left(kept.full_tokens, block)
        return left != kept.tokens.shape[1] if self.keeps_grid else left < kept.tokens.shape[1]

    def choice_in_stem(self, steps: int, tokens: int) -> StepChoice | None:
        """What to call inside the stem, see `place`; None where no steps are dropped there.

        Args:
            steps: T.
            tokens: N behind the stem.

        Raises:
            SettingError: t is larger than T.
        """
        unit, t = unit_of(self.settings.place), self._steps_to_keep(steps)
        return self._choice(unit, tokens, t) if unit and self.is_active() and t != steps else None

    def forward(
        self, x: Tensor, spikes: Tensor | Spikes, kept: Selection | None = None, block: int = 0
    ) -> tuple[Tensor, Selection | None]:
        """Prune.

        Args:
            x: tokens ``(T, B, N, C)``, the stream to prune.
            spikes: ``(T, B, N, C')``, where SIV is taken: ``x`` itself when it is spikes. Those that carry bits are
                counted on the bits.
            kept: what was kept before; steps are chosen only where it is None.
            block: the block in front of which this is, for rates per block; -1 to drop steps only.

        Returns:
            Pruned tokens ``(T', B, N', C)`` and what was kept; ``(x, kept)`` when there is nothing to do.

        Raises:
            LayoutError: ``x`` or ``spikes`` is no token tensor, or they disagree.
            SettingError: t is larger than the number of steps.
        """
        shapes.check_tokens("DSTSP", x)
        if x.shape[:3] != spikes.shape[:3]:
            raise LayoutError(f"DSTSP: tokens {tuple(x.shape)} and spikes {tuple(spikes.shape)} differ in T, B or N.")
        if not self.prunes(x, kept, block):
            return x, kept
        with torch.no_grad():
            counts = siv(spikes, "c")  # every other SIV is a sum of these
        if kept is None:
            x, counts, kept = self._prune_steps(x, counts)
        chosen = self._select(counts.sum(0), kept, block)
        if not chosen.drops_tokens or self.keeps_grid:
            return x, chosen
        return merge_dropped(x, self.within(chosen, kept), self.settings.merge), chosen

    def choose_tokens(self, spikes: Tensor | Spikes, kept: Selection, block: int = 0) -> Selection:
        """The tokens that a pruning in front of ``block`` would keep of ``kept``, by spikes ``(T, B, N', C)``."""
        with torch.no_grad():
            return self._select(siv(spikes, "t c"), kept, block)

    @staticmethod
    def within(chosen: Selection, kept: Selection | None) -> Selection:
        """``chosen`` counted among the tokens of ``kept``: what is left of an earlier pruning is all there is."""
        if kept is None or not kept.drops_tokens:
            return chosen
        places = kept.tokens.unsqueeze(1) == chosen.tokens.unsqueeze(2)
        return replace(chosen, tokens=places.to(torch.uint8).argmax(2), full_tokens=kept.tokens.shape[1])

    def _steps_to_keep(self, steps: int) -> int:
        return steps if self.settings.t is None else self.settings.t

    def _prune_steps(self, x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Selection]:
        t = self._steps_to_keep(x.shape[0])
        choice = self._choice(0, x.shape[2], t)
        steps = choice.choose(counts.sum(2))
        if t < x.shape[0]:
            x, counts = take_steps(x, steps), take_steps(counts, steps)
        return x, counts, cast(Selection, choice.kept)

    def _choice(self, unit: int, tokens: int, t: int) -> StepChoice:
        s = self.settings
        return StepChoice(unit, tokens, t, s.ranking, s.w_prime, s.spike_cap)

    def _select(self, scores: Tensor, kept: Selection, block: int) -> Selection:
        chosen, tokens = self.settings, kept.full_tokens
        left = self.tokens_left(tokens, block)
        order = rank(scores, chosen.ranking)
        places = kept.tokens if kept.drops_tokens and not self.keeps_grid else None  # of the scores, None for all
        order = self._always_first(order, places)[:, :left]
        if places is not None:
            order = places.gather(1, order)
        drops = left < tokens
        fused = drops and chosen.merge == "fuse"
        rows = None
        if drops and chosen.w_prime == "shared" and self.training:
            draw = self._always_first(torch.randperm(tokens, device=scores.device)[None], None)[0]
            rows = draw[: left + int(fused)].sort().values
        crop = drops and chosen.w_prime == "crop"
        order = order if crop else order.sort(dim=1).values
        return replace(kept, tokens=order, rows=rows, fused=fused, alone=self._is_always(order))

    def _is_always(self, tokens: Tensor) -> Tensor | None:
        """True where ``tokens``, numbers of places, are among those that are always kept; None where there are none."""
        always = torch.tensor(self.always, device=tokens.device)
        return (tokens[..., None] == always).any(-1) if self.always else None

    def _always_first(self, order: Tensor, places: Tensor | None) -> Tensor:
        """``order`` ``(B, M)`` of entries that lie at ``places``, with those that are always kept in front."""
        always = self._is_always(order if places is None else places.gather(1, order))
        return order if always is None else order.gather(1, (~always).to(torch.uint8).sort(dim=1, stable=True).indices)

    def extra_repr(self) -> str:
        """All settings, for ``print(model)``."""
        s = self.settings
        return (
            f"ps={s.ps}, t={s.t}, merge={s.merge}, ranking={s.ranking}, w_prime={s.w_prime}, "
            f"spike_cap={s.spike_cap}, active={s.active}, place={s.place}"
        )
