"""Where the arithmetic runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from lib_pm.core.errors import MergeInputError
from lib_pm.jobs.recipe import DTYPES

Result = TypeVar("Result")
DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str) -> torch.device:
    """The device of that name; auto takes a GPU if there is one. A MergeInputError if it is not there."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((device for device in ("cuda", "mps") if available[device]), "cpu"))
    kind = name.partition(":")[0]
    if kind not in available:
        raise MergeInputError(f"device is {name!r}; allowed: {', '.join(DEVICES)}.")
    if not available[kind]:
        there = ", ".join(device for device, usable in available.items() if usable)
        raise MergeInputError(f"device is {name!r}, which this machine does not have; it has: {there}.")
    return torch.device(name)


class Device:
    """The device of a job. Under auto, layers that do not fit into its memory go to the CPU, see `fallen_back`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._device = choose_device(name)
        self.fallen_back: list[str] = []

    def run(self, layer: str, work: Callable[[torch.device], Result]) -> Result:
        """`work` on the device. Full memory on a device that was asked for by name is a MergeInputError."""
        try:
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
        return torch.float32 if name == "float16" and self._device.type == "cpu" else DTYPES[name]

    def notes(self, dtype: str = "float32") -> list[str]:
        """What the user should know. dtype: the one asked for."""
        notes = []
        if self.dtype(dtype) != DTYPES[dtype]:
            notes.append(f"computed in float32: the CPU is slow in {dtype}")
        if self.fallen_back:
            notes.append(f"{len(self.fallen_back)} layers were done on the CPU: the device's memory was full")
        return notes


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device said that its memory is full; MPS has no error class of its own for it."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error).lower()


@contextmanager
def one_thread_per_layer() -> Iterator[None]:
    """Torch on one thread inside: bytes must not depend on how a sum is split, and layers run side by side instead."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
