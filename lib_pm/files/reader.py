"""A LoRA file, read lazily: the header at once, the tensors of a layer when it is its turn."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats.foreign import file_kind, kind_of
from lib_pm.core.formats.lora import Naming, Part, naming_of, split_key
from lib_pm.core.layers import Layer, LayerShape, all_finite
from lib_pm.core.visible import whole
from lib_pm.families.detect import detect
from lib_pm.families.families import Family, either
from lib_pm.files.header import DTYPES, Entry
from lib_pm.files.peft_config import PeftConfig, read_peft_config
from lib_pm.files.stamps import Facts, Stamp
from lib_pm.files.tensors import TensorFile, TensorsInMemory

# A mid factor multiplied into the down factor may have this many numbers, or so many times those of the layer's own
# factors, whichever is more. Of what models have, 3×3 at 2560 channels and rank 256 comes to 6 million; a file of a
# few megabytes could ask for a thousand times that with a kernel that no model has.
MOST_OF_MID = 1 << 23
MOST_TIMES_STORED = 4


@dataclass(frozen=True)
class StoredLayer:
    """Where the parts of a layer are in the file, and their shapes. keys: part -> tensor name."""

    keys: Mapping[Part, str]
    shape: LayerShape
    rank: int


@dataclass(frozen=True)
class LoraFile:
    """An open `.safetensors` LoRA. Use as a context manager, or call `close`. A context opens it again.

    layers: name as written -> where it is. naming: how the tensors are called. metadata: the header's strings.
    """

    path: Path
    metadata: Mapping[str, str]
    naming: Naming
    layers: Mapping[str, StoredLayer]
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

    @cached_property
    def nbytes(self) -> int:
        """Return about what is held of it in memory: the header."""
        texts = sum(sys.getsizeof(text) for line in self.metadata.items() for text in line)
        names = sum(sys.getsizeof(key) for layer in self.layers.values() for key in layer.keys.values())
        settings = 10 * len(self._peft.content) if self._peft else 0
        return texts + 2 * names + settings + 2048 * len(self.layers)

    @cached_property
    def common_rank(self) -> int:
        """Return the rank that most layers have, the largest if there are several such."""
        counts = Counter(layer.rank for layer in self.layers.values())
        return max(counts, key=lambda rank: (counts[rank], rank))

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

    def read(self, name: str) -> Layer:
        """Return the layer's factors on the CPU in the dtype of the file; a CP mid factor is part of the down factor.

        A NaN or an infinity is a MergeInputError.
        """
        stored = self.layers[name]
        up = self._tensor(name, stored, "up").reshape(stored.shape.out, stored.rank)
        down = self._tensor(name, stored, "down")
        if "mid" in stored.keys:
            down = _with_mid(self._tensor(name, stored, "mid"), down)
        return Layer(stored.shape, up, down.reshape(stored.rank, -1), self.alpha(name) / stored.rank)

    def alpha(self, name: str) -> float:
        """Return the layer's stored alpha, or what PEFT's own settings make it; its rank where nothing is said."""
        stored = self.layers[name]
        if "alpha" in stored.keys:
            return float(self._tensor(name, stored, "alpha").reshape(()))
        said = self._peft.alpha(name, stored.rank) if self._peft else None
        return float(stored.rank) if said is None else said

    @cached_property
    def without_alpha(self) -> int:
        """Return how many layers have no alpha, neither stored nor in PEFT's settings: it is taken as the rank."""
        return sum(
            "alpha" not in layer.keys and (self._peft is None or self._peft.alpha(name, layer.rank) is None)
            for name, layer in self.layers.items()
        )

    def dtype(self, name: str) -> str:
        """Return the dtype of the layer's up factor, as the file format calls it: F32, F16, BF16 …"""
        return self._file.entries[self.layers[name].keys["up"]].dtype

    def _tensor(self, name: str, stored: StoredLayer, part: Part) -> Tensor:
        tensor = self._file.tensor(stored.keys[part])
        if tensor.itemsize == 1:  # float8 can be neither added up nor concatenated with another dtype
            tensor = tensor.float()
        if not all_finite(tensor):
            raise MergeInputError(f"{self.path.name}: layer {name} has a NaN or an infinity in {stored.keys[part]}.")
        return tensor

    def close(self) -> None:
        self._file.close()

    def reopen(self) -> bool:
        """Make it as it was before `close`; return False, and leave it closed, if it is another file by now."""
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
    """Open a LoRA file and check from its header that every tensor is a part of a plain LoRA layer.

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
        parts = _layers_by_name(path, file.entries)
        layers = {name: _stored_layer(path, file.entries, name, parts[name]) for name in sorted(parts)}
        peft, config = read_peft_config(path, file.metadata)
    except BaseException:
        file.close()
        raise
    kohya = any(naming_of(layer.keys["up"]) == "kohya" for layer in layers.values())
    return LoraFile(path, file.metadata, "kohya" if kohya else "peft", layers, file, peft, config)


def _layers_by_name(path: Path, entries: Mapping[str, Entry]) -> dict[str, dict[Part, str]]:
    """Return name -> part -> key; the file is refused if one of its tensors is anything else."""
    layers: dict[str, dict[Part, str]] = {}
    foreign: list[str] = []
    for key in sorted(entries):
        found = None if kind_of(key) else split_key(key)
        if found is None:
            foreign.append(key)
        else:
            name, part = found
            parts = layers.setdefault(name, {})
            if part in parts:
                raise MergeInputError(f"{path.name}: layer {name} has two {part} factors: {parts[part]} and {key}.")
            parts[part] = key
    if foreign:
        raise MergeInputError(_refusal(path, foreign, len(entries)))
    if not layers:
        raise MergeInputError(f"{path.name} contains no tensors.")
    for name, parts in layers.items():
        for part, other in (("up", "down"), ("down", "up")):
            if part not in parts:
                has = "has only an alpha" if other not in parts else f"has {parts[other]}"
                raise MergeInputError(f"{path.name}: layer {name} {has} but no {part} factor.")
    return layers


def _refusal(path: Path, foreign: list[str], count: int) -> str:
    kinds = sorted({kind for key in foreign if (kind := kind_of(key))})
    if kinds:
        return (
            f"{path.name} is not a plain LoRA but {', '.join(kinds)} ({len(foreign)} of {count} tensors, "
            f"first {foreign[0]}); this kind is not supported yet."
        )
    if len(foreign) == count and (kind := file_kind(foreign)):
        return f"{path.name} is {kind} (first tensor {foreign[0]}), not a LoRA."
    return f"{path.name} has {len(foreign)} of {count} tensors that belong to no LoRA layer, the first is {foreign[0]}."


def _stored_layer(path: Path, entries: Mapping[str, Entry], name: str, keys: Mapping[Part, str]) -> StoredLayer:
    for part, key in keys.items():
        dtype = entries[key].dtype
        if dtype not in DTYPES or (part != "alpha" and not DTYPES[dtype].is_floating_point):
            raise MergeInputError(f"{path.name}: {key} has dtype {dtype}; allowed: floating point.")
    shapes = {part: entries[key].shape for part, key in keys.items()}
    numbers = math.prod(shapes.pop("alpha", ()))
    if numbers != 1:
        raise MergeInputError(f"{path.name}: layer {name} has {numbers} values in {keys['alpha']}; allowed: one.")
    up, down, mid = shapes["up"], shapes["down"], shapes.get("mid")
    rank = up[1] if len(up) > 1 else 0
    kernel = (down if mid is None else mid)[2:]
    fits = len(up) in (2, 4) and len(down) in (2, 4) and rank == down[0] and all(size == 1 for size in up[2:])
    if mid is not None:
        fits = fits and mid[:2] == (rank, rank) and len(mid) == 4 and all(size == 1 for size in down[2:])
    if not fits or 0 in (*up, *down, *kernel):
        raise MergeInputError(
            f"{path.name}: the factors of layer {name} do not fit together: {_sizes(shapes)}; "
            "allowed: up out×rank, down rank×in (convolutions with their kernel)."
        )
    if mid is not None:
        multiplied, stored = math.prod(down) * math.prod(kernel), sum(map(math.prod, shapes.values()))
        if multiplied > max(MOST_OF_MID, MOST_TIMES_STORED * stored):
            raise MergeInputError(
                f"{path.name}: the mid factor of layer {name} expands too much: {_sizes(shapes)} give "
                f"{multiplied} numbers from {stored} stored ones; allowed: {MOST_OF_MID}, or "
                f"{MOST_TIMES_STORED} times the stored ones."
            )
    return StoredLayer(keys, LayerShape(up[0], down[1], kernel), rank)


def _sizes(shapes: Mapping[Part, Iterable[int]]) -> str:
    return ", ".join(f"{part} {'×'.join(map(str, shape))}" for part, shape in shapes.items())


def _with_mid(mid: Tensor, down: Tensor) -> Tensor:
    """Return the down factor of a CP layer: mid (r, r, kh, kw) after down (r, in, 1, 1), as (r, in, kh, kw) in float32.

    Added up in float64 and rounded once: in float32 each processor rounds in an order of its own.
    """
    return torch.einsum("pqhw,qi->pihw", mid.double(), down.double().flatten(1)).float()
