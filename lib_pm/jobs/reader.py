"""A LoRA file, read lazily: the header at once, the tensors of a layer when it is its turn."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats.foreign import kind_of, looks_like_checkpoint
from lib_pm.core.formats.lora import Naming, Part, naming_of, split_key
from lib_pm.core.keys.families import Family, detect
from lib_pm.core.layers import Layer, LayerShape, all_finite
from lib_pm.jobs.peft_config import PeftConfig, read_peft_config
from lib_pm.jobs.tensors import DTYPES, TensorFile


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

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def nbytes(self) -> int:
        """About what is held of it in memory: the header."""
        return 2048 * len(self.layers)

    @cached_property
    def common_rank(self) -> int:
        """The rank that most layers have, the largest if there are several such."""
        counts = Counter(layer.rank for layer in self.layers.values())
        return max(counts, key=lambda rank: (counts[rank], rank))

    @cached_property
    def family(self) -> Family:
        shapes = {name: layer.shape for name, layer in self.layers.items()}
        return detect(shapes, self.metadata.get("ss_base_model_version", ""))

    @cached_property
    def content(self) -> str:
        """SHA-256 of the tensor data, hex: kohya's and the WebUI's model hash. Other metadata does not count.

        Where PEFT's settings decide the alphas, they are hashed as well.
        """
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
            while block := file.read(1 << 20):
                digest.update(block)
        if self._peft:
            digest.update(json.dumps(self._peft.components, sort_keys=True).encode())
        return digest.hexdigest()

    def read(self, name: str) -> Layer:
        """The layer's factors on the CPU in the dtype of the file; a CP mid factor is multiplied into the down factor.

        A NaN or an infinity is a MergeInputError.
        """
        stored = self.layers[name]
        up = self._tensor(name, stored, "up").reshape(stored.shape.out, stored.rank)
        down = self._tensor(name, stored, "down")
        if "mid" in stored.keys:
            down = _with_mid(self._tensor(name, stored, "mid"), down)
        return Layer(stored.shape, up, down.reshape(stored.rank, -1), self.alpha(name) / stored.rank)

    def alpha(self, name: str) -> float:
        """The layer's stored alpha, or what PEFT's own settings make it; its rank where nothing is said."""
        stored = self.layers[name]
        if "alpha" in stored.keys:
            return float(self._tensor(name, stored, "alpha"))
        return self._peft.alpha(name, stored.rank) if self._peft else float(stored.rank)

    def dtype(self, name: str) -> str:
        """The dtype of the layer's up factor, as the file format calls it: F32, F16, BF16 …"""
        return self._file.dtype(self.layers[name].keys["up"])

    def _tensor(self, name: str, stored: StoredLayer, part: Part) -> Tensor:
        tensor = self._file.tensor(stored.keys[part])
        if tensor.itemsize == 1:  # float8 can be neither added up nor concatenated with another dtype
            tensor = tensor.float()
        if not all_finite(tensor):
            raise MergeInputError(f"{self.path.name}: layer {name} has a NaN or an infinity in {stored.keys[part]}.")
        return tensor

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> LoraFile:
        self._file.reopen()
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
    with _open_safetensors(path) as header:
        keys = list(header.keys())
        parts = _layers_by_name(path, keys)
        layers = {name: _stored_layer(path, header, name, parts[name]) for name in sorted(parts)}
        metadata = header.metadata() or {}
    peft = read_peft_config(path, metadata)
    kohya = any(naming_of(layer.keys["up"]) == "kohya" for layer in layers.values())
    return LoraFile(path, metadata, "kohya" if kohya else "peft", layers, TensorFile(path), peft)


def _open_safetensors(path: Path) -> Any:
    try:
        if path.is_dir():
            raise MergeInputError(f"{path} is a folder; give a LoRA's .safetensors file.")
        with path.open("rb") as file:  # safe_open calls every file that it may not read missing
            if not file.read(1):
                raise MergeInputError(f"{path.name} is empty.")
        return safe_open(str(path), framework="pt")
    except FileNotFoundError as error:
        raise MergeInputError(f"{path} does not exist; give a LoRA's .safetensors file.") from error
    except SafetensorError as error:
        raise MergeInputError(f"{path.name} is not a .safetensors file, or is damaged or cut off: {error}.") from error
    except OSError as error:
        raise MergeInputError(f"{path} cannot be read: {error.strerror or error}.") from error


def _layers_by_name(path: Path, keys: list[str]) -> dict[str, dict[Part, str]]:
    """name -> part -> key; the file is refused if one of its tensors is anything else."""
    layers: dict[str, dict[Part, str]] = {}
    foreign: list[str] = []
    for key in keys:
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
        raise MergeInputError(_refusal(path, foreign, len(keys)))
    if not layers:
        raise MergeInputError(f"{path.name} has no tensors in it.")
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
    if looks_like_checkpoint(foreign):
        return f"{path.name} is a checkpoint (first tensor {foreign[0]}), not a LoRA."
    return f"{path.name} has {len(foreign)} of {count} tensors that belong to no LoRA layer, first {foreign[0]}."


def _stored_layer(path: Path, file: Any, name: str, keys: Mapping[Part, str]) -> StoredLayer:
    slices = {part: file.get_slice(key) for part, key in keys.items()}
    for part, key in keys.items():
        dtype = slices[part].get_dtype()
        if dtype not in DTYPES or (part != "alpha" and not DTYPES[dtype].is_floating_point):
            raise MergeInputError(f"{path.name}: {key} is of dtype {dtype}; allowed: floating point.")
    shapes = {part: tuple(slices[part].get_shape()) for part in keys}
    numbers = math.prod(shapes.pop("alpha", ()))
    if numbers != 1:
        raise MergeInputError(f"{path.name}: layer {name} has {numbers} numbers in {keys['alpha']}; allowed: one.")
    up, down, mid = shapes["up"], shapes["down"], shapes.get("mid")
    rank = up[1] if len(up) > 1 else 0
    kernel = tuple((mid or down)[2:])
    fits = len(up) in (2, 4) and len(down) in (2, 4) and rank == down[0] and all(size == 1 for size in up[2:])
    if mid:
        fits = fits and mid[:2] == (rank, rank) and len(mid) == 4 and all(size == 1 for size in down[2:])
    if not fits or 0 in (*up, *down):
        sizes = ", ".join(f"{part} {'×'.join(map(str, shape))}" for part, shape in shapes.items())
        raise MergeInputError(
            f"{path.name}: the factors of layer {name} do not fit each other: {sizes}; "
            "allowed: up out×rank, down rank×in (convolutions with their kernel)."
        )
    return StoredLayer(keys, LayerShape(up[0], down[1], kernel), rank)


def _with_mid(mid: Tensor, down: Tensor) -> Tensor:
    """The down factor of a CP layer: mid (r, r, kh, kw) after down (r, in, 1, 1), as (r, in, kh, kw) in float32."""
    return torch.einsum("pqhw,qi->pihw", mid.float(), down.float().flatten(1))


def load_json(text: str) -> Any:
    """The JSON value, or None if the text is none: metadata is written by many tools."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None
