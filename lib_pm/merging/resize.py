"""Change the rank of one LoRA: to a fixed rank, or layer by layer to what its singular values ask for."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib_pm.core import lowrank
from lib_pm.core.errors import MergeInputError, quoted
from lib_pm.core.layers import Layer
from lib_pm.core.merge_layer import MergedLayer, memory_needed
from lib_pm.core.registry import MODES
from lib_pm.files.metadata import merged_metadata
from lib_pm.files.writer import check_target
from lib_pm.merging.devices import Device, torch_dtype
from lib_pm.merging.layers import Finished, default_workers, finish, read_layer, run_layers
from lib_pm.merging.memory import Need
from lib_pm.merging.merge import write_layers
from lib_pm.merging.plan import Plan, PlannedLayer, open_plan
from lib_pm.merging.progress import Progress, silent
from lib_pm.merging.recipe import LoraUse, dtype_name, make_recipe
from lib_pm.merging.report import Report, ReportWriter

NO_LIMIT = 1 << 20  # a rank that no layer has: a dynamic rule alone decides
MIN_SINGULAR_VALUE = 1e-6  # a layer whose largest one is not above this is zero, and gets rank 1


@dataclass(frozen=True)
class Dynamic:
    """A rule of kohya's `resize_lora.py`, with its parameter. Each rank is one more than the rule's index, as there."""

    name: str
    target: float

    def rank(self, values: Tensor, max_rank: int, full_rank: int) -> int:
        """values: the layer's singular values, largest first. full_rank: how many its matrix has, zeros included."""
        if float(values[0]) <= MIN_SINGULAR_VALUE:
            return 1
        index = min(max(1, RULES[self.name](values, self.target)), full_rank - 1)
        return min(index + 1, max_rank)


def _sv_ratio(values: Tensor, target: float) -> int:
    """How many are larger than the largest / target."""
    return int((values > values[0] / target).sum())


def _sv_fro(values: Tensor, target: float) -> int:
    """How many it takes to keep this share of the Frobenius norm."""
    return _reaching(values.square(), target**2)


def _sv_cumulative(values: Tensor, target: float) -> int:
    """How many it takes to keep this share of the sum."""
    return _reaching(values, target)


def _reaching(amounts: Tensor, target: float) -> int:
    shares = amounts.cumsum(0) / amounts.sum()
    return int(torch.searchsorted(shares, torch.tensor(target, dtype=shares.dtype, device=shares.device))) + 1


RULES: dict[str, Callable[[Tensor, float], int]] = {
    "sv_ratio": _sv_ratio,
    "sv_fro": _sv_fro,
    "sv_cumulative": _sv_cumulative,
}


def parse_dynamic(text: str) -> Dynamic:
    """`sv_fro=0.95` as a rule. sv_ratio takes 1 or more; sv_fro and sv_cumulative a share above 0, up to 1."""
    name, _, number = text.partition("=")
    if name not in RULES:
        raise MergeInputError(
            f"There is no dynamic rule {quoted(name)}; allowed: {', '.join(f'{rule}=…' for rule in RULES)}."
        )
    try:
        target = float(number)
    except ValueError:
        target = -1.0
    if not (1 <= target < float("inf") if name == "sv_ratio" else 0 < target <= 1):
        allowed = "a number, 1 or more" if name == "sv_ratio" else "a number above 0 and up to 1"
        raise MergeInputError(f"{name} is {quoted(number)}; allowed: {allowed}.")
    return Dynamic(name, target)


@dataclass(frozen=True)
class NewRank:
    """rank, conv_rank (None: the same): fixed, or the most that a dynamic rule may give. No layer gets a higher one."""

    rank: int
    conv_rank: int | None = None
    dynamic: Dynamic | None = None

    def __post_init__(self) -> None:
        for what, value in (("rank", self.rank), ("conv rank", self.conv_rank)):
            if value is not None and value < 1:
                raise MergeInputError(f"The {what} is {value}; allowed: a whole number, 1 or more.")

    def limit(self, planned: PlannedLayer) -> int:
        """No more than the layer has: there is nothing to fill it with."""
        conv = self.conv_rank is not None and planned.shape.is_spatial
        return min(self.conv_rank if conv and self.conv_rank else self.rank, planned.rank)

    def __str__(self) -> str:
        rule = [f"{self.dynamic.name} {self.dynamic.target:g}"] if self.dynamic else []
        most = "at most " if rule else ""
        rank = [f"{most}rank {self.rank}"] if self.rank < NO_LIMIT else []
        conv = [f"conv rank {self.conv_rank}"] if self.conv_rank is not None else []
        return ", ".join([*rule, *rank, *conv])


