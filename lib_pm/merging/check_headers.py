"""What can be known to be wrong with a recipe from its files' headers, while it is still being written."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from lib_pm.core.errors import Faults
from lib_pm.families.blocks import parse_block_weights
from lib_pm.families.families import Family
from lib_pm.files.reader import open_lora
from lib_pm.files.reading import reading
from lib_pm.files.stamps import Stamp
from lib_pm.merging.recipe import Recipe


def check_block_weights_of(recipe: Recipe) -> None:
    """MergeInputError for each LoRA whose block weights its model family does not take. Only these files are opened."""
    faults = Faults()
    for use in recipe.loras:
        with faults.collect():
            if use.lbw:
                parse_block_weights(use.lbw, _family(use.path), use.name)
    faults.raise_all()


def _family(path: Path) -> Family:
    with reading(path):
        return _family_of(Stamp.of(path))


@lru_cache(maxsize=256)  # a recipe is looked at after each key that is pressed
def _family_of(stamp: Stamp) -> Family:
    with open_lora(stamp.path) as file:
        return file.family
