"""What a merge will do, known from the headers alone: which layers, merged from what, at which weights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats.lora import Naming
from lib_pm.core.layers import LayerShape
from lib_pm.core.merge_layer import merged_rank
from lib_pm.families.blocks import BlockWeights, parse_block_weights
from lib_pm.families.families import Family, kind
from lib_pm.families.names import parse_name
from lib_pm.files.base_model import FORCE, BaseModel, common_model
from lib_pm.files.reader import LoraFile, open_lora
from lib_pm.merging.progress import Progress, silent
from lib_pm.merging.recipe import LoraUse, Recipe

File = TypeVar("File", LoraUse, LoraFile)


@dataclass(frozen=True)
class Source:
    """One LoRA's part in a layer. lora: its index in the recipe. name: what the layer is called there.

    weight: strength × block weight. off_by_block: a block weight made it 0.
    """

    lora: int
    name: str
    weight: float
    off_by_block: bool


@dataclass(frozen=True)
class PlannedLayer:
    """One layer of the result. name: as it will be written. rank: what it will have (before a resize)."""

    name: str
    shape: LayerShape
    sources: tuple[Source, ...]
    rank: int


@dataclass(frozen=True)
class Plan:
    """The layers in the order in which they are written, and the open files. left_out: layers without any weight."""

    recipe: Recipe
    files: tuple[LoraFile, ...]
    model: BaseModel
    naming: Naming
    layers: tuple[PlannedLayer, ...]
    left_out: tuple[PlannedLayer, ...]

    def ranks(self, layer: PlannedLayer) -> list[int]:
        """The stored ranks of the LoRAs that have a weight in a layer."""
        return [self.files[source.lora].layers[source.name].rank for source in layer.sources if source.weight]

    @property
    def family(self) -> Family:
        return self.model.family

    @property
    def alpha(self) -> int:
        """The alpha of all layers that are written: the rank of most of them.

        From the files and the recipe as a whole, so that a layer's bytes do not depend on which others are merged.
        """
        uses = zip(self.recipe.loras, self.files, strict=True)
        ranks = [file.common_rank for use, file in uses if use.model or use.clip]
        any_layer = LayerShape(sys.maxsize, sys.maxsize)
        rank = merged_rank(self.recipe.mode, any_layer, ranks, self.recipe.options)
        return rank if 0 < rank < sys.maxsize else 1  # at full rank no layer has an alpha

    def contents(self, progress: Progress) -> list[str]:
        """The hash of each file's content; to read them all may take longer than the merge."""
        return [file.content for file in _told(self.files, progress)]


@contextmanager
def open_plan(
    recipe: Recipe,
    open_file: Callable[[Path], LoraFile] = open_lora,
    *,
    progress: Progress = silent,
    force: bool = False,
    way_out: str = FORCE,
) -> Iterator[Plan]:
    """Open the recipe's files and plan the merge; the files are closed at the end.

    open_file: gives the file of a path, which may have been read before.
    A MergeInputError says which LoRAs do not belong together, and why; force, way_out: see `common_model`.
    """
    with ExitStack() as stack:
        files = tuple(stack.enter_context(open_file(use.path)) for use in _told(recipe.loras, progress))
        model = common_model(files, force=force, way_out=way_out)
        family = model.family
        naming: Naming = "kohya" if family.canonical or any(file.naming == "kohya" for file in files) else "peft"
        planned = _plan_layers(recipe, files, family, progress)
        layers = tuple(layer for layer in planned if any(source.weight for source in layer.sources))
        left_out = tuple(layer for layer in planned if not any(source.weight for source in layer.sources))
        yield Plan(recipe, files, model, naming, layers, left_out)


def _told(files: Sequence[File], progress: Progress) -> Iterator[File]:
    """The files, each one told before it is read."""
    for index, file in enumerate(files):
        progress(index, len(files), file.name, "files")
        yield file


def _plan_layers(recipe: Recipe, files: tuple[LoraFile, ...], family: Family, progress: Progress) -> list[PlannedLayer]:
    owners: dict[str, list[tuple[int, str]]] = {}
    read = len(files)
    for index, file in enumerate(files):
        progress(read, read, file.name, "files")  # of hundreds of LoRAs this takes its time too
        seen: dict[str, str] = {}
        for written in file.layers:
            name = family.name(written)
            if name in seen:
                raise MergeInputError(f"{file.path.name} has layer {name} twice: as {seen[name]} and as {written}.")
            seen[name] = written
            owners.setdefault(name, []).append((index, written))
    block_weights = [
        parse_block_weights(use.lbw, family, use.name) if use.lbw else BlockWeights() for use in recipe.loras
    ]
    planned = []
    for name in sorted(owners):
        progress(read, read, name, "files")
        planned.append(_plan_layer(name, owners[name], recipe, files, family, block_weights))
    return planned


def _plan_layer(
    name: str,
    owners: list[tuple[int, str]],
    recipe: Recipe,
    files: tuple[LoraFile, ...],
    family: Family,
    block_weights: list[BlockWeights],
) -> PlannedLayer:
    stored = [files[index].layers[written] for index, written in owners]
    shape = max((layer.shape for layer in stored), key=lambda shape: len(shape.kernel))
    for layer in stored:
        if not layer.shape.fits(shape):
            each = ", ".join(f"{files[i].path.name} {files[i].layers[w].shape}" for i, w in owners)
            raise MergeInputError(
                f"Layer {name} changes weights of different shapes: {each}. Are the LoRAs for different base models?"
            )
    block, layer_kind, is_clip = family.block(name), kind(name), parse_name(name)[0].startswith("te")
    selected = layer_kind in recipe.layers and recipe.apply != ("model" if is_clip else "clip")
    sources = []
    for index, written in owners:
        strength = _strength(recipe.loras[index], is_clip) if selected else 0.0
        factor = block_weights[index].of(block, layer_kind)
        sources.append(Source(index, written, strength * factor, strength != 0 and factor == 0))
    ranks = [layer.rank for source, layer in zip(sources, stored, strict=True) if source.weight]
    return PlannedLayer(name, shape, tuple(sources), merged_rank(recipe.mode, shape, ranks, recipe.options))


def _strength(use: LoraUse, is_clip: bool) -> float:
    return use.clip if is_clip else use.model
