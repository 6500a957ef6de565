"""Where the arithmetic runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lib_pm.core.errors import MergeInputError

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
