"""Operations of an STMixer by part, its energy at a firing rate, and one figure of a paper beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from snntorch_smixer.cost.paper.published import check_within
from snntorch_smixer.errors import SettingError, check_count

READINGS: Mapping[str, str] = {
    "plausible": "the trained rates of the log reach the figure",
    "above_trained_rates": "the figure needs more spikes than the trained network of the log fires",
    "tokens_too_few": "dropping these tokens saves less than the paper reports",
    "needs_fewer_spikes": "the figure needs kept tokens to spike less; pruning tokens does not do that",
    "scope_too_small": "leaving this part out of the count does not explain the figure either",
    "matches": "our count agrees within 5 %",
    "differs": "our count does not agree within 5 %",
    "unexplained": "the speed-up exceeds, by over 5 %, what this placement of the pruning removes in operations",
    "within_operations": "the speed-up stays within 5 % of what this placement of the pruning removes in operations",
}
"""Every `Finding.reading` and what it says."""


@dataclass(frozen=True)
class Finding:
    """One figure of the paper beside ours.

    Attributes:
        key: what it is, in a word.
        unit: of both numbers.
        paper: the paper's figure.
        ours: what our counts give.
        reading: a key of `READINGS`.
    """

    key: str
    unit: str
    paper: float
    ours: float
    reading: str

    @property
    def ratio(self) -> float:
        """Ours over the paper's."""
        return self.ours / self.paper


@dataclass(frozen=True)
class PartMacs:
    """Multiply-accumulates of an STMixer, per image and step. All sums run over the blocks.

    Attributes:
        analog: layers that read real values: the two convolutions on the image, the head where it is counted.
        stem: spiking convolutions of the stem, one number each.
        projections: the two 1x1 projections of each block, as large as each other.
        mixing: products with W_M.
        ffn: the two layers of each MLP, as large as each other.
        blocks: number of blocks.
    """

    analog: float
    stem: tuple[float, ...]
    projections: float
    mixing: float
    ffn: float
    blocks: int

    def __post_init__(self) -> None:
        for name in ("analog", "projections", "mixing", "ffn"):
            check_within("PartMacs", name, getattr(self, name))
        for value in self.stem:
            check_within("PartMacs", "stem", value)
        check_count("PartMacs", "blocks", self.blocks)
        if not self.in_blocks:
            raise SettingError(
                "PartMacs: projections, mixing and ffn are all 0. Expected MACs. Pass counts of a network."
            )

    @property
    def in_blocks(self) -> float:
        """What pruned tokens can save: everything behind the stem."""
        return self.projections + self.mixing + self.ffn

    @property
    def spiking(self) -> float:
        """Everything that spikes drive."""
        return sum(self.stem) + self.in_blocks

    def with_tokens(self, share: float) -> PartMacs:
        """The same with a share of the tokens behind the stem: ``W_M`` shrinks with its square."""
        check_within("PartMacs.with_tokens", "share", share, 0.0, 1.0)
        shrunk = self.projections * share, self.mixing * share**2, self.ffn * share
        return replace(self, projections=shrunk[0], mixing=shrunk[1], ffn=shrunk[2])


def energy_mj(macs: PartMacs, *, rate: float, mac_pj: float, ac_pj: float) -> float:
    """Energy of one step in mJ at one mean firing rate of all spiking layers.

    Raises:
        SettingError: a rate or price below 0.
    """
    check_within("energy_mj", "rate", rate)
    check_prices("energy_mj", mac_pj, ac_pj)
    return (mac_pj * macs.analog + ac_pj * rate * macs.spiking) * 1e-9


def rate_for(macs: PartMacs, *, mj: float, mac_pj: float, ac_pj: float) -> float:
    """Mean firing rate at which one step costs this many mJ: the inverse of `energy_mj`.

    Raises:
        SettingError: prices that are not positive, or an energy that the MACs on the image alone exceed.
    """
    check_prices("rate_for", mac_pj, ac_pj)
    spent = mac_pj * macs.analog * 1e-9
    check_within("rate_for", "mj", mj, spent)
    return (mj - spent) / (ac_pj * macs.spiking * 1e-9)


def check_prices(where: str, mac_pj: float, ac_pj: float) -> None:
    """Raise `SettingError` unless both prices are finite, and an accumulate costs more than nothing."""
    check_within(where, "mac_pj", mac_pj)
    check_within(where, "ac_pj", ac_pj)
    if ac_pj == 0:
        raise SettingError(f"{where}: ac_pj=0 prices no event. Expected more than 0. Pass pJ per accumulate.")
