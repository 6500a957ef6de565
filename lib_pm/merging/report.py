"""What a job did, as text and as JSON."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lib_pm.core.errors import counted
from lib_pm.core.visible import as_lines
from lib_pm.files.contents import no_alpha
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

    @property
    def no_alpha(self) -> str:
        return no_alpha(self.without_alpha, self.layers)


@dataclass
class LayerReport:
    """One layer of the result. kept_energy: share of the squared norm that a truncation kept, None if none was made."""

    name: str
    rank: int
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

    def to_text(self, *, every_layer: bool = False) -> str:
        """A few lines; with every_layer one more per layer."""
        lines = [self.what]
        for lora in self.loras:
            off = f", {len(lora.off_by_block)} switched off by block weights" if lora.off_by_block else ""
            alpha = f", {lora.no_alpha}" if lora.no_alpha else ""
            lines.append(f"  {lora.name}: {lora.used} of {lora.layers} layers used{off}{alpha}")
        ranks = Counter(layer.rank for layer in self.layers)
        lines.append(f"  result: {counted(len(self.layers), 'layer')}, rank {_ranks(ranks)}")
        for reason, count in Counter(self.left_out.values()).items():
            first = next(name for name, why in self.left_out.items() if why == reason)
            lines.append(f"  left out: {counted(count, 'layer')}, {reason} (first {first})")
        if self.kept_energy is not None:
            lowest = min((layer for layer in self.layers if layer.kept_energy is not None), key=_energy)
            lines.append(
                f"  kept energy: {self.kept_energy:.2%} overall, lowest {_energy(lowest):.2%} in {lowest.name}"
            )
        lines += [f"  note: {note}" for note in self.notes]
        if every_layer:
            lines += [f"  {layer.name}: rank {layer.rank}{_energy_text(layer)}" for layer in self.layers]
        memory = f", peak memory {self.peak_memory / 2**20:.0f} MB" if self.peak_memory else ""
        lines.append(f"  {self.seconds:.2f} s{memory}")
        if self.file:
            lines.append(f"  written: {self.file} ({self.size / 2**20:.1f} MB)")
        return as_lines(lines)


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
    """Largest resident size of this process so far, in bytes; None where the system does not tell it (Windows).

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


def _energy(layer: LayerReport) -> float:
    return 1.0 if layer.kept_energy is None else layer.kept_energy


def _energy_text(layer: LayerReport) -> str:
    return "" if layer.kept_energy is None else f", kept energy {layer.kept_energy:.2%}"


def _ranks(ranks: Counter[int]) -> str:
    if len(ranks) == 1:
        return str(next(iter(ranks)))
    return f"{min(ranks)} to {max(ranks)}" if ranks else "none"
