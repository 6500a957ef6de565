"""The tensors of a `.safetensors` file, each read when it is asked for."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import torch
from torch import Tensor

from lib_pm.core.errors import MergeInputError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}


class TensorFile:
    """An open file whose header is known to be in order. Reading is safe from several threads.

    safetensors' own reader maps the file into memory, where all that has ever been read of it counts as the process's:
    with many LoRAs, all of them at once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        length = int.from_bytes(self._file.read(8), "little")
        self._entries = json.loads(self._file.read(length))
        self._start = 8 + length
        self._lock = threading.Lock()

    def dtype(self, key: str) -> str:
        """As the format calls it: F32, F16, BF16 …"""
        return str(self._entries[key]["dtype"])

    def tensor(self, key: str) -> Tensor:
        """On the CPU, in memory of its own. A MergeInputError if somebody cut the file off since it was opened."""
        entry = self._entries[key]
        start, end = entry["data_offsets"]
        data = torch.empty(end - start, dtype=torch.uint8)
        with self._lock:
            self._file.seek(self._start + start)
            read = self._file.readinto(data.numpy().data)
        if read != len(data):
            raise MergeInputError(f"{self._path.name} was cut off while it was read.")
        return data.view(DTYPES[entry["dtype"]]).reshape(entry["shape"])

    def reopen(self) -> None:
        """Make it as it was before `close`; the file has to be the same still."""
        if self._file.closed:
            self._file = self._path.open("rb", buffering=0)

    def close(self) -> None:
        self._file.close()
