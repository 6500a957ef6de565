"""The report of a merge or a resize, as values and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lib_pm.files.reader import LoraFile
from lib_pm.merging.layers import Finished
from lib_pm.merging.plan import PlannedLayer


@dataclass
class LoraReport:
    """What became of one LoRA's layers. used: merged. off_by_block: a block weight of 0 switched these off.

    without_alpha: of how many layers of its file the alpha is taken as the rank, as nothing is said of it.
    """

    name: str
    layers: int = 0
    used: int = 0
    off_by_block: list[str] = field(default_factory=list)
    without_alpha: int = 0


@dataclass
class LayerReport:
    """One layer of the result. rank: None for a bias or a norm.

    kept_energy: share of the squared norm that a truncation kept, None if none was made.
    """

    name: str
    rank: int | None
    loras: int
    kept_energy: float | None


@dataclass
class Report:
    """left_out: layers that are not in the result, with the reason. notes: what the user should know."""

    what: str
    loras: list[LoraReport]
    layers: list[LayerReport] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kept_energy: float | None = None
    seconds: float = 0.0
    peak_memory: int | None = None
    file: str = ""
    size: int = 0

    def leave_out(self, layer: PlannedLayer, reason: str) -> None:
        self.left_out[layer.name] = reason

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class ReportWriter:
    """Collects a report while the layers come in."""

    def __init__(self, what: str, files: Iterable[LoraFile]) -> None:
        self.report = Report(what, [LoraReport(file.name, without_alpha=file.without_alpha) for file in files])
        self._kept = self._total = 0.0
        self._truncated = False

    def add(self, planned: PlannedLayer, finished: Finished | None, reason: str) -> None:
        """One layer's outcome; reason: why it was left out, if it was."""
        self._count(planned, used=finished is not None)
        if finished is None:
            self.report.leave_out(planned, reason)
            return
        energy = finished.kept / finished.total if finished.total else None
        self._truncated |= energy is not None
        self._kept += finished.kept
        self._total += finished.total
        loras = sum(source.weight != 0 for source in planned.sources)
        self.report.layers.append(LayerReport(planned.name, finished.rank, loras, energy))

    def _count(self, planned: PlannedLayer, *, used: bool) -> None:
        for source in planned.sources:
            lora = self.report.loras[source.lora]
            lora.layers += 1
            lora.used += used and source.weight != 0
            if source.off_by_block:
                lora.off_by_block.append(source.name)

    def finish(self, seconds: float) -> Report:
        self.report.kept_energy = self._kept / self._total if self._truncated and self._total else None
        self.report.seconds = seconds
        self.report.peak_memory = peak_memory()
        return self.report


def peak_memory() -> int | None:
    """Return the largest resident size of this process so far, in bytes; None where the system does not say (Windows).

    Linux's own file comes first: getrusage there also counts what the parent held when it started this process.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
