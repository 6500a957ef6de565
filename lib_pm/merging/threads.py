"""Threads on which torch computes alone.

Bytes must not depend on how a sum is split: layers run side by side, each on one thread. `torch.set_num_threads` says
so for the thread that calls it, and for all that touch torch for the first time afterwards, a host's too. What it calls
in the libraries below it is a thread's own, so that is called here.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")
LIBRARIES = ("libtorch_cpu.so", "libtorch_cpu.dylib", "libiomp5md.dll")  # of Linux, macOS, Windows
SETTERS = ("omp_set_num_threads", "MKL_Set_Num_Threads_Local")
_lock = threading.Lock()


def own_threads(count: int) -> ThreadPoolExecutor:
    """Return a pool of so many threads, on each of which torch computes alone, and on no other."""
    return ThreadPoolExecutor(count, "power-merger", initializer=compute_alone)


def compute_alone() -> None:
    """Torch on one thread from now on, in this thread only. Other threads see nothing of it."""
    torch.get_num_threads()  # the first question gives a thread its number, which would undo ours later
    for setter in _setters():
        setter(1)
    if not is_alone():
        _alone_by_torch()


def is_alone() -> bool:
    """Return whether torch, and each library that it computes with, takes one thread for what this thread does."""
    return set(re.findall(r"get_(?:max|num)_threads\(\) : (\d+)", torch.__config__.parallel_info())) == {"1"}


@cache
def _setters() -> list[Callable[[int], None]]:
    folder = Path(torch.__file__).parent / "lib"
    libraries = [ctypes.CDLL(str(folder / name)) for name in LIBRARIES if (folder / name).is_file()]
    return [getattr(library, name) for library in libraries for name in SETTERS if hasattr(library, name)]


def _alone_by_torch() -> None:
    """Where the libraries are out of reach: what new threads get is put back at once, by a thread of its own."""
    if not torch.backends.openmp.is_available():  # type: ignore[no-untyped-call]
        return  # its threads are the process's, and cannot be set once they run
    with _lock:
        others = _on_a_new_thread(torch.get_num_threads)
        torch.set_num_threads(1)
        _on_a_new_thread(lambda: torch.set_num_threads(others))


def _on_a_new_thread(work: Callable[[], Result]) -> Result:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
