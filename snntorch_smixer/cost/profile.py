"""Chip profiles: one TOML file per chip, every number with its unit in the key and its source beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import inf, isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any

from snntorch_smixer.errors import CardError, ProfileError, is_count
from snntorch_smixer.tables import read_toml

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

FOLDER = Path(__file__).parent / "profiles"
"""The shipped profiles."""

_CHOICES = {
    "scope": ("incremental", "operating-point", "convention"),
    "grade": ("measured", "simulated", "vendor", "survey", "derived", "convention"),
    "read": ("primary", "second-hand", "recalled"),
}
_UNITS = {"_pj_per_bit": "pJ/bit", "_uw_per_mhz": "uW/MHz", "_pj": "pJ", "_mw": "mW", "_uw": "uW"}
_VALUE_HINT = 'Write a plain number, "unknown", or give the key a reason under [includes].'
_TABLES = ("prices", "includes", "power", "capacity")
_OPTIONAL = ("title", "voltage_v", "notes", "operating_points", "extends", *_TABLES)


@dataclass(frozen=True)
class Figure:
    """One number about a chip, and how far it can be trusted; without a value, ``note`` says why."""

    value: float | None  # in ``unit``, above 0; None where nothing is published
    unit: str  # "pJ", "pJ/bit", "mW", "uW" or "uW/MHz", from the key
    scope: str = "none"  # "incremental": one more event costs this; "operating-point": a mean over one load
    grade: str = "unknown"
    read: str = "none"  # "primary": read in the source; "second-hand": quoted with a page; "recalled": to be checked
    source: str = ""  # publication, table or page
    conditions: str = ""  # node, voltage, clock
    band: tuple[float, float] | None = None  # least and largest plausible value
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
        need(_is_positive(self.value), f"value={self.value!r}", f"a number above 0 in {self.unit}", _VALUE_HINT)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            need(value in choices, f"{name}={value!r}", f"one of {', '.join(choices)}", "Grade the number honestly.")
        need(self.source, "no source", "the publication of the number", "Name it in source = ...")
        band: object = self.band
        good = isinstance(band, tuple) and len(band) == 2 and all(map(_is_positive, band))
        good = band is None or (good and self.band[0] <= self.value <= self.band[1])  # type: ignore[index]
        need(good, f"band={band!r}", f"[least, largest] around {self.value}", "Widen the band, or leave it out.")


@dataclass(frozen=True)
class OperatingPoint:
    """A published average at one load. Never a price: divided by its events it holds for that load alone."""

    name: str  # what ran, and how
    quantity: str  # key with its unit, for example "energy_per_event_pj"
    figure: Figure  # of scope "operating-point"


@dataclass(frozen=True)
class Capacity:
    """What a chip holds: it is made of cores. None (in TOML: left out) where nothing is published."""

    cores_per_chip: int | None = None
    neurons_per_core: int | None = None
    neurons_per_chip: int | None = None  # where that is all that is published
    synapses_per_chip: int | None = None
    fan_in: int | None = None  # inputs of a core (axons, rows of a crossbar), hence the largest fan-in
    fan_out: int | None = None  # outgoing edges of a core
    synapses_per_core: int | None = None  # cells of a crossbar
    synapse_bits_per_core: int | None = None  # weight memory of a core
    weight_bits: int | None = None  # widest weight
    bias_words: int | None = None  # biases of a core
    kernel_words: tuple[int, ...] = ()  # weight words of each core of a chip with unequal convolution cores
    neuron_words: tuple[int, ...] = ()  # neuron words of each such core
    shares_weights: bool = False  # blocks of one layer may use the same weights in a core
    power_of_two: bool = False  # kernels, output channels and grids are rounded up to powers of two in memory
    sources: tuple[str, ...] = ()  # publications, and how we know them

    def __post_init__(self) -> None:
        def is_list(value: object, test: Callable[[Any], object]) -> bool:
            return isinstance(value, tuple) and all(map(test, value))

        for field in dataclasses.fields(self):
            value, default = getattr(self, field.name), field.default
            if default is None:
                good, wanted = value is None or is_count(value), "a whole number of at least 1"
            elif isinstance(default, bool):
                good, wanted = isinstance(value, bool), "true or false"
            elif field.name == "sources":
                good, wanted = is_list(value, lambda entry: isinstance(entry, str) and entry), "a list of texts"
            else:
                good, wanted = is_list(value, is_count), "a list of whole numbers of at least 1"
            need(good, f"capacity: {field.name}={value!r}", wanted, "Correct it, or leave it out where unpublished.")
        pair = (len(self.kernel_words), len(self.neuron_words))
        need(pair[0] == pair[1], f"capacity: {pair} entries in kernel_words, neuron_words", "one per core", "Add them.")
        empty = all(getattr(self, field.name) == field.default for field in dataclasses.fields(self))
        need(self.sources or empty, "capacity: no sources", "where the numbers come from", "Name them.")


@dataclass(frozen=True)
class Profile:
    """A chip, or a table of operations, as the estimator sees it.

    Attributes:
        name: stem of its file.
        title: for people.
        node: process, for example "14 nm".
        voltage_v: supply of the prices in volt, None if unpublished.
        rule: "event" (counts x prices) or "papers" (dense count x firing rate, as the literature does).
        updates: "clocked" (every neuron at every step), "triggered" (those that an event reached) or "free".
        graded_spikes: a spike may carry a whole number.
        act_act: can multiply two activations.
        weight_bits: bits of a weight to count memory and traffic with; an assumption where the chip offers more.
        state_bits: the same for the state of a neuron.
        activation_bits: the same for an activation that is no spike.
        prices: figures by the keys of `PRICES`.
        power: figures by the keys of `POWER`.
        includes: price key to the reason why it costs nothing extra here.
        operating_points: published averages, never used as prices.
        capacity: what a core and a chip hold.
        notes: caveats for people.

    Examples:
        >>> from snntorch_smixer import cost
        >>> cost.load_profile("horowitz45-fp32").title
        '45 nm arithmetic, fp32'
    """

    name: str
    title: str
    node: str
    voltage_v: float | None
    rule: str
    updates: str
    graded_spikes: bool
    act_act: bool
    weight_bits: int
    state_bits: int
    activation_bits: int
    prices: Mapping[str, Figure]
    power: Mapping[str, Figure]
    includes: Mapping[str, str]
    operating_points: tuple[OperatingPoint, ...]
    capacity: Capacity
    notes: str = ""

    def __post_init__(self) -> None:
        _check_settings(self)
        for key in PRICES:
            where = [name for name in ("prices", "includes") if key in getattr(self, name)]
            got = f"[prices] {key} is {'in both tables' if where else 'missing'}"
            wanted = f'a figure in {unit_of(key)}, "unknown", or a reason under [includes]'
            need(len(where) == 1, got, wanted, "Give it exactly once: nothing is free by silence.")
        for key, figure in self.prices.items():
            hint = "Move it to [[operating_points]] and give the price of one more event."
            need(figure.scope != "operating-point", f"[prices] {key} is an operating-point average", "a price", hint)
        for name in ("prices", "power", "includes"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    # A MappingProxyType cannot be pickled or copied.
    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], Profile], tuple[dict[str, Any]]]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _restore, ({k: dict(v) if isinstance(v, MappingProxyType) else v for k, v in values.items()},)

    def price(self, key: str) -> Figure | None:
        """The figure of a price, its value None where unpublished; None itself where [includes] says why it is free.

        Raises:
            ProfileError: ``key`` is no price.
        """
        _check_key("prices", key, PRICES)
        return self.prices.get(key)

    @property
    def unpriced(self) -> tuple[str, ...]:
        """Keys of the prices that are unpublished."""
        return tuple(key for key in PRICES if key in self.prices and self.prices[key].value is None)


def _restore(values: dict[str, Any]) -> Profile:
    return Profile(**values)


def _check_settings(profile: Profile) -> None:
    def check(names: str, test: Callable[[Any], object], wanted: str, do: str) -> None:
        for name in names.split():
            value = getattr(profile, name)
            need(test(value), f"{name}={value!r}", wanted, do)

    check("title node", lambda x: isinstance(x, str) and x, "text", "Name the chip and its process.")
    check("notes", lambda x: isinstance(x, str), "text", "Put it in quotes.")
    optional = "Leave it out where unpublished."
    check("voltage_v", lambda x: x is None or _is_positive(x), "volts above 0", optional)
    for name, choices in (("rule", ("event", "papers")), ("updates", ("clocked", "triggered", "free"))):
        check(name, choices.__contains__, f"one of {', '.join(choices)}", "Pass one of these.")
    check("graded_spikes act_act", lambda x: isinstance(x, bool), "true or false", "Say whether the chip can.")
    whole = "a whole number of bits, at least 1"
    check("weight_bits state_bits activation_bits", is_count, whole, "Say what to count with.")
    widest = profile.capacity.weight_bits or profile.weight_bits
    got = f"weight_bits={profile.weight_bits}"
    need(profile.weight_bits <= widest, got, f"at most the {widest} of [capacity]", "Count with fewer bits.")


def list_profiles() -> list[str]:
    """Names of the shipped profiles, for `load_profile`.

    Examples:
        >>> from snntorch_smixer import cost
        >>> "loihi1" in cost.list_profiles()
        True
    """
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_profile(name_or_path: str | Path) -> Profile:
    """A chip profile, checked: every key of `PRICES` is a figure, "unknown", or free for a stated reason.

    A file may say ``extends = "loihi1"`` (or the path of another file, from its own folder) and give only what differs.
    A figure replaces the whole figure, with its source, and takes its key out of [includes]; and the other way round.

    Args:
        name_or_path: one of `list_profiles`, or a `Path` or a text that ends in ".toml": your own file.

    Raises:
        ProfileError: no such chip (with close matches) or file, or a malformed one: the text names file, key and unit.

    Examples:
        >>> from snntorch_smixer import cost
        >>> cost.load_profile("loihi1").prices["ac_pj"].value
        23.6
    """
    path = _find(name_or_path, Path())
    raw = _merged(path, ())
    try:
        return _profile(path.stem, raw)
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from None


def _find(name: object, folder: Path) -> Path:
    text = str(name)
    if isinstance(name, Path) or text.endswith(".toml"):
        return (folder / text).expanduser()
    shipped = list_profiles()
    if text in shipped:
        return FOLDER / f"{text}.toml"
    near = get_close_matches(text.lower(), shipped)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise ProfileError(
        f"load_profile: no chip {name!r}. {hint}There are {', '.join(shipped)}. "
        "Pass one of these, or the path of your own .toml file."
    )


def _merged(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    """The content of a file on top of what it extends."""
    if path.resolve() in children:
        raise ProfileError(f"{path}: extends itself by way of {children[-1].name}. Wanted a chain with an end. Cut it.")
    try:
        raw = read_toml(path)
    except CardError as error:
        raise ProfileError(str(error)) from error
    for table in _TABLES:
        good = isinstance(raw.get(table, {}), dict)
        need(good, f"{path}: {table}={raw.get(table)!r} is no table", f"[{table}]", "Write it as a table.")
    if "extends" not in raw:
        return raw
    try:
        parent = _find(raw.pop("extends"), path.parent)
    except ProfileError as error:
        raise ProfileError(f"{path}: extends: {error}") from None
    base = _merged(parent, (*children, path.resolve()))
    merged = {**base, **raw, **{table: {**base.get(table, {}), **raw.get(table, {})} for table in _TABLES}}
    if "title" not in raw:
        merged["title"] = f"{base.get('title')}, as changed in {path.name}"
    for new, old in (("prices", "includes"), ("includes", "prices")):
        for key in set(raw.get(new, {})) - set(raw.get(old, {})):
            merged[old].pop(key, None)
    return merged


def _profile(name: str, raw: Mapping[str, Any]) -> Profile:
    known = [field.name for field in dataclasses.fields(Profile) if field.name != "name"]
    for key in (key for key in raw if key not in known):
        wanted = _near(key, known) or f"one of {', '.join(known)}"
        need(False, f"unknown key {key}", wanted, "Rename or delete it.")
    lacks = [key for key in known if key not in raw and key not in _OPTIONAL]
    lacks = lacks if "title" in raw else ["title", *lacks]
    need(not lacks, f"lacks {', '.join(lacks)}", "every setting of a chip", "Add them, or extends = ...")
    figures: dict[str, Any] = {}
    for table, keys in (("prices", PRICES), ("power", POWER)):
        for key in raw.get(table, {}):
            _check_key(table, key, keys)
        figures[table] = {key: _figure(f"[{table}] {key}", key, value) for key, value in raw.get(table, {}).items()}
    for key, reason in raw.get("includes", {}).items():
        _check_key("includes", key, PRICES)
        good = isinstance(reason, str) and reason.strip()
        need(good, f"[includes] {key}={reason!r}", "the reason why it costs nothing extra", "Write it.")
    settings = {key: value for key, value in raw.items() if key not in (*_TABLES, "operating_points")}
    return Profile(
        **{"voltage_v": None, **settings},
        name=name,
        **figures,
        includes=dict(raw.get("includes", {})),
        operating_points=_points(raw.get("operating_points", [])),
        capacity=_capacity(raw.get("capacity", {})),
    )


def _figure(where: str, key: str, raw: object) -> Figure:
    unit = unit_of(key)
    where = f"{where} ({unit})"
    if not isinstance(raw, Mapping) or "value" not in raw:
        raise ProfileError(
            f"{where}: got {raw!r}. Wanted a table with value, scope, grade, read, source. Write it out."
        )
    fields = [field.name for field in dataclasses.fields(Figure) if field.name != "unit"]
    for name in raw:
        need(name in fields, f"{where}: unknown key {name}", ", ".join(fields), "Rename or delete it.")
    values = _tuples(raw)
    values["value"] = None if raw["value"] == "unknown" else raw["value"]
    try:
        return Figure(unit=unit, **values)
    except ProfileError as error:
        raise ProfileError(f"{where}: {error}") from None


def _points(raw: Any) -> tuple[OperatingPoint, ...]:
    good = isinstance(raw, list) and all(isinstance(entry, Mapping) for entry in raw)
    good = good and all({"name", "quantity", "value"} <= set(entry) for entry in raw)
    need(good, f"operating_points={raw!r}", "tables with name, quantity, value", "Write them out.")
    points = []
    for entry in map(dict, raw):
        name, quantity = str(entry.pop("name")), str(entry.pop("quantity"))
        figure = _figure(f"operating point {name!r}", quantity, entry)
        got = f"operating point {name!r}: scope={figure.scope!r}"
        need(figure.scope == "operating-point", got, "'operating-point'", "Correct it.")
        points.append(OperatingPoint(name, quantity, figure))
    return tuple(points)


def _capacity(raw: Mapping[str, Any]) -> Capacity:
    known = [field.name for field in dataclasses.fields(Capacity)]
    for key in (key for key in raw if key not in known):
        need(False, f"[capacity] unknown key {key}", _near(key, known) or ", ".join(known), "Rename it.")
    return Capacity(**_tuples(raw))


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}


def _near(key: str, known: list[str]) -> str:
    return "".join(get_close_matches(key, known, n=1, cutoff=0.7))


def unit_of(key: str) -> str:
    """Unit of a key, from its ending: "ac_pj" is in pJ.

    Raises:
        ProfileError: the key has no unit.
    """
    for suffix, unit in _UNITS.items():
        if key.endswith(suffix):
            return unit
    raise ProfileError(f"{key!r} has no unit. Wanted an ending of {', '.join(_UNITS)}. Rename it.")


def _check_key(table: str, key: str, known: Mapping[str, str]) -> None:
    """Raise `ProfileError`, with the nearest key and its unit, unless ``key`` is one of ``known``."""
    if key not in known:
        near = get_close_matches(key, known, n=1, cutoff=0.4)
        wanted = f"{near[0]}, in {unit_of(near[0])}" if near else f"one of {', '.join(known)}"
        need(False, f"[{table}] {key} is no key of this table", wanted, "Convert the number and rename the key.")


def need(good: object, got: str, wanted: str, do: str) -> None:
    """Raise `ProfileError` unless ``good``."""
    if not good:
        raise ProfileError(f"{got}. Wanted {wanted}. {do}")


def _is_positive(value: object) -> bool:
    """True for a finite number above 0; a bool is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value) and value > 0


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
    _check_power(profile, terms, clock_mhz)
    for name, value in (("events_per_s", events_per_s), ("clock_mhz", clock_mhz)):
        good = value is None or 0 <= value < inf
        need(good, f"power_mw: {name}={value!r}", "a number of at least 0", "Correct it.")
    need(is_count(chips), f"power_mw: chips={chips!r}", "a whole number of at least 1", "Correct it.")
    per_chip_uw = (terms.get("base_uw") or 0.0) + (terms.get("clock_uw_per_mhz") or 0.0) * (clock_mhz or 0.0)
    events_mw = (terms["event_pj"] or 0.0) * events_per_s * 1e-9
    return chips * ((terms.get("static_mw") or 0.0) + per_chip_uw * 1e-3) + events_mw


def _check_power(profile: Profile, terms: Mapping[str, float | None], clock_mhz: float | None) -> None:
    lacks = [key for key, value in terms.items() if value is None] + ["event_pj"] * ("event_pj" not in terms)
    lacks += ["static_mw or base_uw"] * ("static_mw" not in terms and "base_uw" not in terms)
    got = f"power_mw: profile {profile.name} has no complete power model: [power] lacks {', '.join(lacks)}"
    hint = "Use odin or truenorth, or add the figures to a profile of your own."
    need(not lacks, got, "a published model of the whole chip", hint)
    clocked = "clock_uw_per_mhz" in terms
    got = f"power_mw: the power of {profile.name} grows with its clock, got clock_mhz=None"
    need(not clocked or clock_mhz is not None, got, "the clock in MHz", "Pass clock_mhz=...")
    got = f"power_mw: the power model of {profile.name} has no clock term, got clock_mhz={clock_mhz!r}"
    need(clocked or clock_mhz is None, got, "none: the model holds for one clock", "Leave it out.")
