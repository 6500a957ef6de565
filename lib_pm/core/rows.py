"""Rows of a weight: what a layer of a file is of a layer of the result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rows:
    """`count` rows from `first` on, which go to the rows from `to` on."""

    first: int
    count: int
    to: int

    def times(self, unit: int) -> Rows:
        return Rows(self.first * unit, self.count * unit, self.to * unit)

    def meets(self, other: Rows) -> bool:
        """Return whether both go to one row."""
        return self.to < other.to + other.count and other.to < self.to + self.count
