"""A LoRA file, read lazily: the header at once, the tensors of a layer when it is its turn."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType

from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats import BIAS
from lib_pm.core.formats.base import WEIGHT, BaseWeights
from lib_pm.core.formats.dora import decomposed
from lib_pm.core.formats.kind import ALPHA
from lib_pm.core.formats.lora import Naming
from lib_pm.core.layers import AnyLayer, LayerShape, all_finite
from lib_pm.core.visible import whole
from lib_pm.families.detect import detect
from lib_pm.families.families import Family, either
from lib_pm.files.peft_config import PeftConfig, read_peft_config
from lib_pm.files.stamps import Facts, Stamp
from lib_pm.files.stored_layers import StoredLayer, naming_of_file, size_in_base, stored_layers
from lib_pm.files.tensors import TensorFile, TensorsInMemory


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
    _base: BaseWeights | None = field(default=None, repr=False)
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

    @property
    def names(self) -> list[str]:
        """Return the names of all layers, vectors last."""
        return [*self.layers, *self.vectors]

    def stored(self, name: str) -> StoredLayer:
        """Return where a layer or a vector is."""
        return self.layers[name] if name in self.layers else self.vectors[name]

    def read(self, name: str) -> AnyLayer:
        """Return the layer on the CPU: factors in the dtype of the file where it has some, else what they make.

        A NaN or an infinity is a MergeInputError.
        """
        stored = self.stored(name)
        tensors = {
            part: self._tensor(name, stored, part)
            for part in sorted(stored.keys, reverse=True)
            if part != ALPHA or stored.kind.needs_weight
        }
        if stored.kind.needs_weight:
            tensors[WEIGHT] = self._weight(name, stored)
        lengths = tensors.pop(stored.magnitude) if stored.magnitude else None
        layer = stored.kind.make(tensors, stored.measure, self.scale(name))
        if stored.magnitude is None or lengths is None:
            return layer
        return decomposed(layer, stored.magnitude, lengths, self._weight(name, stored))

    @property
    def base(self) -> str:
        """Return the name of the base model whose weights it needs, "" if it needs none."""
        needs = any(stored.needs_weight for stored in self.layers.values())
        return self._base.name if self._base and needs else ""

    def check_base(self) -> None:
        """Raise a MergeInputError if the base model's weights are needed, and are not there or do not fit."""
        for name, stored in self.layers.items():
            if not stored.needs_weight:
                continue
            shape = LayerShape.of(size_in_base(self.path, name, stored.title, self._base))
            if not shape.fits(stored.shape):
                raise MergeInputError(
                    f"{self.path.name}: layer {name} changes a weight of {stored.shape}, but that of the base model is "
                    f"{shape}. Is it another model?"
                )

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

    def dtype(self, name: str) -> str:
        """Return the dtype of the layer's last factor, as the file format calls it: F32, F16, BF16 …"""
        keys = self.stored(name).keys
        return self._file.entries[keys[max(part for part in keys if part != ALPHA)]].dtype

    def _weight(self, name: str, stored: StoredLayer) -> Tensor:
        """Return the base model's weight."""
        size_in_base(self.path, name, stored.title, self._base)  # there is one
        assert self._base
        weight = self._base.weight(name)
        if not all_finite(weight):
            raise MergeInputError(f"{self._base.name}: the weight of layer {name} has a NaN or an infinity.")
        return weight

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


def open_lora(path: Path, base: BaseWeights | None = None) -> LoraFile:
    """Open a LoRA file and check from its header that its tensors make layers of the kinds that are read.

    A MergeInputError names the file and says what is wrong: missing, not a safetensors file, truncated, a checkpoint,
    another kind of network (with its name), an up factor without a down factor, shapes that do not fit.
    base: the base model, for kinds that need its weights. Without it some of them are opened, to look at, others not.
    """
    return _as_lora(path, TensorFile(path), base)


def open_tensors(name: str, tensors: Mapping[str, Tensor], base: BaseWeights | None = None) -> LoraFile:
    """Return a state dict as the open file that it would be: `open_lora` of what safetensors would write.

    name: of the LoRA, in messages and reports. Errors as for `open_lora`.
    """
    return _as_lora(Path(name), TensorsInMemory(name, tensors), base)


def _as_lora(path: Path, file: TensorFile, base: BaseWeights | None) -> LoraFile:
    try:
        layers, left_out = stored_layers(path, file.entries, base)
        peft, config = read_peft_config(path, file.metadata)
        if peft and peft.dora and not any(layer.magnitude for layer in layers.values()):
            raise MergeInputError(f"{path.name} is DoRA by its PEFT settings (use_dora), but has no magnitudes.")
    except BaseException:
        file.close()
        raise
    vectors = {name: layer for name, layer in layers.items() if layer.shape.vector}
    weights = {name: layer for name, layer in layers.items() if name not in vectors}
    return LoraFile(path, file.metadata, naming_of_file(layers), weights, vectors, left_out, file, base, peft, config)
