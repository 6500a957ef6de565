"""The findings of an analysis, as values and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# The shares of the energy, in percent, for which the rank that keeps them is told.
KEPT = (90, 95, 99)
# So that rounding does not ask for one rank more.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Spectrum:
    """kept: the share of the energy (squared norm over all layers) that rank 1, 2, … in every layer keeps.

    Empty where there is nothing to keep.
    """

    kept: tuple[float, ...]

    @property
    def ranks(self) -> dict[int, int]:
        """Return the smallest rank that keeps 90, 95, 99 percent; empty where there is nothing to keep."""
        return {
            share: next(rank for rank, kept in enumerate(self.kept, 1) if kept >= share / 100 - _ROUNDING)
            for share in (KEPT if self.kept else ())
        }

    def to_json(self) -> dict[str, Any]:
        return {"kept": list(self.kept), "ranks": {str(share): rank for share, rank in self.ranks.items()}}


@dataclass(frozen=True)
class LoraAnalysis:
    """One LoRA at its weights. layers: in its file, of which `used` have a weight. norm: of all its weighted deltas.

    shares: by block, of its squared norm.
    """

    name: str
    layers: int
    used: int
    norm: float
    shares: Mapping[str, float]
    spectrum: Spectrum

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"spectrum": self.spectrum.to_json()}


@dataclass(frozen=True)
class Relation:
    """How two LoRAs relate in the layers that both have. layers: how many these are.

    cosine: of their weighted deltas. conflict: share of opposite signs, see `sign_conflict`. None if there is no layer,
    or if one of the LoRAs is zero in all of them.
    """

    layers: int
    cosine: float | None
    conflict: float | None


@dataclass(frozen=True)
class Pair:
    """Two LoRAs: over all layers, by block, and in a sentence what that means for the choice of a mode."""

    names: tuple[str, str]
    whole: Relation
    blocks: Mapping[str, Relation]
    meaning: str

    @property
    def title(self) -> str:
        return " and ".join(self.names)

    def to_json(self) -> dict[str, Any]:
        return {
            "loras": list(self.names),
            **asdict(self.whole),
            "blocks": {block: asdict(relation) for block, relation in self.blocks.items()},
            "meaning": self.meaning,
        }


@dataclass(frozen=True)
class Analysis:
    """layers: how many any of the LoRAs changes. blocks: those of these layers, in the model's order.

    norm, spectrum: of the sum of the LoRAs. notes: what the user should know.
    """

    family: str
    layers: int
    blocks: tuple[str, ...]
    loras: tuple[LoraAnalysis, ...]
    pairs: tuple[Pair, ...]
    norm: float
    spectrum: Spectrum
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "layers": self.layers,
            "blocks": list(self.blocks),
            "loras": [lora.to_json() for lora in self.loras],
            "pairs": [pair.to_json() for pair in self.pairs],
            "sum": {"norm": self.norm, "spectrum": self.spectrum.to_json()},
            "notes": list(self.notes),
            "seconds": self.seconds,
        }
