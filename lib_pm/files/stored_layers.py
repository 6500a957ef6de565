"""What a LoRA file's header says of its layers, checked before a tensor is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats import BIAS, find
from lib_pm.core.formats.base import WEIGHT, BaseWeights
from lib_pm.core.formats.dora import ENDINGS, check_magnitude
from lib_pm.core.formats.foreign import file_kind, is_embedding, kind_of
from lib_pm.core.formats.kind import ALPHA, Kind, Measure, Misfit
from lib_pm.core.formats.lora import LORA, Naming, naming_of
from lib_pm.core.layers import LayerShape
from lib_pm.core.ranks import FULL_RANK, Rank
from lib_pm.families.kernels import with_kernel
from lib_pm.files.header import DTYPES, Entry

_NUMBERS = (ALPHA, "on_input")  # which may be whole ones
_MAGNITUDES = tuple(dict.fromkeys(ENDINGS.values()))


@dataclass(frozen=True)
class StoredLayer:
    """Where the parts of a layer are in the file, and what is known of it before they are read.

    keys: part -> tensor name. measure: of its kind, before a magnitude (DoRA) makes a delta of it.
    """

    kind: Kind
    keys: Mapping[str, str]
    measure: Measure

    @property
    def shape(self) -> LayerShape:
        return self.measure.shape

    @property
    def rank(self) -> Rank:
        """Return the rank of the factors that it is read as, FULL_RANK for a delta."""
        return FULL_RANK if self.magnitude else self.measure.rank

    @property
    def magnitude(self) -> str | None:
        """Return which part makes it a DoRA."""
        return next((part for part in _MAGNITUDES if part in self.keys), None)

    @property
    def title(self) -> str:
        return f"{self.kind.title} with DoRA" if self.magnitude else self.kind.title

    @property
    def needs_weight(self) -> bool:
        """Return whether what it changes depends on the base model's weight."""
        return self.kind.needs_weight or self.magnitude is not None


def stored_layers(
    path: Path, entries: Mapping[str, Entry], base: BaseWeights | None
) -> tuple[dict[str, StoredLayer], list[str]]:
    """Return the layers by name, sorted, and the tensors that belong to none. Errors as for `open_lora`."""
    parts, left_out = _layers_by_name(path, entries)
    layers = {name: _stored_layer(path, entries, name, parts[name], base) for name in sorted(parts)}
    for name, layer in layers.items():
        if "scaled" in layer.keys and name.removesuffix(BIAS) not in layers:
            raise MergeInputError(f"{path.name}: {layer.keys['scaled']} has no up factor beside it.")
    return layers, left_out


def naming_of_file(layers: Mapping[str, StoredLayer]) -> Naming:
    """Return how the file calls its tensors: as PEFT does if no plain layer is called otherwise."""
    plain = [layer for layer in layers.values() if layer.kind is LORA]
    if plain:
        return "kohya" if any(naming_of(layer.keys["up"]) == "kohya" for layer in plain) else "peft"
    return "peft" if any("." in name.removesuffix(BIAS) for name in layers) else "kohya"


# The parts of a layer: its kind, and part -> key. A file's layers by name.
_Parts = tuple[Kind | None, dict[str, str]]


def _layers_by_name(path: Path, entries: Mapping[str, Entry]) -> tuple[dict[str, _Parts], list[str]]:
    """Return name -> kind, part -> key, and the tensors that belong to none; the file is refused if they matter."""
    layers: dict[str, _Parts] = {}
    foreign: list[str] = []
    for key in sorted(entries):
        found = None if kind_of(key) or is_embedding(key) else find(key, entries)
        if found is None:
            foreign.append(key)
            continue
        kind, parts = layers.get(found.layer, (None, {}))
        if kind and found.kind and kind is not found.kind:
            raise MergeInputError(
                f"{path.name}: layer {found.layer} is {kind.title} and {found.kind.title}: "
                f"{next(key for part, key in parts.items() if part != ALPHA)} and {key}."
            )
        if found.part in parts:
            raise MergeInputError(
                f"{path.name}: layer {found.layer} has two {found.part} factors: {parts[found.part]} and {key}."
            )
        parts[found.part] = key
        layers[found.layer] = (kind or found.kind, parts)
    if foreign and (not layers or _matters(foreign, layers, len(entries))):
        raise MergeInputError(_refusal(path, foreign, len(entries)))
    if not layers:
        raise MergeInputError(f"{path.name} contains no tensors.")
    return layers, foreign


