"""Where the arithmetic runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from lib_pm.core.errors import MergeInputError
from lib_pm.jobs.choices import DEVICES

Result = TypeVar("Result")
MEMORY_SHARE = 0.4  # of the free memory, for each of two layers that are worked on side by side


def choose_device(name: str) -> torch.device:
    """The device of that name; auto takes a GPU if there is one. A MergeInputError if it is not there."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((device for device in ("cuda", "mps") if available[device]), "cpu"))
    kind = (name or "").partition(":")[0]  # what a cleared dropdown gives is None
    if kind not in available:
        raise MergeInputError(f"device is {name!r}; allowed: {', '.join(DEVICES)}.")
    if not available[kind]:
        there = ", ".join(device for device, usable in available.items() if usable)
        raise MergeInputError(f"device is {name!r}, which this machine does not have; it has: {there}.")
    return torch.device(name)


def torch_dtype(name: str) -> torch.dtype:
    """name: one of DTYPES."""
    found: torch.dtype = getattr(torch, name)
    return found


class Device:
    """The device of a job. Under auto, layers that do not fit into its memory go to the CPU, see `fallen_back`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._device = choose_device(name)
        self.fallen_back: list[str] = []

    @property
    def type(self) -> str:
        return self._device.type

    def run(self, layer: str, needed: int, work: Callable[[torch.device], Result]) -> Result:
        """`work` on the device. Full memory on a device that was asked for by name is a MergeInputError.

        needed: about how many bytes it takes there. Under auto it takes no more than MEMORY_SHARE of what is free, so
        that the model which generates images keeps its place.
        """
        if self._name == "auto" and needed > MEMORY_SHARE * free_memory(self._device):
            self.fallen_back.append(layer)
            return work(torch.device("cpu"))
        try:
            with stream_of_its_own(self._device):
                return work(self._device)
        except RuntimeError as error:
            if self._device.type == "cpu" or not ran_out_of_memory(error):
                raise
            if self._name != "auto":
                raise MergeInputError(
                    f"The memory of {self._name} is full at layer {layer}; device auto puts such layers on the CPU."
                ) from error
        self.fallen_back.append(layer)
        return work(torch.device("cpu"))

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a computation; float16 is for GPUs, on the CPU it is slow, and before torch 2.2 not whole."""
        return torch.float32 if name == "float16" and self._device.type == "cpu" else torch_dtype(name)

    def notes(self, dtype: str = "float32") -> list[str]:
        """What the user should know. dtype: the one asked for."""
        notes = []
        if self.dtype(dtype) != torch_dtype(dtype):
            notes.append(f"computed in float32: the CPU is slow in {dtype}")
        if self.fallen_back:
            notes.append(f"{len(self.fallen_back)} layers were done on the CPU: the device's memory was full")
        return notes


def free_memory(device: torch.device) -> float:
    """Bytes that a computation can still have on the device; no limit where there is no telling."""
    if device.type != "cuda":
        return math.inf
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


@contextmanager
def stream_of_its_own(device: torch.device) -> Iterator[None]:
    """What CUDA does inside, it does beside what other threads do on it: one's copies overlap another's arithmetic.

    At the end it is done, so that the results can be used anywhere.
    """
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device said that its memory is full; MPS has no error class of its own for it."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error).lower()
