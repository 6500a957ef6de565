"""Where the arithmetic runs."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from lib_pm.core.choices import DEVICES
from lib_pm.core.errors import MergeInputError, counted

Result = TypeVar("Result")
MEMORY_SHARE = 0.4  # of the free memory, for each of two layers that are worked on side by side


def choose_device(name: str | None) -> torch.device:
    """Return the device of that name, one of DEVICES or cuda:1; a MergeInputError if it is not there.

    auto is CUDA if there is any, else the CPU. It is never mps: nobody has run that yet.
    """
    count = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if name == "auto":
        return torch.device("cuda" if count["cuda"] else "cpu")
    kind, colon, index = (name or "").partition(":")  # what a cleared dropdown gives is None
    if kind not in count or (colon and not (index.isascii() and index.isdecimal() and len(index) < 4)):
        raise MergeInputError(
            f"device is {name!r}; allowed: {', '.join(DEVICES)}, or one of several GPUs, such as cuda:1."
        )
    if int(index or 0) >= count[kind]:
        there = [device for device, many in count.items() if many]
        if count["cuda"] > 1:
            there[1:2] = [f"cuda:{number}" for number in range(count["cuda"])]
        raise MergeInputError(f"device is {name!r}, which this machine does not have; it has: {', '.join(there)}.")
    return torch.device(f"{kind}:{int(index)}" if index else kind)


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's dtype of that name, one of DTYPES."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


class Device:
    """The device of a job. Layers that it cannot take go to the CPU, see `run`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._device = choose_device(name)
        if str(self._device) == "cuda":  # which one that is, each thread is told apart
            self._device = torch.device("cuda", torch.cuda.current_device())
        self._streams = threading.local()
        self.full: list[str] = []  # layers that went to the CPU as they did not fit into the device's memory
        self.unknown: dict[str, str] = {}  # those in which something cannot be computed on it, and what it said

    @property
    def type(self) -> str:
        return self._device.type

    def run(self, layer: str, needed: int, work: Callable[[torch.device], Result]) -> Result:
        """Return the result of `work` on the device, or on the CPU if it does not fit or, on mps, cannot be computed.

        Full memory on CUDA that was asked for by name is a MergeInputError instead.
        needed: about how many bytes it takes there. Under auto it takes no more than MEMORY_SHARE of what is free, so
        that the model which generates images keeps its place.
        """
        if self._name == "auto" and needed > MEMORY_SHARE * free_memory(self._device):
            self.full.append(layer)
            return work(torch.device("cpu"))
        try:
            with self._stream():
                return work(self._device)
        except (RuntimeError, TypeError) as error:
            if self.type == "cpu":
                raise
            if ran_out_of_memory(error):
                if self.type == "cuda" and self._name != "auto":
                    raise MergeInputError(
                        f"{self._name} ran out of memory at layer {layer}; device auto computes such layers on the CPU."
                    ) from error
                self.full.append(layer)
            elif self.type == "mps" and is_not_implemented(error):
                self.unknown[layer] = str(error).partition("\n")[0]
            else:
                raise
        return work(torch.device("cpu"))

    @contextmanager
    def _stream(self) -> Iterator[None]:
        """What a thread does on CUDA inside, it does beside what others do there: copies overlap arithmetic.

        It has one stream for all its layers, for torch keeps memory apart for each. At the end all is done, so that the
        results can be used anywhere.
        """
        if self.type != "cuda":
            yield
            return
        if not hasattr(self._streams, "own"):
            self._streams.own = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._streams.own):
            yield
        self._streams.own.synchronize()

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a computation; float16 only on a GPU, as it is slow or missing on the CPU."""
        return torch.float32 if name == "float16" and self._device.type == "cpu" else torch_dtype(name)

    def notes(self, dtype: str = "float32") -> list[str]:
        """Return what the user should know. dtype: the one asked for."""
        notes = []
        if self.dtype(dtype) != torch_dtype(dtype):
            notes.append(f"computed in float32: the CPU is slow in {dtype}")
        if self.full:
            notes.append(f"{counted(len(self.full), 'layer')} computed on the CPU: the device ran out of memory")
        if self.unknown:
            message = next(iter(self.unknown.values()))
            layers = counted(len(self.unknown), "layer")
            notes.append(f"{layers} computed on the CPU: {self.type} does not support them ({message})")
        return notes


def free_memory(device: torch.device) -> float:
    """Return the bytes that a computation can still have on the device; no limit where there is no telling."""
    if device.type != "cuda":
        return math.inf
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def ran_out_of_memory(error: Exception) -> bool:
    """Return whether a device said that its memory is full; MPS has no error class of its own for it."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error).lower()


def is_not_implemented(error: Exception) -> bool:
    """Return whether MPS said that it lacks an operation or a dtype; it depends on the versions of torch and macOS."""
    return isinstance(error, NotImplementedError) or bool(re.search(r"\bMPS\b", str(error)))
