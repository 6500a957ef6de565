"""What is in a LoRA file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lib_pm.core.formats import BIAS
from lib_pm.families.families import kind
from lib_pm.files.json_text import load_json
from lib_pm.files.metadata import RECIPE_KEY, merged_tags
from lib_pm.files.reader import LoraFile, open_lora


@dataclass(frozen=True)
class Inspection:
    """layers: name -> shape, rank, alpha, block, kind, and network, such as LoHa. tags: with counts.

    rank: of the factors that the layer has, None if it has none. alpha: None where it says nothing. recipe: if the file
    was merged here. left_out: tensors that belong to none.

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
    left_out: list[str] = field(default_factory=list)

    @property
    def networks(self) -> dict[str, int]:
        """Return how many layers there are of each kind of network."""
        return dict(Counter(layer["network"] for layer in self.layers.values()))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def inspect_file(path: Path, open_file: Callable[[Path], LoraFile] = open_lora) -> Inspection:
    """Read the header and the alphas of a LoRA file. What is not read is refused with what it is."""
    with open_file(path) as file:
        return contents_of(file)


def contents_of(file: LoraFile) -> Inspection:
    """Return what is in an open LoRA file."""
    family = file.family
    layers = {}
    for name in (*file.layers, *file.vectors):
        stored, weight = file.stored(name), name.removesuffix(BIAS)
        layers[name] = {
            "shape": str(stored.shape),
            "rank": stored.rank,
            "alpha": None if stored.measure.dim is None else file.alpha(name),
            "block": family.block(family.name(weight)),
            "kind": kind(weight),
            "network": stored.title,
        }
    tags: Counter[str] = Counter()
    for counts in merged_tags([file]).values():
        tags.update(counts)
    return Inspection(
        file=file.path.name,
        size=file.stamp.file.size,
        family=family.title,
        naming=file.naming,
        dtypes=dict(Counter(file.dtype(name) for name in layers)),
        layers=layers,
        tags=dict(tags.most_common()),
        metadata=dict(file.metadata),
        recipe=_recipe(file.metadata.get(RECIPE_KEY, "")),
        without_alpha=file.without_alpha,
        left_out=list(file.left_out),
    )


def _recipe(text: str) -> dict[str, Any] | None:
    """Return a recipe, None for what is none: a file's metadata may hold anything."""
    recipe = load_json(text)
    loras = recipe.get("loras") if isinstance(recipe, dict) else None
    return recipe if isinstance(loras, list) and all(isinstance(lora, dict) for lora in loras) else None
