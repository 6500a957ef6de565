"""A base model's checkpoint, from which single weights are read: one file, or one component of a diffusers folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.core.rows import Rows
from lib_pm.families.families import Family
from lib_pm.families.layouts import Layout, Part, path_of
from lib_pm.families.names import parse_name
from lib_pm.families.transformers import TRANSFORMERS
from lib_pm.files.header import DTYPES
from lib_pm.files.reader import LoraFile, open_lora
from lib_pm.files.tensors import TensorFile

# Where the text encoders of Stable Diffusion's checkpoints are, and what a LoRA calls them.
_TEXT_ENCODERS = {
    "cond_stage_model.transformer.": "text_encoder.",
    "conditioner.embedders.0.transformer.": "text_encoder.",
    "text_encoders.clip_l.transformer.": "text_encoder.",
    "text_encoders.clip_g.transformer.": "text_encoder_2.",
}
_ENDING = ".weight"
# The tensors of which a weight is made, and which of its rows are which of theirs; no rows: all of it.
_Pieces = tuple[tuple[str, tuple[Rows, ...]], ...]


@contextmanager
def with_base(
    path: str | os.PathLike[str] | None, open_file: Callable[..., LoraFile] = open_lora
) -> Iterator[Callable[[Path], LoraFile]]:
    """Open a base model, and yield what opens LoRAs for it; without a path, `open_file` itself.

    open_file: takes `base`, as `open_lora` does.
    """
    if path is None:
        yield open_file
        return
    with Checkpoint(Path(path)) as base:
        yield partial(open_file, base=base)


class Checkpoint:
    """An open `.safetensors` checkpoint. Use as a context manager. Only its header is held in memory."""

    def __init__(self, path: Path) -> None:
        """A MergeInputError says what is wrong with the file."""
        self._path = path
        self._file = TensorFile(path)

    @property
    def name(self) -> str:
        return self._path.name

    @cached_property
    def _keys(self) -> Mapping[tuple[str, str], str]:
        """Return component and path of each layer -> the tensor of its weight."""
        return {
            _place(key.removesuffix(_ENDING)): key
            for key, entry in self._file.entries.items()
            if key.endswith(_ENDING) and entry.shape
        }

    def size(self, layer: str) -> tuple[int, ...] | None:
        """Return the size of the weight that a LoRA calls by that name, None if there is no such weight."""
        pieces = self._pieces(layer)
        if not pieces:
            return None
        whole = self._file.entries[pieces[0][0]].shape
        rows = [some.count for _, taken in pieces for some in taken]
        return (sum(rows), *whole[1:]) if rows else whole

    def weight(self, layer: str) -> Tensor:
        """Return the weight. One that is packed, as quantized models have it, is a MergeInputError."""
        pieces = self._pieces(layer)
        if not pieces[0][1]:
            return self._tensor(pieces[0][0])
        weight = torch.zeros(self.size(layer) or ())
        for key, taken in pieces:
            tensor = self._tensor(key)
            for rows in taken:
                weight[rows.first : rows.first + rows.count] = tensor[rows.to : rows.to + rows.count]
        return weight

    def _tensor(self, key: str) -> Tensor:
        dtype = self._file.entries[key].dtype
        if dtype not in DTYPES or not DTYPES[dtype].is_floating_point:
            raise MergeInputError(f"{self.name}: {key} has dtype {dtype}; allowed: a model that is not quantized.")
        tensor = self._file.tensor(key)
        return tensor.float() if tensor.itemsize == 1 else tensor

    def _pieces(self, layer: str) -> _Pieces:
        """Return the tensors that a layer's weight is made of; none if the model has no such layer.

        A LoRA's trainer may call and cut the layers otherwise than the checkpoint does.
        """
        place = _place(layer)
        if place in self._keys:
            return ((self._keys[place], ()),)
        found = {pieces for family in TRANSFORMERS for pieces in self._elsewhere(family, *place)}
        return found.pop() if len(found) == 1 else ()

    def _elsewhere(self, family: Family, component: str, path: str) -> Iterator[_Pieces]:
        """Yield what a layer of a family is under the names of the family's other layouts."""
        for layout in family.layouts if component == "unet" else ():
            found = layout.find(path)
            for other in family.layouts if found else ():
                if found and (pieces := self._in_layout(other, *found)):
                    yield pieces

    def _in_layout(self, layout: Layout, part: Part, number: str) -> _Pieces:
        pieces = []
        for theirs, rows in layout.place(part):
            key = self._keys.get(("unet", path_of(theirs.named(number))))
            if key is None:
                return ()
            unit = self._file.entries[key].shape[0] // theirs.size
            pieces.append((key, tuple(some.times(unit) for some in rows)))
        return tuple(pieces)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _place(name: str) -> tuple[str, str]:
    for start, text_encoder in _TEXT_ENCODERS.items():
        if name.startswith(start):
            name = text_encoder + name.removeprefix(start)
    component, path = parse_name(name)
    return component or "unet", path  # a name without a component is of the denoiser
