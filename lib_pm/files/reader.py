"""A LoRA file, read lazily: the header at once, the tensors of a layer when it is its turn."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType

from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats import BIAS, find
from lib_pm.core.formats.foreign import file_kind, is_embedding, kind_of
from lib_pm.core.formats.kind import ALPHA, Kind, Measure, Misfit
from lib_pm.core.formats.lora import LORA, Naming, naming_of
from lib_pm.core.layers import AnyLayer, LayerShape, all_finite
from lib_pm.core.ranks import Rank
from lib_pm.core.visible import whole
from lib_pm.families.detect import detect
from lib_pm.families.families import Family, either
from lib_pm.families.kernels import with_kernel
from lib_pm.files.header import DTYPES, Entry
from lib_pm.files.peft_config import PeftConfig, read_peft_config
from lib_pm.files.stamps import Facts, Stamp
from lib_pm.files.tensors import TensorFile, TensorsInMemory


@dataclass(frozen=True)
class StoredLayer:
    """Where the parts of a layer are in the file, and what is known of it before they are read.

    keys: part -> tensor name. rank: FULL_RANK for a delta.
    """

    kind: Kind
    keys: Mapping[str, str]
    measure: Measure

    @property
    def shape(self) -> LayerShape:
        return self.measure.shape

    @property
    def rank(self) -> Rank:
        return self.measure.rank


@dataclass(frozen=True)
class LoraFile:
    """An open `.safetensors` LoRA. Use as a context manager, or call `close`. A context opens it again.

    layers: name as written -> where it is. vectors: the same for biases, whose names end in BIAS, and norms.
    naming: how the tensors are called. metadata: the header's strings. left_out: tensors that are no part of any layer.
    """

    path: Path
    metadata: Mapping[str, str]
    naming: Naming
    layers: Mapping[str, StoredLayer]
    vectors: Mapping[str, StoredLayer]
    left_out: Sequence[str]
    _file: TensorFile = field(repr=False)
    _peft: PeftConfig | None = None
    _config: Facts | None = None

    @property
    def name(self) -> str:
        return whole(self.path.stem)

    @property
    def stamp(self) -> Stamp:
        """Return the stamp of the files that were opened, which are not always those of that name now."""
        return Stamp(self.path, self._file.facts, self._config)

    @property
    def tensors(self) -> int:
        """Return how many there are."""
        return len(self._file.entries)

    @cached_property
    def nbytes(self) -> int:
        """Return about what is held of it in memory: the header."""
        texts = sum(sys.getsizeof(text) for line in self.metadata.items() for text in line)
        layers = [*self.layers.values(), *self.vectors.values()]
        names = sum(sys.getsizeof(key) for layer in layers for key in layer.keys.values())
        settings = 10 * len(self._peft.content) if self._peft else 0
        return texts + 2 * names + settings + 2048 * len(layers)

    @cached_property
    def common_rank(self) -> int:
        """Return the rank that most layers have, the largest if there are several such; 1 if none has factors."""
        counts = Counter(layer.rank for layer in self.layers.values() if layer.rank is not None)
        return max(counts, key=lambda rank: (counts[rank], rank), default=1)

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """Return the families that it may be for; none if it is for no known one."""
        return detect({name: layer.shape for name, layer in self.layers.items()}, self.metadata)

    @property
    def family(self) -> Family:
        return either(self.families)

    @cached_property
    def content(self) -> str:
        """Return the SHA-256 of the tensor data, hex: kohya's and the WebUI's model hash.

        Other metadata does not count.

        Where PEFT's settings decide the alphas, they are hashed as well.
        """
        return self._file.digest([self._peft.content] if self._peft else [])

    def stored(self, name: str) -> StoredLayer:
        """Return where a layer or a vector is."""
        return self.layers[name] if name in self.layers else self.vectors[name]

    def read(self, name: str) -> AnyLayer:
        """Return the layer on the CPU: factors in the dtype of the file where it has some, else what they make.

        A NaN or an infinity is a MergeInputError.
        """
        stored = self.stored(name)
        tensors = {
            part: self._tensor(name, stored, part) for part in sorted(stored.keys, reverse=True) if part != ALPHA
        }
        return stored.kind.make(tensors, stored.measure, self.scale(name))

    def scale(self, name: str) -> float:
        """Return what the layer's own product is multiplied by: alpha / rank, 1 where there is no rank."""
        stored = self.stored(name)
        if "scaled" in stored.keys:  # a bias of an up factor
            return self.scale(name.removesuffix(BIAS))
        dim = stored.measure.dim
        if dim is None:
            return (self._peft and self._peft.scale(name)) or 1.0
        return self.alpha(name) / dim

    def alpha(self, name: str) -> float:
        """Return the layer's stored alpha, or what PEFT's own settings make it; its rank where nothing is said."""
        stored = self.layers[name]
        rank = stored.measure.dim or 1
        if ALPHA in stored.keys:
            return float(self._tensor(name, stored, ALPHA).reshape(()))
        said = self._peft.alpha(name, rank) if self._peft else None
        return float(rank) if said is None else said

    @cached_property
    def without_alpha(self) -> int:
        """Return how many layers have no alpha, neither stored nor in PEFT's settings: it is taken as the rank."""
        return sum(
            layer.measure.dim is not None
            and ALPHA not in layer.keys
            and (self._peft is None or self._peft.alpha(name, layer.measure.dim) is None)
            for name, layer in self.layers.items()
        )

    @cached_property
    def networks(self) -> Mapping[str, int]:
        """Return of how many layers of each kind it consists, by title."""
        return Counter(layer.kind.title for layer in (*self.layers.values(), *self.vectors.values()))

    def dtype(self, name: str) -> str:
        """Return the dtype of the layer's last factor, as the file format calls it: F32, F16, BF16 …"""
        keys = self.stored(name).keys
        return self._file.entries[keys[max(part for part in keys if part != ALPHA)]].dtype

    def _tensor(self, name: str, stored: StoredLayer, part: str) -> Tensor:
        tensor = self._file.tensor(stored.keys[part])
        if tensor.itemsize == 1:  # float8 can be neither added up nor concatenated with another dtype
            tensor = tensor.float()
        if not all_finite(tensor):
            raise MergeInputError(f"{self.path.name}: layer {name} has a NaN or an infinity in {stored.keys[part]}.")
        return tensor

    def close(self) -> None:
        self._file.close()

    def reopen(self) -> bool:
        """Make it as it was before `close`. False, and it stays closed, if it is another file by now."""
        return self._file.reopen()

    def __enter__(self) -> LoraFile:
        if not self.reopen():
            raise MergeInputError(f"{self.path.name} was replaced after it was read; try again.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_lora(path: Path) -> LoraFile:
    """Open a LoRA file and check from its header that its tensors make layers of the kinds that are read.

    A MergeInputError names the file and says what is wrong: missing, not a safetensors file, truncated, a checkpoint,
    another kind of network (with its name), an up factor without a down factor, shapes that do not fit.
    """
    return _as_lora(path, TensorFile(path))


def open_tensors(name: str, tensors: Mapping[str, Tensor]) -> LoraFile:
    """Return a state dict as the open file that it would be: `open_lora` of what safetensors would write.

    name: of the LoRA, in messages and reports. Errors as for `open_lora`.
    """
    return _as_lora(Path(name), TensorsInMemory(name, tensors))


def _as_lora(path: Path, file: TensorFile) -> LoraFile:
    try:
        parts, left_out = _layers_by_name(path, file.entries)
        layers = {name: _stored_layer(path, file.entries, name, parts[name]) for name in sorted(parts)}
        for name, layer in layers.items():
            if "scaled" in layer.keys and name.removesuffix(BIAS) not in layers:
                raise MergeInputError(f"{path.name}: {layer.keys['scaled']} has no up factor beside it.")
        peft, config = read_peft_config(path, file.metadata)
    except BaseException:
        file.close()
        raise
    vectors = {name: layer for name, layer in layers.items() if layer.shape.vector}
    weights = {name: layer for name, layer in layers.items() if name not in vectors}
    return LoraFile(path, file.metadata, _naming(layers), weights, vectors, left_out, file, peft, config)


def _naming(layers: Mapping[str, StoredLayer]) -> Naming:
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
        found = None if kind_of(key) or is_embedding(key) else find(key)
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


def _stored_layer(path: Path, entries: Mapping[str, Entry], name: str, layer: _Parts) -> StoredLayer:
    kind, keys = layer
    for part, key in keys.items():
        dtype = entries[key].dtype
        if dtype not in DTYPES or (part != ALPHA and not DTYPES[dtype].is_floating_point):
            raise MergeInputError(f"{path.name}: {key} has dtype {dtype}; allowed: floating point.")
    sizes = {part: entries[key].shape for part, key in keys.items()}
    numbers = math.prod(sizes.pop(ALPHA, ()))
    if numbers != 1:
        raise MergeInputError(f"{path.name}: layer {name} has {numbers} values in {keys[ALPHA]}; allowed: one.")
    if kind in (LORA, None):
        for part, other in (("up", "down"), ("down", "up")):
            if part not in keys:
                has = "has only an alpha" if other not in keys else f"has {keys[other]}"
                raise MergeInputError(f"{path.name}: layer {name} {has} but no {part} factor.")
    kind = kind or LORA
    try:
        if any(0 in size or not size for size in sizes.values()):
            raise Misfit
        measure = kind.measure(sizes)
        if kind is not LORA:
            measure = replace(measure, shape=with_kernel(name, measure.shape))
        return StoredLayer(kind, keys, measure)
    except Misfit as error:
        parts = ", ".join(f"{part} {'×'.join(map(str, size))}" for part, size in sizes.items())
        raise MergeInputError(
            f"{path.name}: the factors of layer {name} do not fit together: {parts}{error}; allowed: {kind.allowed}."
        ) from error
