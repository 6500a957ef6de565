"""The header of a `.safetensors` file: what tensors it says there are, checked before one of them is read.

Anybody can write one. So it is read by its own narrow grammar, not as JSON of any kind: what is not in the format is
refused at the place where it is, before memory is taken for it, and what is kept stays small.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import torch

from lib_pm.core.formats.foreign import begins_as

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
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_LENGTH = 100_000_000  # of a header, in bytes: the format's own limit
MAX_TENSORS = 1 << 15  # the largest LoRAs have some thousands
MAX_LINES = 1 << 14  # of metadata; trainers write about a hundred
MAX_NAME = 1000  # characters of a tensor's name; real ones have up to two hundred
_METADATA = "__metadata__"
_SPACE = re.compile(r"[ \t\n\r]*")
_ENTRY = re.compile(r"\{[^{}]{0,1000}\}")
_DECODER = json.JSONDecoder()


class Damaged(ValueError):
    """The message says what is wrong, as the end of a sentence."""


class OtherKind(Damaged):
    """The message says what the file is, as the end of a sentence."""


class Entry(NamedTuple):
    """Where a tensor is. dtype: as the format calls it. start, end: bytes, from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """data: where in the file the tensors begin."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    data: int


def read_header(file: IO[bytes], size: int) -> Header:
    """Return the header of a file of `size` bytes, open at its start.

    Damaged if it is not one, or does not fit the file.
    """
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        if kind := begins_as(start + file.read(32)):
            raise OtherKind(kind)
        raise Damaged("it is shorter than its own header says")
    if length > MAX_LENGTH:
        raise Damaged(f"its header has {length} bytes; allowed: {MAX_LENGTH}")
    data = file.read(length)
    if len(data) < length:
        raise Damaged("it was cut off while it was being read")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Damaged("its header is not UTF-8 text") from error
    del data
    entries, metadata = _Reader(text).header()
    _check_layout(entries, size - 8 - length)
    return Header(entries, metadata, 8 + length)


class _Reader:
    """Goes through the text of a header. at: the place of what comes next."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def header(self) -> tuple[dict[str, Entry], dict[str, str]]:
        entries: dict[str, Entry] = {}
        metadata: dict[str, str] = {}
        for name in self._names("a tensor"):
            if name == _METADATA:
                metadata = self._metadata()
            elif name in entries:
                raise Damaged(f"the tensor {name} appears twice")
            elif len(name) > MAX_NAME:
                raise Damaged(f"a tensor name has {len(name)} characters ({name[:40]}…); allowed: {MAX_NAME}")
            elif len(entries) == MAX_TENSORS:
                raise Damaged(f"it has more than {MAX_TENSORS} tensors; no LoRA has that many")
            else:
                entries[name] = self._entry(name)
        self._skip_space()
        if self._at < len(self._text):
            raise Damaged(f"there is extra text after its header, at character {self._at}")
        return entries, metadata

    def _metadata(self) -> dict[str, str]:
        if self._next() == "n" and self._text.startswith("null", self._at):
            self._at += 4
            return {}
        metadata: dict[str, str] = {}
        for name in self._names("a metadata entry"):
            if name in metadata:
                raise Damaged(f"the metadata {name[:MAX_NAME]} appears twice")
            if len(metadata) == MAX_LINES:
                raise Damaged(f"it has more than {MAX_LINES} metadata entries")
            if self._next() != '"':
                raise Damaged(f"its metadata {name[:MAX_NAME]} is not text")
            metadata[name] = self._string()
        return metadata

    def _entry(self, name: str) -> Entry:
        self._skip_space()
        found = _ENTRY.match(self._text, self._at)
        try:
            value = json.loads(found[0], object_pairs_hook=_once) if found else None
        except (ValueError, RecursionError):
            value = None
        if not found or not value or not _is_entry(value):
            raise Damaged(f"its entry for the tensor {name} cannot be read")
        self._at = found.end()
        dtype, shape, (start, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
        if dtype in DTYPES and math.prod(shape) * DTYPES[dtype].itemsize != end - start:
            raise Damaged(f"the tensor {name} has {end - start} bytes, which does not match its shape and dtype")
        return Entry(dtype, shape, start, end)

    def _names(self, what: str) -> Iterator[str]:
        """Yield each name of an object, the place being that of its value, which has to be read before the next
        name.
        """
        self._take("{")
        if self._next() == "}":
            self._at += 1
            return
        while True:
            if self._next() != '"':
                raise Damaged(f"the name of {what} is missing at character {self._at}")
            name = self._string()
            self._take(":")
            yield name
            if self._next() == "}":
                self._at += 1
                return
            self._take(",")

    def _string(self) -> str:
        try:
            text, self._at = _DECODER.raw_decode(self._text, self._at)
            if not text.isascii():
                text.encode("utf-8")  # an escape can hold half a character
        except ValueError as error:
            raise Damaged(f"a string in its header cannot be read, at character {self._at}") from error
        return str(text)

    def _next(self) -> str:
        sign = self._text[self._at : self._at + 1]
        if not sign.isspace():  # as nearly always: files are written without any
            return sign
        self._skip_space()
        return self._text[self._at : self._at + 1]

    def _take(self, sign: str) -> None:
        if self._next() != sign:
            raise Damaged(f"its header should have {sign} at character {self._at}")
        self._at += 1

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name appears twice")
    return value


def _is_entry(value: dict[str, Any]) -> bool:
    shape, offsets = value.get("shape"), value.get("data_offsets")
    return (
        isinstance(value.get("dtype"), str)
        and isinstance(shape, list)
        and isinstance(offsets, list)
        and len(offsets) == 2
        and all(type(number) is int and number >= 0 for number in (*shape, *offsets))
    )


def _check_layout(entries: dict[str, Entry], size: int) -> None:
    """Tensors follow each other from the first to the last of `size` bytes, as the format asks."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != end or entry.end < entry.start:
            raise Damaged(f"the tensor {name} does not begin where the one before it ends")
        end = entry.end
    if end != size:
        raise Damaged(f"its tensors end at byte {end} of {size}")