def _matters(foreign: Sequence[str], layers: Mapping[str, _Parts], count: int) -> bool:
    """Return whether the layers are not what the file is without these tensors: a kind of network that is not read, or
    most of the file.
    """
    unknown = [key for key in foreign if not is_embedding(key)]
    return any(kind_of(key) for key in unknown) or 2 * len(unknown) > count


def _refusal(path: Path, foreign: Sequence[str], count: int) -> str:
    kinds = sorted({kind for key in foreign if (kind := kind_of(key))})
    if kinds:
        first = next(key for key in foreign if kind_of(key))
        return (
            f"{path.name} is not a plain LoRA but {', '.join(kinds)} ({len(foreign)} of {count} tensors, "
            f"first {first}); this kind is not supported yet."
        )
    if len(foreign) == count and (kind := file_kind(foreign)):
        return f"{path.name} is {kind} (first tensor {foreign[0]}), not a LoRA."
    return f"{path.name} has {len(foreign)} of {count} tensors that belong to no LoRA layer, the first is {foreign[0]}."


def size_in_base(path: Path, name: str, title: str, base: BaseWeights | None) -> tuple[int, ...]:
    """Return the size of a layer's weight in the base model; without such a weight a MergeInputError."""
    if base is None:
        raise MergeInputError(
            f"{path.name}: layer {name} is {title}, and what that changes depends on the base model's own weight. Give "
            "its checkpoint: --base FILE on the command line, base= in Python; in the WebUI there is no way yet."
        )
    size = base.size(name)
    if size is None:
        raise MergeInputError(f"{base.name} has no weight for layer {name} of {path.name}. Is it another model?")
    return size


def _some(keys: Mapping[str, str]) -> str:
    return "an alpha" if ALPHA in keys else ", ".join(keys.values())


def _stored_layer(
    path: Path, entries: Mapping[str, Entry], name: str, layer: _Parts, base: BaseWeights | None
) -> StoredLayer:
    kind, keys = layer
    for part, key in keys.items():
        dtype = entries[key].dtype
        if dtype not in DTYPES or (part not in _NUMBERS and not DTYPES[dtype].is_floating_point):
            raise MergeInputError(f"{path.name}: {key} has dtype {dtype}; allowed: floating point.")
    sizes = {part: entries[key].shape for part, key in keys.items()}
    numbers = math.prod(sizes.pop(ALPHA, ()))
    if numbers != 1:
        raise MergeInputError(f"{path.name}: layer {name} has {numbers} values in {keys[ALPHA]}; allowed: one.")
    if kind in (LORA, None):
        for part, other in (("up", "down"), ("down", "up")):
            if part not in keys:
                has = f"has {keys[other]}" if other in keys else f"has only {_some(keys)}"
                raise MergeInputError(f"{path.name}: layer {name} {has} but no {part} factor.")
    kind = kind or LORA
    try:
        if any(0 in size for size in sizes.values()):
            raise Misfit
        magnitudes = {part: sizes.pop(part) for part in _MAGNITUDES if part in sizes}
        if kind.needs_weight:
            sizes[WEIGHT] = size_in_base(path, name, kind.title, base)
        measure = kind.measure(sizes)
        if kind is not LORA:
            measure = replace(measure, shape=with_kernel(name, measure.shape))
        for part, size in magnitudes.items():
            check_magnitude(part, size, measure.shape)
        return StoredLayer(kind, keys, measure)
    except Misfit as error:
        parts = ", ".join(f"{part} {'×'.join(map(str, size))}" for part, size in sizes.items())
        raise MergeInputError(
            f"{path.name}: the factors of layer {name} do not fit together: {parts}{error}; allowed: {kind.allowed}."
        ) from error
