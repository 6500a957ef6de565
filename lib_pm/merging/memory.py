"""How much memory the CPU has left for a job, and how many layers side by side fit into it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from lib_pm.core.errors import MergeInputError
from lib_pm.merging.plan import PlannedLayer

Result = TypeVar("Result")
MOST = 0.8  # of the free memory, for layers side by side: how much they take is known to about a fifth
THREAD = 72 << 20  # addresses that a thread reserves for its stack and for what it will allocate
ADVICE = "Use fewer LoRAs at once, or close other programs that need memory"


@dataclass(frozen=True)
class Need:
    """What a job takes of the memory: each layer while it is worked on, and what is held until the end. In bytes."""

    layer: Callable[[PlannedLayer], int]
    held: int = 0
    advice: str = ADVICE

    def workers(self, wanted: int, layers: Sequence[PlannedLayer]) -> int:
        """Return how many layers may be worked on side by side, `wanted` at most.

        A MergeInputError if not even one fits.
        """
        free = free_memory() - self.held
        largest = max(layers, key=self.layer, default=None)
        if largest is None or math.isinf(free):
            return wanted
        most = self.layer(largest)
        if most > free:
            held = f" on top of {_size(self.held)} for the result" if self.held else ""
            raise MergeInputError(
                f"Layer {largest.name} needs about {_size(most)} of memory{held}, but only "
                f"{_size(free + self.held)} is free. {self.advice}."
            )
        return max(1, min(wanted, int(MOST * free / most))) if most else wanted

    def watched(self, work: Callable[[PlannedLayer], Result]) -> Callable[[PlannedLayer], Result]:
        """Return the work with a MergeInputError where the memory is full after all."""

        def watched(layer: PlannedLayer) -> Result:
            try:
                return work(layer)
            except (MemoryError, RuntimeError) as error:
                if not is_full(error):
                    raise
                free = free_memory()
                left = "" if math.isinf(free) else f"; {_size(free)} is free"
                raise MergeInputError(
                    f"Out of memory at layer {layer.name}, which needs about {_size(self.layer(layer))}{left}. "
                    f"{self.advice}."
                ) from error

        return watched


NOTHING = Need(lambda layer: 0)


def is_full(error: Exception) -> bool:
    """Return whether numpy, torch (on Linux and macOS, on Windows) or C++ below it says so."""
    messages = ("can't allocate memory", "not enough memory", "bad_alloc")
    return isinstance(error, MemoryError) or any(words in str(error) for words in messages)


def free_memory(root: Path = Path("/")) -> float:
    """Return the bytes that this process can still have: of the machine, of its container, of its limit (`ulimit -v`).

    No limit where there is no telling, as on Windows and macOS. root: where /proc and /sys are.
    """
    return max(0.0, min((math.inf, *_of_the_machine(root), *_of_cgroups(root), *_of_the_process(root))))


def _of_the_machine(root: Path) -> Iterator[float]:
    if found := re.search(r"^MemAvailable: +(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE):
        yield 1024.0 * int(found[1])


def _of_cgroups(root: Path) -> Iterator[float]:
    """Yield the process's group and those around it, by the files of version 2 or those of version 1."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        files = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        own = PurePosixPath(name.lstrip("/"))
        for group in (own, *own.parents):  # in a container the names may be those outside: then only the last is there
            most, used = (_read(top / group / file).strip() for file in files)
            if most.isdecimal() and used.isdecimal():
                cached = re.findall(r"^(?:in)?active_file (\d+)", _read(top / group / "memory.stat"), re.MULTILINE)
                yield int(most) - int(used) + sum(map(int, cached))


def _of_the_process(root: Path) -> Iterator[float]:
    try:
        import resource  # not on Windows
    except ImportError:
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    found = re.search(r"^VmSize:\s+(\d+) kB", _read(root / "proc/self/status"), re.MULTILINE)
    if limit != resource.RLIM_INFINITY and found:
        yield limit - 1024.0 * int(found[1]) - THREAD


def _read(path: Path) -> str:
    """Return the text of a file; nothing where there is none, or none that may be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _size(size: float) -> str:
    return f"{max(0.0, size) / 2**20:.0f} MB"
