"""What each LoRA brings to a layer that is merged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lib_pm.core.layers import AnyLayer


@dataclass(frozen=True)
class Share:
    """What a LoRA brings to a layer: its layer there, its weight (strength × block weight), a digest of the LoRA."""

    layer: AnyLayer
    weight: float
    content: bytes


def active(shares: Iterable[Share]) -> list[Share]:
    """Return those with a weight, sorted by content.

    So neither rounding nor masks know in which order the LoRAs were given.
    """
    return sorted((share for share in shares if share.weight != 0), key=lambda share: (share.content, share.weight))
