"""A base model's checkpoint, from which single weights are read: one file, or one component of a diffusers folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType

from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.families.names import parse_name
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
        return {_place(key.removesuffix(_ENDING)): key for key in self._file.entries if key.endswith(_ENDING)}

    def size(self, layer: str) -> tuple[int, ...] | None:
        """Return the size of the weight that a LoRA calls by that name, None if there is no such weight."""
        key = self._keys.get(_place(layer))
        return self._file.entries[key].shape if key else None

    def weight(self, layer: str) -> Tensor:
        """Return the weight. One that is packed, as quantized models have it, is a MergeInputError."""
        key = self._keys[_place(layer)]
        dtype = self._file.entries[key].dtype
        if dtype not in DTYPES or not DTYPES[dtype].is_floating_point:
            raise MergeInputError(f"{self.name}: {key} has dtype {dtype}; allowed: a model that is not quantized.")
        tensor = self._file.tensor(key)
        return tensor.float() if tensor.itemsize == 1 else tensor

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
