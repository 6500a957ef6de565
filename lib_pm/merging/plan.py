"""What a merge will do, known from the headers alone: which layers, merged from what, at which weights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats.foreign import is_embedding
from lib_pm.core.formats.full import BIAS
from lib_pm.core.formats.lora import Naming
from lib_pm.core.layers import LayerShape
from lib_pm.core.merge_layer import merged_rank, needs_factors
from lib_pm.core.ranks import FULL_RANK, Rank, asks_for_full_rank
from lib_pm.families.blocks import BlockWeights, parse_block_weights
from lib_pm.families.families import Family, kind
from lib_pm.families.names import parse_name
from lib_pm.files.base_model import FORCE, BaseModel, common_model
from lib_pm.files.reader import LoraFile, open_lora
from lib_pm.merging.owners import Owner, Piece, owners_by_layer
from lib_pm.merging.progress import Progress, silent
from lib_pm.merging.recipe import LoraUse, Recipe

Named = TypeVar("Named", LoraUse, LoraFile)
# A layer so large that it does not limit a rank: the recipe and the LoRAs alone decide it.
_LARGEST = LayerShape(sys.maxsize, sys.maxsize)


@dataclass(frozen=True)
class Source:
    """One LoRA's part in a layer. lora: its index in the recipe. pieces: its layers that make it up. rank: of that.

    weight: strength × block weight. off_by_block: a block weight made it 0.
    """

    lora: int
    pieces: tuple[Piece, ...]
    rank: Rank
    weight: float
    off_by_block: bool

    @property
    def name(self) -> str:
        """Return what the layer is called in the LoRA."""
        return " + ".join(piece.name for piece in self.pieces)


@dataclass(frozen=True)
class PlannedLayer:
    """One layer of the result. name: as it will be written; that of a bias ends in BIAS.

    rank: what it will have (before a resize), FULL_RANK for a delta.
    """

    name: str
    shape: LayerShape
    sources: tuple[Source, ...]
    rank: Rank


@dataclass(frozen=True)
class Plan:
    """The layers in the order in which they are written, and the open files. left_out: layers without any weight.

    alpha: of all layers that are written.
    """

    files: tuple[LoraFile, ...]
    model: BaseModel
    naming: Naming
    layers: tuple[PlannedLayer, ...]
    left_out: tuple[PlannedLayer, ...]
    alpha: int

    def ranks(self, layer: PlannedLayer) -> list[Rank]:
        """Return the ranks of the LoRAs that have a weight in a layer."""
        return [source.rank for source in layer.sources if source.weight]

    @property
    def family(self) -> Family:
        return self.model.family

    def contents(self, progress: Progress) -> list[str]:
        """Return the hash of each file's content; to read them all may take longer than the merge."""
        return [file.content for file in _announced(self.files, progress)]

    @property
    def applied_only(self) -> bool:
        """Return whether the result is no file: whole weights of the model that nobody asked to have written."""
        return False


@dataclass(frozen=True)
class MergePlan(Plan):
    """The plan of a recipe."""

    recipe: Recipe

    @property
    def applied_only(self) -> bool:
        return applied_only(self.recipe)

    def check_factors(self) -> None:
        """Raise a MergeInputError if the mode works on factors, and a LoRA has none in some layer."""
        for layer in self.layers if self.recipe.mode.space == "factors" else ():
            for source in layer.sources if not layer.shape.vector else ():
                file = self.files[source.lora]
                whole = [piece.name for piece in source.pieces if file.stored(piece.name).rank is FULL_RANK]
                if source.weight and whole:
                    raise MergeInputError(
                        f"{file.path.name}: layer {whole[0]} is {file.stored(whole[0]).title} without a low rank: "
                        f"{needs_factors(self.recipe.mode)}."
                    )


def applied_only(recipe: Recipe) -> bool:
    """Return whether a merge by that recipe can only be applied: svd_rank is full, and the result has no factors."""
    return asks_for_full_rank(recipe.options) and not recipe.mode.method.linear


@contextmanager
def open_one(
    path: Path, progress: Progress = silent, open_file: Callable[[Path], LoraFile] = open_lora, names: str = ""
) -> Iterator[Plan]:
    """Open one LoRA, whose layers are planned at the ranks that they have, or may have; it is closed at the end.

    names: see `common_model`.
    """
    with _opened([LoraUse(path)], open_file, progress) as files:
        (file,) = files
        model = common_model(files, names=names)
        layers = tuple(
            PlannedLayer(
                name,
                owner.shape,
                (Source(0, owner.pieces, owner.rank, 1.0, False),),
                owner.rank or _largest(owner.shape),
            )
            for name, (owner,) in sorted(owners_by_layer(files, model, progress).items())
        )
        yield Plan(files, model, _naming(files, model), layers, (), file.common_rank)


