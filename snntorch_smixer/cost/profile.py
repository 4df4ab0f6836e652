"""Loading chip profiles: one TOML file per chip, every number with its unit in the key and its source beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from snntorch_smixer.cost.chip import Capacity as Capacity
from snntorch_smixer.cost.chip import Profile as Profile
from snntorch_smixer.cost.prices import POWER as POWER
from snntorch_smixer.cost.prices import PRICES as PRICES
from snntorch_smixer.cost.prices import Figure as Figure
from snntorch_smixer.cost.prices import OperatingPoint as OperatingPoint
from snntorch_smixer.cost.prices import check_key, unit_of
from snntorch_smixer.errors import CardError, ProfileError
from snntorch_smixer.tables import read_toml

FOLDER = Path(__file__).parent / "profiles"
"""The shipped profiles."""

_TABLES = ("prices", "includes", "power", "capacity")
_OPTIONAL = ("title", "voltage_v", "notes", "operating_points", "extends", *_TABLES)


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
    raw = _read(path)
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


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = read_toml(path)
    except CardError as error:
        raise ProfileError(str(error)) from error
    for table in _TABLES:
        if not isinstance(raw.get(table, {}), dict):
            raise ProfileError(f"{path}: {table}={raw[table]!r} is no table. Wanted [{table}]. Write it as a table.")
    return raw


def _profile(name: str, raw: Mapping[str, Any]) -> Profile:
    known = [field.name for field in dataclasses.fields(Profile) if field.name != "name"]
    for key in raw:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.7)
            wanted = near[0] if near else f"one of {', '.join(known)}"
            raise ProfileError(f"unknown key {key}. Wanted {wanted}. Rename or delete it.")
    lacks = [key for key in known if key not in raw and key not in _OPTIONAL]
    if lacks or "title" not in raw:
        lacks = lacks if "title" in raw else ["title", *lacks]
        raise ProfileError(f"lacks {', '.join(lacks)}. Wanted every setting of a chip. Add them, or extends = ...")
    settings = {key: value for key, value in raw.items() if key not in (*_TABLES, "operating_points")}
    return Profile(
        **{"voltage_v": None, **settings},
        name=name,
        prices=_figures("prices", raw.get("prices", {}), PRICES),
        power=_figures("power", raw.get("power", {}), POWER),
        includes=_reasons(raw.get("includes", {})),
        operating_points=_points(raw.get("operating_points", [])),
        capacity=_capacity(raw.get("capacity", {})),
    )


def _figures(table: str, raw: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Figure]:
    for key in raw:
        check_key(table, key, known)
    return {key: _figure(f"[{table}] {key}", key, value) for key, value in raw.items()}


def _figure(where: str, key: str, raw: object) -> Figure:
    unit = unit_of(key)
    where = f"{where} ({unit})"
    if not isinstance(raw, Mapping) or "value" not in raw:
        raise ProfileError(
            f"{where}: got {raw!r}. Wanted a table with value, scope, grade, read, source. Write it out."
        )
    fields = [field.name for field in dataclasses.fields(Figure) if field.name != "unit"]
    odd = [name for name in raw if name not in fields]
    if odd:
        raise ProfileError(f"{where}: unknown key {odd[0]}. Wanted {', '.join(fields)}. Rename or delete it.")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    values["value"] = None if raw["value"] == "unknown" else raw["value"]
    try:
        return Figure(unit=unit, **values)
    except ProfileError as error:
        raise ProfileError(f"{where}: {error}") from None


def _reasons(raw: Mapping[str, Any]) -> dict[str, str]:
    for key, reason in raw.items():
        check_key("includes", key, PRICES)
        if not isinstance(reason, str) or not reason.strip():
            raise ProfileError(f"[includes] {key}={reason!r}. Wanted the reason why it costs nothing extra. Write it.")
    return dict(raw)


def _points(raw: object) -> tuple[OperatingPoint, ...]:
    good = isinstance(raw, list) and all(isinstance(entry, Mapping) for entry in raw)
    if not good or not all({"name", "quantity", "value"} <= set(entry) for entry in raw):  # type: ignore[attr-defined]
        raise ProfileError(f"operating_points={raw!r}. Wanted tables with name, quantity, value. Write them out.")
    return tuple(_point(dict(entry)) for entry in raw)  # type: ignore[attr-defined]


def _point(raw: dict[str, Any]) -> OperatingPoint:
    name, quantity = str(raw.pop("name")), str(raw.pop("quantity"))
    figure = _figure(f"operating point {name!r}", quantity, raw)
    if figure.scope != "operating-point":
        raise ProfileError(f"operating point {name!r}: scope={figure.scope!r}. Wanted 'operating-point'. Correct it.")
    return OperatingPoint(name, quantity, figure)


def _capacity(raw: Mapping[str, Any]) -> Capacity:
    known = [field.name for field in dataclasses.fields(Capacity)]
    for key in raw:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.7)
            raise ProfileError(
                f"[capacity] unknown key {key}. Wanted {near[0] if near else ', '.join(known)}. Rename it."
            )
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    return Capacity(**values)
