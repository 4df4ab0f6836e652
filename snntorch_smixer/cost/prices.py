"""The prices that a profile must hold, and the figure that holds one: a number, its source, how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite

from snntorch_smixer.errors import ProfileError

PRICES: Mapping[str, str] = {
    "ac_pj": "synaptic event of a binary spike",
    "graded_pj": "synaptic event of a whole-number spike, of any value: one of value k costs at most k * ac_pj",
    "mac_pj": "multiply-accumulate of a real-valued input",
    "act_act_pj": "one addition delivered by activation x activation",
    "update_pj": "neuron update that at least one event reached",
    "update_idle_pj": "clocked neuron update that no event reached",
    "spike_pj": "sending one spike inside a core or tile",
    "hop_pj": "one hop of one packet between cores",
    "weight_read_pj_per_bit": "reading weights",
    "state_pj_per_bit": "reading or writing neuron state",
    "activation_pj_per_bit": "reading or writing activations",
    "add_pj": "elementwise addition outside a neuron",
    "mul_pj": "elementwise multiplication outside a neuron",
    "compare_pj": "comparison outside a neuron",
    "special_pj": "division by an activation, exponential, root",
    "batch_norm_pj": "scale-and-shift of a BatchNorm that can be folded away",
}
"""Every price; the unit is in the key. A profile holds each as a figure, as "unknown", or under [includes]."""

POWER: Mapping[str, str] = {
    "static_mw": "one chip that is switched on",
    "base_uw": "one chip, at no clock and no event",
    "clock_uw_per_mhz": "one chip, per MHz of its clock",
    "event_pj": "one synaptic event, in the power model that was fitted to the whole chip",
}
"""Terms of a chip's published power model; the unit is in the key."""

SCOPES = ("incremental", "operating-point", "convention")
GRADES = ("measured", "simulated", "vendor", "survey", "derived", "convention")
READS = ("primary", "second-hand", "recalled")
_CHOICES = {"scope": SCOPES, "grade": GRADES, "read": READS}
_UNITS = {"_pj_per_bit": "pJ/bit", "_uw_per_mhz": "uW/MHz", "_pj": "pJ", "_mw": "mW", "_uw": "uW"}
_VALUE_HINT = 'Write a plain number, "unknown", or give the key a reason under [includes].'


@dataclass(frozen=True)
class Figure:
    """One number about a chip, and how far it can be trusted.

    Attributes:
        value: the number in ``unit``, above 0; None where nothing is published.
        unit: "pJ", "pJ/bit", "mW", "uW" or "uW/MHz", from the key.
        scope: "incremental" (one more event costs this), "operating-point" (an average over everything that ran at one
            load) or "convention"; "none" where the value is None.
        grade: "measured", "simulated", "vendor", "survey", "derived", "convention"; "unknown" where the value is None.
        read: how we know the number: "primary" (read in the source), "second-hand" (quoted by others with a page),
            "recalled" (to be checked); "none" where the value is None.
        source: publication, table or page.
        conditions: node, voltage, clock.
        band: least and largest plausible value.
        note: what else matters; where the value is None, why.
    """

    value: float | None
    unit: str
    scope: str = "none"
    grade: str = "unknown"
    read: str = "none"
    source: str = ""
    conditions: str = ""
    band: tuple[float, float] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("source", "conditions", "note"):
            need(isinstance(getattr(self, name), str), f"{name}={getattr(self, name)!r}", "text", "Put it in quotes.")
        if self.value is None:
            known = [name for name in _CHOICES if getattr(self, name) != getattr(Figure, name)]
            what = " and ".join(known + ["band"] * (self.band is not None))
            need(not what, f'value = "unknown" has a {what}', "only note and source beside it", "Delete the rest.")
            need(self.note, 'value = "unknown" without a note', "the reason", "Say why in note = ...")
            return
        need(is_positive(self.value), f"value={self.value!r}", f"a number above 0 in {self.unit}", _VALUE_HINT)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            need(value in choices, f"{name}={value!r}", f"one of {', '.join(choices)}", "Grade the number honestly.")
        need(self.source, "no source", "the publication of the number", "Name it in source = ...")
        good = self.band is None or _is_band(self.band, self.value)
        need(good, f"band={self.band!r}", f"[least, largest] around {self.value}", "Widen the band, or leave it out.")


@dataclass(frozen=True)
class OperatingPoint:
    """A published average at one load. Never a price: divided by its events it holds for that load alone.

    Attributes:
        name: what ran, and how.
        quantity: key with its unit, for example "energy_per_event_pj".
        figure: the number, of scope "operating-point".
    """

    name: str
    quantity: str
    figure: Figure


def unit_of(key: str) -> str:
    """Unit of a key, from its ending: "ac_pj" is in pJ.

    Raises:
        ProfileError: the key has no unit.
    """
    for suffix, unit in _UNITS.items():
        if key.endswith(suffix):
            return unit
    raise ProfileError(f"{key!r} has no unit. Wanted an ending of {', '.join(_UNITS)}. Rename it.")


def check_key(table: str, key: str, known: Mapping[str, str]) -> None:
    """Raise `ProfileError`, with the nearest key and its unit, unless ``key`` is one of ``known``."""
    if key not in known:
        near = get_close_matches(key, known, n=1, cutoff=0.4)
        wanted = f"{near[0]}, in {unit_of(near[0])}" if near else f"one of {', '.join(known)}"
        need(False, f"[{table}] {key} is no key of this table", wanted, "Convert the number and rename the key.")


def need(good: object, got: str, wanted: str, do: str) -> None:
    """Raise `ProfileError` unless ``good``."""
    if not good:
        raise ProfileError(f"{got}. Wanted {wanted}. {do}")


def is_positive(value: object) -> bool:
    """True for a finite number above 0; a bool is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value) and value > 0


def _is_band(band: object, value: float) -> bool:
    return isinstance(band, tuple) and len(band) == 2 and all(map(is_positive, band)) and band[0] <= value <= band[1]
