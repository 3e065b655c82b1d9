"""The rows of a finding, and tables of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Row:
    """One kind of thing that must have arrived once each."""

    wanted: int = 0
    once: int = 0
    missing: int = 0
    twice: int = 0
    wrong: int = 0
    """Arrived once, and says something else than the task_log."""
    dropped: int = 0
    """Missing, and counted as dropped; see `Finding`."""
    complaints: list[str] = field(default_factory=list[str])

    @property
    def good(self) -> bool:
        """Whether each arrived once and is right, or was counted as dropped."""
        right = self.once + self.dropped == self.wanted
        return right and not self.wrong and not self.twice

    def count(self, arrived: int, *, right: bool = True, what: object = "") -> None:
        """Take one that was wanted, and which arrived so many times."""
        self.wanted += 1
        if arrived == 1 and right:
            self.once += 1
        else:
            self.missing += arrived == 0
            self.twice += arrived > 1
            self.wrong += arrived == 1
            self.complaints.append(f"{what}: arrived {arrived} times")

    def forgive(self) -> None:
        """Call what is missing dropped: as much as that was counted."""
        self.dropped += self.missing
        self.missing = 0

    def add(self, other: Row) -> None:
        """Add another run's numbers."""
        self.wanted += other.wanted
        self.once += other.once
        self.missing += other.missing
        self.twice += other.twice
        self.wrong += other.wrong
        self.dropped += other.dropped

    def __str__(self) -> str:
        """Say it in a few words."""
        numbers = {
            "missing": self.missing,
            "twice": self.twice,
            "wrong": self.wrong,
            "dropped": self.dropped,
        }
        few = [f"{number} {name}" for name, number in numbers.items() if number]
        return ", ".join([f"{self.once:,} of {self.wanted:,}", *few])


Rows = Mapping[str, Row]


def table(columns: Mapping[str, Rows]) -> str:
    """Write the rows of several runs beside each other, as a Markdown table."""
    names: Iterable[str] = dict.fromkeys(name for rows in columns.values() for name in rows)
    lines = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name in names:
        cells = (str(rows[name]) if name in rows else "" for rows in columns.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summed(runs: Sequence[Rows]) -> dict[str, Row]:
    """Add up the rows of several runs."""
    sums: dict[str, Row] = {}
    for rows in runs:
        for name, row in rows.items():
            sums.setdefault(name, Row()).add(row)
    return sums
