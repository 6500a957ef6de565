"""The base model's own weights, which some kinds of network change otherwise than by adding to them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

# The part of a layer that is not in its file.
WEIGHT = "base weight"


class BaseWeights(Protocol):
    """A base model, by the names that layers have in a LoRA."""

    @property
    def name(self) -> str:
        """Return what it is called, for messages."""

    def size(self, layer: str) -> tuple[int, ...] | None:
        """Return the size of a layer's weight, None if the model has no such layer."""

    def weight(self, layer: str) -> Tensor:
        """Return the weight on the CPU, in a dtype to compute with."""
