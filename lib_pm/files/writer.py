"""A `.safetensors` file written as a stream: one layer held at a time, whole or not there at all.

The header of the format comes first and needs every size and the hash of all data. Room for the largest header that
can come is left at the start, the data is streamed behind it, and the header, padded with spaces as the format allows,
is put in at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.files.file_names import check_name, twin
from lib_pm.files.header import NAMES
from lib_pm.files.whole_file import WholeFile, already_there, reason

_LEGACY_START, _LEGACY_LENGTH = 0x100000, 0x10000


def header_size(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> int:
    """Return the bytes of the largest possible header. shapes: of each tensor, at its largest.

    metadata: at its longest.
    """
    most = 8 * sum(_numel(shape) for shape in shapes.values())
    entries = {name: _entry("BF16", shape, most, most) for name, shape in shapes.items()}
    return len(_padded_header(entries, metadata))


class StreamWriter:
    """Writes to a `WholeFile`: `finish` puts it in its place, leaving the `with` block removes what is left.

    Every failure of the file system is a MergeInputError that names the file.
    """

    def __init__(self, target: Path, reserved: int, *, overwrite: bool = False) -> None:
        self.target = target
        self._reserved = reserved
        self._entries: dict[str, dict[str, object]] = {}
        self._written = 0
        self._hash = hashlib.sha256()
        check_target(target, overwrite)
        try:
            self._whole = WholeFile(target, overwrite=overwrite)
        except OSError as error:
            raise _file_error(target, error) from error
        self._file = self._whole.file
        self._file.seek(8 + reserved)

    def add(self, name: str, tensor: Tensor) -> None:
        """Append a contiguous CPU tensor. Its bytes are hashed in the order of the calls."""
        data = tensor.reshape(-1).view(torch.uint8).numpy().data
        try:
            self._file.write(data)
        except OSError as error:
            raise _file_error(self.target, error) from error
        end = self._written + len(data)
        self._entries[name] = _entry(NAMES[tensor.dtype], tuple(tensor.shape), self._written, end)
        self._hash.update(data)
        self._written = end

    @property
    def data_hash(self) -> str:
        """Return the SHA-256 of all tensor data so far: kohya's `sshs_model_hash`, which the WebUI shows shortened."""
        return self._hash.hexdigest()

    def legacy_hash(self, training_metadata: Mapping[str, str]) -> str:
        """Return kohya's `sshs_legacy_hash`: 64 KB from offset 1 MB of the file as it would be with this metadata
        alone.
        """
        start = bytes(_padded_header(self._entries, training_metadata))
        start = len(start).to_bytes(8, "little") + start
        window = start[_LEGACY_START : _LEGACY_START + _LEGACY_LENGTH]
        try:
            self._file.flush()
        except OSError as error:
            raise _file_error(self.target, error) from error
        self._file.seek(8 + self._reserved + max(0, _LEGACY_START - len(start)))
        window += self._file.read(_LEGACY_LENGTH - len(window))
        self._file.seek(0, os.SEEK_END)
        return hashlib.sha256(window).hexdigest()[:8]

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the header, flush, and put the file in its place."""
        header = _padded_header(self._entries, metadata)
        if len(header) > self._reserved:
            raise RuntimeError(f"header of {len(header)} bytes, but {self._reserved} were reserved")
        try:
            self._file.seek(0)
            self._file.write(self._reserved.to_bytes(8, "little") + header.ljust(self._reserved))
            self._whole.place()
        except FileExistsError as error:  # it came in the meantime
            raise already_there(self.target) from error
        except OSError as error:
            raise _file_error(self.target, error) from error

    def __enter__(self) -> StreamWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._whole.__exit__(kind, error, trace)


def check_target(target: Path, overwrite: bool) -> None:
    """Raise a MergeInputError if the file cannot be written there; asked before the work begins, not after it."""
    if target.suffix != ".safetensors":
        raise MergeInputError(f"The output {target} should end in .safetensors.")
    check_name(target.stem, "output name")
    try:
        if not target.parent.is_dir():
            raise MergeInputError(f"The output folder {target.parent} does not exist.")
        if target.is_dir():
            raise MergeInputError(f"The output {target} is a folder.")
        if target.exists() and not overwrite:
            raise already_there(target)
        if other := twin(target):
            raise MergeInputError(
                f"{other.name} already exists in {target.parent}, and on Windows and macOS is the same file as "
                f"{target.name}; choose another name, or use that spelling."
            )
    except OSError as error:  # a folder that may not be entered, a name that is too long
        raise _file_error(target, error) from error


def _entry(dtype: str, shape: tuple[int, ...], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def _padded_header(entries: Mapping[str, object], metadata: Mapping[str, str]) -> bytes:
    """Return the header's JSON as the reference implementation writes it: compact, UTF-8, padded to a multiple of 8."""
    text = json.dumps({"__metadata__": dict(metadata), **entries}, separators=(",", ":"), ensure_ascii=False)
    header = text.encode()
    return header.ljust(-(-len(header) // 8) * 8)


def _numel(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _file_error(target: Path, error: OSError) -> MergeInputError:
    return MergeInputError(f"{target} could not be written: {reason(error)}. Nothing was left behind.")
