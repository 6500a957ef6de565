"""The tensors of a `.safetensors` file, each read when it is asked for."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Mapping
from io import BytesIO, FileIO
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.files.header import DTYPES, NAMES, Entry, read_header
from lib_pm.files.reading import reading
from lib_pm.files.stamps import MODEL, Facts

_BLOCK = 1 << 20
# What PEFT and diffusers call the LoRA in a folder of its own.
_IN_FOLDERS = (MODEL, "pytorch_lora_weights.safetensors")


class TensorFile:
    """An open file. Reading is safe from several threads.

    Header, tensors and digest all come from one opening of the file: what somebody puts in its place meanwhile is
    another file, and a change of this one is a MergeInputError.
    safetensors' own reader maps the file into memory, where all that has ever been read of it counts as the process's:
    with many LoRAs, all of them at once.
    """

    def __init__(self, path: Path) -> None:
        """A MergeInputError says what is wrong with the file."""
        self._path = path
        self._lock = threading.Lock()
        self._file, self.facts = self._opened()
        try:
            with reading(path):
                header = read_header(self._file, self.facts.size)
        except BaseException:
            self._file.close()
            raise
        self._entries, self._start, self.metadata = header.entries, header.data, header.metadata

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Return name -> where the tensor is."""
        return self._entries

    def tensor(self, key: str) -> Tensor:
        """Return it on the CPU, in memory of its own.

        A MergeInputError if somebody changed the file since it was opened.
        """
        entry = self._entries[key]
        data = torch.empty(entry.end - entry.start, dtype=torch.uint8)
        self._read_into(data.numpy().data, self._start + entry.start)
        return data.view(DTYPES[entry.dtype]).reshape(entry.shape)

    def digest(self, more: Iterable[bytes] = ()) -> str:
        """Return the SHA-256 of all tensors' bytes, and of `more` after them, hex."""
        digest = hashlib.sha256()
        block = memoryview(bytearray(_BLOCK))
        for start in range(self._start, self.facts.size, _BLOCK):
            part = block[: min(_BLOCK, self.facts.size - start)]
            self._read_into(part, start)
            digest.update(part)
        for data in more:
            digest.update(data)
        return digest.hexdigest()

    def reopen(self) -> bool:
        """Make it as it was before `close`; return False, and leave it closed, if it is another file by now."""
        if not self._file.closed:
            return True
        file, facts = self._opened()
        if facts != self.facts:
            file.close()
            return False
        self._file = file
        return True

    def close(self) -> None:
        self._file.close()

    def _opened(self) -> tuple[FileIO | BytesIO, Facts]:
        with reading(self._path):
            kind = os.stat(self._path).st_mode
            if stat.S_ISDIR(kind):
                inside = [name for name in _IN_FOLDERS if (self._path / name).is_file()]
                give = inside[0] if inside else "a LoRA's .safetensors file"
                raise MergeInputError(f"{self._path} is a folder; give {give}.")
            if not stat.S_ISREG(kind):  # a pipe would wait for its writer
                raise MergeInputError(f"{self._path} is not a file; give a LoRA's .safetensors file.")
            file = FileIO(self._path)
            facts = Facts.of(os.fstat(file.fileno()))
        if facts.size:
            return file, facts
        file.close()
        raise MergeInputError(f"{self._path.name} is empty.")

    def _read_into(self, buffer: memoryview, start: int) -> None:
        with self._lock, reading(self._path):
            self._file.seek(start)
            while len(buffer) and (read := self._file.readinto(buffer)):  # a system reads 2 GB at once at most
                buffer = buffer[read:]
            same = self._is_same()
        if len(buffer):
            raise MergeInputError(f"{self._path.name} was cut off while it was being read.")
        if not same:
            raise MergeInputError(f"{self._path.name} was changed while it was being read; try again.")

    def _is_same(self) -> bool:
        return self.facts.same_content(os.fstat(self._file.fileno()))


class TensorsInMemory(TensorFile):
    """Tensors that are in no file, as the file that they would be: checked, hashed and read in the same way."""

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """name: of the LoRA, for messages. The tensors are copied."""
        for key, tensor in tensors.items():
            if not isinstance(key, str) or not isinstance(tensor, Tensor) or tensor.dtype not in NAMES:
                kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise MergeInputError(f"{name}: {key} is {kind}; allowed: names with tensors of floating point.")
        self._data = save({key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()})
        super().__init__(Path(name))

    def _opened(self) -> tuple[FileIO | BytesIO, Facts]:
        return BytesIO(self._data), Facts(0, len(self._data), 0, 0)

    def _is_same(self) -> bool:
        return True  # a copy of its own
