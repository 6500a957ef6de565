"""Layers in, report out: what merges and resizes have in common, into memory or into a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats.lora import WRITTEN, Naming
from lib_pm.files.metadata import hash_metadata, longest_metadata, rank_metadata
from lib_pm.files.writer import StreamWriter, header_size
from lib_pm.merging.devices import Device
from lib_pm.merging.layers import Finished, run_layers
from lib_pm.merging.memory import Need
from lib_pm.merging.plan import Plan, PlannedLayer
from lib_pm.merging.progress import Progress
from lib_pm.merging.report import Report, ReportWriter


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
            self._report.add(planned, finished, "convolutions, as svd_conv_rank is 0")
            if finished:
                self.all_zeros = self.all_zeros and finished.is_zero
                self.full_bytes += finished.full_bytes
                yield finished

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of all layers, as they would be written."""
        return {name: tensor for finished in self for name, tensor in finished.tensors.items()}

    def write(self, target: Path, metadata: dict[str, str], *, overwrite: bool) -> None:
        """Stream the layers into a LoRA file; ranks and hashes are added to the metadata at the end."""
        naming = self.plan.naming
        shapes = {name: shape for layer in self.plan.layers for name, shape in _largest_shapes(layer, naming).items()}
        ranks: list[int] = []
        conv_ranks: list[int] = []
        alphas: set[int] = set()
        with (
            closing(iter(self)) as layers,  # an error in writing ends the work at once
            StreamWriter(target, header_size(shapes, longest_metadata(metadata)), overwrite=overwrite) as writer,
        ):
            for finished in layers:
                for name in sorted(finished.tensors):
                    writer.add(name, finished.tensors[name])
                (conv_ranks if finished.planned.shape.is_spatial else ranks).append(finished.rank)
                alphas.add(finished.alpha)
            if not ranks and not conv_ranks:
                raise MergeInputError("Nothing is left to write: all layers are convolutions, and svd_conv_rank is 0.")
            metadata |= rank_metadata(ranks or conv_ranks, conv_ranks, alphas)
            training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
            metadata |= hash_metadata(writer.data_hash, writer.legacy_hash(training))
            writer.finish(metadata)
        self._report.report.file, self._report.report.size = str(target), target.stat().st_size

    def report(self) -> Report:
        """Return the report of all layers, with its times and without notes."""
        return self._report.finish(time.perf_counter() - self._start)


def _largest_shapes(layer: PlannedLayer, naming: Naming) -> dict[str, tuple[int, ...]]:
    shape, ones = layer.shape, (1,) * len(layer.shape.kernel)
    parts: dict[str, tuple[int, ...]] = {
        "up": (shape.out, layer.rank, *ones),
        "down": (layer.rank, shape.inner, *shape.kernel),
        "alpha": (),
    }
    return {layer.name + ending: parts[part] for part, ending in WRITTEN[naming].items()}
