"""Every exception of the package.

All of them derive from `SMixerError`, so one ``except`` catches what a user can cause. Each message has four parts:
where it happened, what was got, what was wanted, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


class SMixerError(Exception):
    """Base of all errors that this package raises on purpose.

    Examples:
        >>> from snntorch_smixer import SMixerError, create_model
        >>> try:
        ...     create_model("smixer-4-385")
        ... except SMixerError as error:
        ...     print(type(error).__name__)
        CardError
    """


class LayoutError(SMixerError, ValueError):
    """A tensor has the wrong rank, the wrong number of tokens or steps, or an unknown layout string."""


class SettingError(SMixerError, ValueError):
    """A setting (pruning rate, kept steps, merge, ranking, a configuration field) is out of range or unknown."""


class FamilyError(SMixerError, TypeError):
    """A model is of no family that can be patched, or has been patched already."""


class ProfileError(SMixerError, ValueError):
    """A chip is unknown, or its profile is malformed or lacks what was asked for."""


class MeasureError(SMixerError, ValueError):
    """A model or batch cannot be measured: an empty batch, values that are not finite, operations nothing counts."""


class CardError(SMixerError):
    """A model name, model card, configuration file or weight file cannot be used."""


class MissingExtra(SMixerError, ImportError):
    """An optional dependency is not installed."""


def check_choice(where: str, name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `SettingError` unless ``value`` is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:  # an array compares element by element
        raise SettingError(
            f"{where}: {name}={value!r} is unknown. Expected one of {', '.join(choices)}. Pass one of these."
        )


def check_name(where: str, what: str, name: str, known: Sequence[str]) -> None:
    """Raise `SettingError`, with a close match where there is one, unless ``name`` is one of ``known``."""
    if name in known:
        return
    near = get_close_matches(str(name).lower(), known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known {what}s: {', '.join(known)}."
    raise SettingError(f"{where}: unknown {what} {name!r}. {hint}")


def is_count(value: object, least: int = 1) -> bool:
    """True for a whole number of at least ``least``; a bool is none."""
    return type(value) is int and value >= least


def check_count(where: str, name: str, value: object, *, least: int = 1) -> None:
    """Raise `SettingError` unless ``value`` is a whole number of at least ``least``."""
    if not is_count(value, least):
        raise SettingError(f"{where}: {name}={value!r} must be a whole number of at least {least}.")
