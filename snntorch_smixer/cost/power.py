"""Power of a whole chip, from the model that its authors fitted to measurements."""

from __future__ import annotations

from math import inf

from snntorch_smixer.cost.chip import Profile
from snntorch_smixer.cost.prices import POWER
from snntorch_smixer.errors import ProfileError, is_count


def power_mw(profile: Profile, *, events_per_s: float, clock_mhz: float | None = None, chips: int = 1) -> float:
    """Power in mW: ``chips * (static + base + clock * f) + events * energy``, the terms that the profile has.

    Args:
        profile: a chip with ``event_pj`` and ``static_mw`` or ``base_uw`` under [power]: a published model of all it
            draws. A price per event alone is none, it says nothing about the rest.
        events_per_s: synaptic events per second, of all chips together.
        clock_mhz: clock in MHz, for a chip whose model has a clock term.
        chips: chips that are switched on.

    Raises:
        ProfileError: the chip has no published model, the model needs a clock and none is given, or an argument is not
            a number of at least 0.

    Examples:
        >>> from snntorch_smixer import cost
        >>> round(cost.power_mw(cost.load_profile("odin"), events_per_s=37.5e6, clock_mhz=75), 2)
        0.48
    """
    terms = {key: profile.power[key].value for key in POWER if key in profile.power}
    _check(profile, terms, clock_mhz)
    for name, value in (("events_per_s", events_per_s), ("clock_mhz", clock_mhz)):
        if value is not None and not 0 <= value < inf:
            raise ProfileError(f"power_mw: {name}={value!r}. Wanted a number of at least 0. Correct it.")
    if not is_count(chips):
        raise ProfileError(f"power_mw: chips={chips!r}. Wanted a whole number of at least 1. Correct it.")
    per_chip_uw = (terms.get("base_uw") or 0.0) + (terms.get("clock_uw_per_mhz") or 0.0) * (clock_mhz or 0.0)
    events_mw = (terms["event_pj"] or 0.0) * events_per_s * 1e-9
    return chips * ((terms.get("static_mw") or 0.0) + per_chip_uw * 1e-3) + events_mw


def _check(profile: Profile, terms: dict[str, float | None], clock_mhz: float | None) -> None:
    unknown = [key for key, value in terms.items() if value is None]
    lacks = [] if "event_pj" in terms else ["event_pj"]
    if "static_mw" not in terms and "base_uw" not in terms:
        lacks.append("static_mw or base_uw")
    if unknown or lacks:
        raise ProfileError(
            f"power_mw: profile {profile.name} has no complete power model: [power] lacks "
            f"{', '.join([*unknown, *lacks])}. Wanted a published model of the whole chip. "
            "Use odin or truenorth, or add the figures to a profile of your own."
        )
    if "clock_uw_per_mhz" in terms and clock_mhz is None:
        raise ProfileError(
            f"power_mw: the power of {profile.name} grows with its clock, got clock_mhz=None. "
            "Wanted the clock in MHz. Pass clock_mhz=..."
        )
    if "clock_uw_per_mhz" not in terms and clock_mhz is not None:
        raise ProfileError(
            f"power_mw: the power model of {profile.name} has no clock term, got clock_mhz={clock_mhz!r}. "
            "Wanted none: the model holds for one clock. Leave it out."
        )
