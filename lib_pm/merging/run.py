"""Layers in, report out: what merges and resizes have in common, into memory or into a file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats.lora import WRITTEN, Naming
from lib_pm.files.metadata import hash_metadata, longest_metadata, merged_metadata, rank_metadata
from lib_pm.files.writer import StreamWriter, check_target, header_size
from lib_pm.merging.devices import Device
from lib_pm.merging.layers import Finished, full_name, run_layers
from lib_pm.merging.memory import Need
from lib_pm.merging.plan import Plan, PlannedLayer
from lib_pm.merging.progress import Progress
from lib_pm.merging.report import Report, ReportWriter

FULL_RANK_IN_A_FILE = (
    "svd_rank is full, which only works for applied merges: a saved file would hold every weight of "
    "the model. To save, choose a number."
)
NOTHING_TO_MERGE = "Nothing is left to merge: the strengths, block weights or layer filters switch off every layer."


class Run:
    """One job on the layers of a plan. Iterating finishes them one after another; then there is the report.

    what: what the job is, the report's first line. work: makes one layer, None for one that is left out.
    device: where its layers are made. full_bytes: of the layers at full rank. all_zeros: none so far changes anything.
    """

    def __init__(
        self,
        plan: Plan,
        what: str,
        work: Callable[[PlannedLayer], Finished | None],
        *,
        need: Need,
        device: Device,
        workers: int,
        progress: Progress,
    ) -> None:
        self.plan = plan
        self.full_bytes = 0
        self.all_zeros = True
        self.device = device
        self._work, self._need, self._workers, self._progress = work, need, workers, progress
        self._report = ReportWriter(what, plan.files)
        self._start = time.perf_counter()

    def __iter__(self) -> Generator[Finished]:
        for planned in self.plan.left_out:
            self._report.add(planned, None, "every weight is 0")
        layers = run_layers(self.plan.layers, self._work, self._progress, self._workers, self.device.type, self._need)
        for planned, finished in layers:
            self._report.add(planned, finished, "convolutions, because svd_conv_rank is 0")
            if finished:
                self.all_zeros = self.all_zeros and finished.is_zero
                self.full_bytes += finished.full_bytes
                yield finished

    def write(self, target: Path, metadata: dict[str, str], *, overwrite: bool) -> None:
        """Stream the layers into a LoRA file."""
        with closing(iter(self)) as layers:  # an error in writing ends the work at once
            write_layers(self.plan, layers, target, metadata, overwrite=overwrite)
        self._report.report.file, self._report.report.size = str(target), target.stat().st_size

    def report(self) -> Report:
        """Return the report of all layers, with its times and without notes."""
        return self._report.finish(time.perf_counter() - self._start)


@dataclass(frozen=True)
class Result:
    """A job that was done in memory, and what it takes to save it. recipe: as it is written, None for a resize."""

    report: Report
    _plan: Plan = field(repr=False)
    _layers: Sequence[Finished] = field(repr=False)
    _recipe: Mapping[str, Any] | None = field(default=None, repr=False)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Return the state dict of the result, under the names and in the dtype that its file has."""
        return {name: tensor for layer in self._layers for name, tensor in layer.tensors.items()}

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False, metadata: str = "all") -> Path:
        """Write a `.safetensors` file, whole or not at all, and return its path.

        metadata: how much is written about the inputs, see `metadata.KEEP`. A MergeInputError if it cannot be written,
        if there is nothing to write, or if the layers are at full rank, which is for applying them.
        """
        target = Path(path)
        check_target(target, overwrite)
        if not self._plan.layers:
            raise MergeInputError(NOTHING_TO_MERGE)
        if self._plan.applied_only:
            raise MergeInputError(FULL_RANK_IN_A_FILE)
        texts = merged_metadata(self._plan.files, self._plan.model, target.stem, self._recipe, keep=metadata)
        write_layers(self._plan, self._layers, target, texts, overwrite=overwrite)
        self.report.file, self.report.size = str(target), target.stat().st_size
        return target


def write_layers(
    plan: Plan, finished_layers: Iterable[Finished], target: Path, metadata: dict[str, str], *, overwrite: bool
) -> None:
    """Stream finished layers into a LoRA file; ranks and hashes are added to the metadata at the end."""
    shapes = {name: shape for layer in plan.layers for name, shape in _largest_shapes(layer, plan.naming).items()}
    ranks: list[int] = []
    conv_ranks: list[int] = []
    alphas: set[float] = set()
    written = 0
    with StreamWriter(target, header_size(shapes, longest_metadata(metadata)), overwrite=overwrite) as writer:
        for finished in finished_layers:
            for name in sorted(finished.tensors):
                writer.add(name, finished.tensors[name])
            written += 1
            if finished.alpha and finished.rank:
                (conv_ranks if finished.planned.shape.is_spatial else ranks).append(finished.rank)
                alphas.add(finished.alpha)
        if not written:
            raise MergeInputError("Nothing is left to write: all layers are convolutions, and svd_conv_rank is 0.")
        metadata |= rank_metadata(ranks or conv_ranks, conv_ranks, alphas)
        training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
        metadata |= hash_metadata(writer.data_hash, writer.legacy_hash(training))
        writer.finish(metadata)


def _largest_shapes(layer: PlannedLayer, naming: Naming) -> dict[str, tuple[int, ...]]:
    shape, ones = layer.shape, (1,) * len(layer.shape.kernel)
    if layer.rank is None:
        return {full_name(layer): shape.sizes}
    parts: dict[str, tuple[int, ...]] = {
        "up": (shape.out, layer.rank, *ones),
        "down": (layer.rank, shape.inner, *shape.kernel),
        "alpha": (),
    }
    return {layer.name + ending: parts[part] for part, ending in WRITTEN[naming].items()}
