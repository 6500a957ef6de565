"""What is in a LoRA file."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lib_pm.core.visible import as_lines
from lib_pm.families.families import kind
from lib_pm.files.json_text import load_json
from lib_pm.files.metadata import RECIPE_KEY, TAGS_KEY, merged_tags, too_long
from lib_pm.files.reader import LoraFile, open_lora

TAGS_SHOWN = 10


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

    def to_text(self) -> str:
        layers = self.layers.values()
        alphas = sorted({layer["alpha"] for layer in layers})
        kinds = Counter(layer["kind"] for layer in layers)
        blocks = Counter(layer["block"] or "(none)" for layer in layers)
        without = no_alpha(self.without_alpha, len(self.layers))
        alpha = f" ({without})" if without else ""
        lines = [
            f"{self.file} ({self.size / 2**20:.1f} MB)",
            f"  model: {self.family}",
            f"  format: LoRA, {self.naming} names, {_counts(self.dtypes)}",
            f"  layers: {len(self.layers)} ({_counts(kinds)})",
            f"  rank: {_span(sorted({layer['rank'] for layer in layers}))}, alpha: {_span(alphas)}{alpha}",
            f"  blocks: {_counts(dict(sorted(blocks.items())))}",
        ]
        if self.tags:
            first = dict(list(self.tags.items())[:TAGS_SHOWN])
            lines.append(f"  tags: {_counts(first)}{' …' if len(self.tags) > TAGS_SHOWN else ''}")
        elif too_long(self.metadata):
            lines.append(f"  tags: not read: {too_long(self.metadata)}")
        if self.recipe:
            names = ", ".join(str(lora.get("name")) for lora in self.recipe.get("loras", []))
            lines.append(f"  merged by Power Merger: {self.recipe.get('mode')} of {names}")
        shown = {key: value for key, value in self.metadata.items() if key not in (RECIPE_KEY, TAGS_KEY)}
        lines += [
            f"  {key}: {value if len(value) <= 100 else value[:99] + '…'}" for key, value in sorted(shown.items())
        ]
        return as_lines(lines)


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


def no_alpha(missing: int, layers: int) -> str:
    """What to say of a file with layers that have no alpha, "" if each has one: its strength may be another."""
    where = "" if missing == layers else f" in {missing} of {layers} layers"
    return f"no alpha stored{where}: the rank is used instead" if missing else ""


def _recipe(text: str) -> dict[str, Any] | None:
    """None for what is none: a file's metadata may hold anything."""
    recipe = load_json(text)
    loras = recipe.get("loras") if isinstance(recipe, dict) else None
    return recipe if isinstance(loras, list) and all(isinstance(lora, dict) for lora in loras) else None


def _counts(counts: dict[str, int] | Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _span(values: list[Any]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"
