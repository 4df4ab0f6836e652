"""How a benchmark tells that it is under way: it prints nothing, but lets its caller watch what it goes through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """Gives the items of a benchmark one by one, and may draw a bar meanwhile."""

    def __call__(self, items: Sequence[Item], text: str) -> Iterable[Item]:
        """The items, in order; ``text`` says what they are."""
        ...


def silent(items: Sequence[Item], text: str) -> Iterable[Item]:  # noqa: ARG001
    """Shows nothing."""
    return items
