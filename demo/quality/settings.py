"""What is compared: the sets of LoRAs, and every mode with its options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from demo.tiny.scenes import NEW_SHAPES, STYLES
from lib_pm.core.registry import MODES, Mode

DENSITIES = (0.2, 0.5, 0.8)
FULL_RANK, LIMITED_RANK = 64, 4  # of the small model's layers; of most of the LoRAs
STACKED, CONTENT_ALONE, STYLE_ALONE = "stacked", "content alone", "style alone"


@dataclass(frozen=True)
class Loras:
    """One content with one to three styles, all at strength 1."""

    content: str
    styles: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (self.content, *self.styles)


@dataclass(frozen=True)
class Setting:
    """A way to use some LoRAs together: a baseline, or a mode's id with options."""

    mode: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def rank(self) -> str:
        rank = self.options.get("svd_rank", "")
        return "full" if rank == FULL_RANK else str(rank)

    @property
    def density(self) -> str:
        return str(self.options.get("density", ""))


BASELINES = (Setting(CONTENT_ALONE), Setting(STYLE_ALONE), Setting(STACKED))


def lora_sets(count: int) -> list[Loras]:
    """Return every content with every choice of `count` - 1 styles."""
    return [Loras(content, styles) for content in NEW_SHAPES for styles in combinations(STYLES, count - 1)]


def settings(count: int) -> list[Setting]:
    """Return the baselines, and all modes: for two LoRAs at several densities, for more at the middle one."""
    densities = DENSITIES if count == 2 else DENSITIES[1:2]
    return [*BASELINES, *(setting for mode in MODES.values() for setting in _of_mode(mode, densities))]


def _of_mode(mode: Mode, densities: tuple[float, ...]) -> Iterator[Setting]:
    swept = {"density": densities, "svd_rank": (FULL_RANK, LIMITED_RANK)}
    names = [name for name in swept if name in mode.options]
    for values in product(*(swept[name] for name in names)):
        yield Setting(mode.id, dict(zip(names, values, strict=True)))
