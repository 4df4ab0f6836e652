"""What a benchmark should reach, beside what it measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from snntorch_smixer.bench.result import Value


@dataclass(frozen=True)
class Goal:
    """An upper bound for one number of the rows that it is about.

    Attributes:
        name: as the documents call it, for example "G1".
        key: of the number.
        at_most: the bound, in the unit of the key.
        where: keys and values that a row must have.
    """

    name: str
    key: str
    at_most: float
    where: Mapping[str, Value]

    def judge(self, row: Mapping[str, Value]) -> str | None:
        """The verdict in words; None where the goal is not about this row, or the row has no such number."""
        value = row.get(self.key)
        if not isinstance(value, (int, float)) or any(row.get(key) != want for key, want in self.where.items()):
            return None
        verdict = "met" if value <= self.at_most else "MISSED"
        return f"{self.name} {self.key} {value:.4g} <= {self.at_most:g} {verdict}"


def judged(rows: Sequence[Mapping[str, Value]], goals: Sequence[Goal]) -> list[dict[str, Value]]:
    """The rows with one more key, ``goals``: the verdicts on each, empty where there is none."""
    return [{**row, "goals": "; ".join(_verdicts(row, goals))} for row in rows]


def _verdicts(row: Mapping[str, Value], goals: Sequence[Goal]) -> Iterator[str]:
    for goal in goals:
        verdict = goal.judge(row)
        if verdict is not None:
            yield verdict
