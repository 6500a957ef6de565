"""LoRA file formats, one file each: how the tensors of a layer are named, and what they mean.

A new kind is one file with its `Kind`, and its name in the table below.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from lib_pm.core.formats import dora
from lib_pm.core.formats.full import BIAS, BIASES, FULL
from lib_pm.core.formats.glora import GLORA
from lib_pm.core.formats.ia3 import BESIDE, FACTORS, IA3
from lib_pm.core.formats.kind import ALPHA, Kind
from lib_pm.core.formats.loha import LOHA
from lib_pm.core.formats.lokr import LOKR
from lib_pm.core.formats.lora import LORA
from lib_pm.core.formats.oft import OFT

__all__ = ["BIAS", "KINDS", "Place", "find"]

KINDS: tuple[Kind, ...] = (LORA, LOHA, LOKR, FULL, BIASES, GLORA, IA3, OFT)
_SHARED: dict[str, str] = {f".{ALPHA}": ALPHA, **dora.ENDINGS}  # the parts that layers of several kinds have
_ENDINGS: dict[str, tuple[Kind | None, str]] = {ending: (None, part) for ending, part in _SHARED.items()}
_ENDINGS |= {ending: (kind, part) for kind in KINDS for ending, part in kind.endings.items()}
_WORDS = range(max(ending.count(".") for ending in _ENDINGS), 0, -1)  # that an ending has; the longest comes first
_INSIDE = [ending for ending in _ENDINGS if not ending.startswith(".")]  # those that begin within a word


class Place(NamedTuple):
    """What a tensor is. layer: its name; that of a bias ends in BIAS. kind: None for a part that several have."""

    layer: str
    kind: Kind | None
    part: str


def find(key: str, others: Container[str] = ()) -> Place | None:
    """Return `x.lora_up.weight` as ("x", LORA, "up"); None for a tensor that belongs to no kind that is read.

    others: the tensors of the file, which tell what some are.
    """
    if key.endswith(FACTORS) and (layer := key.removesuffix(FACTORS)) + BESIDE in others:
        return Place(layer, IA3, "factors")
    words = key.split(".")
    endings = ["." + ".".join(words[-count:]) for count in _WORDS if count < len(words)]
    for ending in endings + [ending for ending in _INSIDE if key.endswith(ending)]:
        if ending in _ENDINGS and len(key) > len(ending):
            kind, part = _ENDINGS[ending]
            return Place(key[: -len(ending)] + (BIAS if kind is BIASES else ""), kind, part)
    return None
