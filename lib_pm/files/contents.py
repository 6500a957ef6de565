"""What is in a LoRA file."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lib_pm.families.families import kind
from lib_pm.files.json_text import load_json
from lib_pm.files.metadata import RECIPE_KEY, merged_tags
from lib_pm.files.reader import LoraFile, open_lora


@dataclass(frozen=True)
class Inspection:
    """layers: name -> shape, rank, alpha, block, kind. tags: with counts. recipe: if the file was merged here.

    without_alpha: how many layers have no alpha stored or set, so that it is taken as the rank.
    """

    file: str
    size: int
    family: str
    naming: str
    dtypes: dict[str, int]
    layers: dict[str, dict[str, Any]]
    tags: dict[str, int]
    metadata: dict[str, str]
    recipe: dict[str, Any] | None
    without_alpha: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def inspect_file(path: Path) -> Inspection:
    """Read the header and the alphas of a LoRA file. What is no plain LoRA is refused with what it is."""
    with open_lora(path) as file:
        return contents_of(file)


def contents_of(file: LoraFile) -> Inspection:
    """Return what is in an open LoRA file."""
    family = file.family
    layers = {
        name: {
            "shape": str(stored.shape),
            "rank": stored.rank,
            "alpha": file.alpha(name),
            "block": family.block(family.name(name)),
            "kind": kind(name),
        }
        for name, stored in file.layers.items()
    }
    tags: Counter[str] = Counter()
    for counts in merged_tags([file]).values():
        tags.update(counts)
    return Inspection(
        file=file.path.name,
        size=file.stamp.file.size,
        family=family.title,
        naming=file.naming,
        dtypes=dict(Counter(file.dtype(name) for name in file.layers)),
        layers=layers,
        tags=dict(tags.most_common()),
        metadata=dict(file.metadata),
        recipe=_recipe(file.metadata.get(RECIPE_KEY, "")),
        without_alpha=file.without_alpha,
    )


def _recipe(text: str) -> dict[str, Any] | None:
    """Return a recipe, None for what is none: a file's metadata may hold anything."""
    recipe = load_json(text)
    loras = recipe.get("loras") if isinstance(recipe, dict) else None
    return recipe if isinstance(loras, list) and all(isinstance(lora, dict) for lora in loras) else None
