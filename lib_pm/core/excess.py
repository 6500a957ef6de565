"""How close to the best one a truncation of a dense matrix comes."""

from __future__ import annotations

from typing import Literal

Precision = Literal["normal", "exact"]
# By how much of itself the error may be larger than the smallest one that the rank allows.
EXCESS: dict[Precision, float] = {"normal": 1e-3, "exact": 1e-5}
