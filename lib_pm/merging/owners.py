"""Which LoRAs have something of each layer of the result, and what they call it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from lib_pm.core.errors import MergeInputError
from lib_pm.core.layers import LayerShape
from lib_pm.core.ranks import FULL_RANK, Rank
from lib_pm.core.rows import Rows
from lib_pm.files.base_model import BaseModel
from lib_pm.files.reader import LoraFile
from lib_pm.merging.progress import Progress


@dataclass(frozen=True)
class Piece:
    """A layer of a LoRA, and which of its rows go where in the layer of the result; none: all of it, as it is."""

    name: str
    rows: tuple[Rows, ...] = ()

    def meets(self, other: Piece) -> bool:
        """Return whether both go to one row."""
        return not self.rows or not other.rows or any(one.meets(two) for one in self.rows for two in other.rows)


@dataclass(frozen=True)
class Owner:
    """What a LoRA has of a layer. lora: its index. pieces: the layers there. shape, rank: of what they make up."""

    lora: int
    pieces: tuple[Piece, ...]
    shape: LayerShape
    rank: Rank


def owners_by_layer(files: Sequence[LoraFile], model: BaseModel, progress: Progress) -> dict[str, list[Owner]]:
    """Return by name as it is written who has the layer, in the order of the files."""
    owners: dict[str, list[Owner]] = {}
    read = len(files)
    for index, file in enumerate(files):
        progress(read, read, file.name, "files")  # of hundreds of LoRAs this takes its time too
        for name, owner in _layers(index, file, model):
            owners.setdefault(name, []).append(owner)
    return owners


def _layers(index: int, file: LoraFile, model: BaseModel) -> Iterator[tuple[str, Owner]]:
    pieces: dict[str, list[Piece]] = {}
    rows: dict[str, int] = {}
    for written in file.names:
        for place in model.places(file, written):
            pieces.setdefault(place.name, []).append(Piece(written, place.rows))
            rows[place.name] = place.out
    for name, there in pieces.items():
        for one, other in combinations(there, 2):
            if one.meets(other):
                raise MergeInputError(f"{file.path.name} has layer {name} twice: as {one.name} and as {other.name}.")
        stored = [file.stored(piece.name) for piece in there]
        first = stored[0].shape
        if any((layer.shape.inner, layer.shape.kernel) != (first.inner, first.kernel) for layer in stored):
            each = ", ".join(f"{piece.name} {layer.shape}" for piece, layer in zip(there, stored, strict=True))
            raise MergeInputError(f"{file.path.name} has layer {name} in pieces that do not fit together: {each}.")
        shape = LayerShape(rows[name], first.inner, first.kernel, first.vector)
        yield name, Owner(index, tuple(there), shape, _rank([layer.rank for layer in stored]))


def _rank(ranks: Sequence[Rank]) -> Rank:
    """Return the rank of pieces put together: with a delta among them it is one."""
    numbers = [rank for rank in ranks if rank is not FULL_RANK]
    return sum(numbers) if len(numbers) == len(ranks) else FULL_RANK