def resize_to_file(
    source: Path,
    target: Path,
    new: NewRank,
    *,
    save_dtype: str = "float16",
    device: str = "auto",
    progress: Progress = silent,
    workers: int | None = None,
    overwrite: bool = False,
    keep: str = "all",
) -> Report:
    """Write `source` at another rank. The scale goes into the factors. keep: which metadata, see `metadata.KEEP`."""
    check_target(target, overwrite)
    with _open(source, progress) as plan:
        run = ResizeRun(plan, new, save_dtype, device, progress, workers)
        metadata = merged_metadata(plan.files, plan.model, target.stem, None, keep=keep)
        with closing(iter(run)) as layers:  # an error in writing ends the work at once
            write_layers(target, layers, plan.layers, plan.naming, metadata, overwrite=overwrite)
        report = run.report()
    report.file, report.size = str(target), target.stat().st_size
    return report


def preview_resize(
    source: Path, new: NewRank, *, save_dtype: str = "float16", device: str = "auto", progress: Progress = silent
) -> Report:
    """What `resize_to_file` would report, with nothing written; the size is that of the tensors."""
    with _open(source, progress) as plan:
        run = ResizeRun(plan, new, save_dtype, device, progress, None)
        size = sum(tensor.nbytes for finished in run for tensor in finished.tensors.values())
        report = run.report()
    report.size = size
    return report


def _open(source: Path, progress: Progress) -> AbstractContextManager[Plan]:
    return open_plan(make_recipe([LoraUse(source)], "concat"), progress=progress)


class ResizeRun:
    """Iterates over the finished layers of a plan of one LoRA and keeps the report."""

    def __init__(
        self, plan: Plan, new: NewRank, save_dtype: str, device: str, progress: Progress, workers: int | None
    ) -> None:
        self._plan, self._new, self._progress = plan, new, progress
        self._dtype = torch_dtype(dtype_name("save_dtype", save_dtype))
        self._start = time.perf_counter()
        self._device = Device(device)
        self._workers = default_workers(plan.recipe.mode, self._device) if workers is None else workers
        file = plan.files[0]
        self._report = ReportWriter(f"{file.path.name} resized to {new}", [file])

    def __iter__(self) -> Generator[Finished, None, None]:
        need = Need(self._memory_of)
        layers = run_layers(self._plan.layers, self._work, self._progress, self._workers, self._device.type, need)
        for planned, finished in layers:
            self._report.add(planned, finished, "")
            if finished:
                yield finished

    def _work(self, planned: PlannedLayer) -> Finished:
        plan, new = self._plan, self._new
        file = plan.files[0]
        layer = read_layer(file, planned.sources[0].name)
        resized = self._device.run(
            planned.name,
            self._memory_of(planned),
            lambda to: resize_layer(layer.to(to), new.limit(planned), new.dynamic),
        )
        return finish(planned, resized, plan.naming, self._dtype, min(new.rank, plan.alpha), [file.path.name])

    def _memory_of(self, planned: PlannedLayer) -> int:
        """As for the sum of one LoRA, whose truncation a resize is."""
        options, ranks = {"svd_rank": self._new.limit(planned)}, self._plan.ranks(planned)
        return memory_needed(MODES["add_svd"], planned.shape, ranks, options, torch.float32, self._device.type)

    def report(self) -> Report:
        report = self._report.finish(time.perf_counter() - self._start)
        report.notes += [*self._plan.model.notes, *self._device.notes()]
        return report


def resize_layer(layer: Layer, max_rank: int, dynamic: Dynamic | None = None) -> MergedLayer:
    """The best approximation of a layer. A dynamic rule sees the singular values of the unscaled factors."""
    limit = min(max_rank, layer.rank)

    def rule(values: Tensor) -> int:
        return dynamic.rank(values, limit, layer.shape.max_rank) if dynamic else limit

    truncated = lowrank.truncate(layer.up, layer.down, rule)
    return MergedLayer(Layer(layer.shape, truncated.up, truncated.down), truncated.kept, truncated.total).times(
        layer.scale
    )