@contextmanager
def open_plan(
    recipe: Recipe,
    open_file: Callable[[Path], LoraFile] = open_lora,
    *,
    progress: Progress = silent,
    force: bool = False,
    strict: bool = False,
    way_out: str = FORCE,
) -> Iterator[MergePlan]:
    """Open the recipe's files and plan the merge; the files are closed at the end.

    open_file: gives the file of a path, which may have been read before.
    A MergeInputError says which LoRAs do not belong together, and why; force, way_out: see `common_model`.
    strict: a file with tensors that would be left out is one too.
    """
    with _opened(recipe.loras, open_file, progress) as files:
        if strict and (notes := leftovers(files)):
            raise MergeInputError(f"{'; '.join(notes)}; without strict the rest is merged.")
        model = common_model(files, force=force, way_out=way_out, names=recipe.names)
        planned = _plan_layers(recipe, files, model, progress)
        layers = tuple(layer for layer in planned if any(source.weight for source in layer.sources))
        left_out = tuple(layer for layer in planned if not any(source.weight for source in layer.sources))
        yield MergePlan(files, model, _naming(files, model), layers, left_out, _alpha(recipe, files), recipe)


@contextmanager
def _opened(
    uses: Sequence[LoraUse], open_file: Callable[[Path], LoraFile], progress: Progress
) -> Iterator[tuple[LoraFile, ...]]:
    with ExitStack() as stack:
        files = tuple(stack.enter_context(open_file(use.path)) for use in _announced(uses, progress))
        for file in files:
            file.check_base()
        yield files


def _announced(files: Sequence[Named], progress: Progress) -> Iterator[Named]:
    """Yield the files, each after `progress` has its name."""
    for index, file in enumerate(files):
        progress(index, len(files), file.name, "files")
        yield file


def leftovers(files: Sequence[LoraFile]) -> list[str]:
    """Return what to say of the tensors that are not merged, by file."""
    notes = []
    for file in files:
        embeddings = [key for key in file.left_out if is_embedding(key)]
        unknown = [key for key in file.left_out if not is_embedding(key)]
        for what, keys in (("of a textual inversion", embeddings), ("of no layer", unknown)):
            if keys:
                notes.append(f"{file.path.name}: {len(keys)} of {file.tensors} tensors left out, {what}: {_some(keys)}")
    return notes


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (" …" if len(keys) > 3 else "")


def _largest(shape: LayerShape) -> Rank:
    return FULL_RANK if shape.vector else shape.max_rank


def _naming(files: Sequence[LoraFile], model: BaseModel) -> Naming:
    if model.spelling:
        return "kohya" if model.spelling.is_flat else "peft"
    return "kohya" if model.family.canonical or any(file.naming == "kohya" for file in files) else "peft"


def _alpha(recipe: Recipe, files: Sequence[LoraFile]) -> int:
    """Return the rank of most layers that are written.

    From the files and the recipe as a whole, so that a layer's bytes do not depend on which others are merged.
    """
    ranks = [file.common_rank for use, file in zip(recipe.loras, files, strict=True) if use.model or use.clip]
    rank = merged_rank(recipe.mode, _LARGEST, ranks, recipe.options)
    return rank or 1  # at full rank no layer has an alpha


def _plan_layers(
    recipe: Recipe, files: tuple[LoraFile, ...], model: BaseModel, progress: Progress
) -> list[PlannedLayer]:
    owners, family = owners_by_layer(files, model, progress), model.family
    block_weights = [
        parse_block_weights(use.lbw, family, use.name) if use.lbw else BlockWeights() for use in recipe.loras
    ]
    planned = []
    for name in sorted(owners):
        progress(len(files), len(files), name, "files")
        planned.append(_plan_layer(name, owners[name], recipe, files, family, block_weights))
    return planned


def _plan_layer(
    name: str,
    owners: list[Owner],
    recipe: Recipe,
    files: tuple[LoraFile, ...],
    family: Family,
    block_weights: list[BlockWeights],
) -> PlannedLayer:
    shape = max((owner.shape for owner in owners), key=lambda shape: len(shape.kernel))
    for owner in owners:
        if not owner.shape.fits(shape):
            each = ", ".join(f"{files[owner.lora].path.name} {owner.shape}" for owner in owners)
            raise MergeInputError(
                f"Layer {name} changes weights of different shapes: {each}. Are the LoRAs for different base models?"
            )
    weight = name.removesuffix(BIAS)
    block, layer_kind, is_clip = family.block(weight), kind(weight), parse_name(weight)[0].startswith("te")
    selected = layer_kind in recipe.layers and recipe.apply != ("model" if is_clip else "clip")
    sources = []
    for owner in owners:
        strength = _strength(recipe.loras[owner.lora], is_clip) if selected else 0.0
        factor = block_weights[owner.lora].of(block, layer_kind)
        off = strength != 0 and factor == 0
        sources.append(Source(owner.lora, owner.pieces, owner.rank, strength * factor, off))
    ranks = [source.rank for source in sources if source.weight]
    return PlannedLayer(name, shape, tuple(sources), merged_rank(recipe.mode, shape, ranks, recipe.options))


def _strength(use: LoraUse, is_clip: bool) -> float:
    return use.clip if is_clip else use.model
