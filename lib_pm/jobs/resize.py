"""Change the rank of one LoRA: to a fixed rank, or layer by layer to what its singular values ask for."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib_pm.core import lowrank
from lib_pm.core.errors import MergeInputError
from lib_pm.core.layers import Layer
from lib_pm.core.spaces import MergedLayer, memory_needed
from lib_pm.jobs.devices import Device
from lib_pm.jobs.merge import write_layers
from lib_pm.jobs.metadata import merged_metadata
from lib_pm.jobs.plan import Plan, PlannedLayer, open_plan
from lib_pm.jobs.progress import Progress, silent
from lib_pm.jobs.recipe import DTYPES, LoraUse, dtype_name, make_recipe
from lib_pm.jobs.report import Report, ReportWriter
from lib_pm.jobs.run import Finished, default_workers, finish, run_layers
from lib_pm.jobs.writer import check_target

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
        index = min(max(1, _RULES[self.name](values, self.target)), full_rank - 1)
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


_RULES: dict[str, Callable[[Tensor, float], int]] = {
    "sv_ratio": _sv_ratio,
    "sv_fro": _sv_fro,
    "sv_cumulative": _sv_cumulative,
}


def parse_dynamic(text: str) -> Dynamic:
    """`sv_fro=0.95` as a rule. sv_ratio takes 1 or more; sv_fro and sv_cumulative a share above 0, up to 1."""
    name, _, number = text.partition("=")
    if name not in _RULES:
        raise MergeInputError(
            f"There is no dynamic rule {name!r}; allowed: {', '.join(f'{rule}=…' for rule in _RULES)}."
        )
    try:
        target = float(number)
    except ValueError:
        target = -1.0
    if not (1 <= target < float("inf") if name == "sv_ratio" else 0 < target <= 1):
        allowed = "a number, 1 or more" if name == "sv_ratio" else "a number above 0, up to 1"
        raise MergeInputError(f"{name} is {number!r}; allowed: {allowed}.")
    return Dynamic(name, target)


def resize_to_file(
    source: Path,
    target: Path,
    *,
    rank: int,
    conv_rank: int | None = None,
    dynamic: Dynamic | None = None,
    save_dtype: str = "float16",
    device: str = "auto",
    progress: Progress = silent,
    workers: int | None = None,
    overwrite: bool = False,
) -> Report:
    """Write `source` at another rank. rank, conv_rank (default: the same): fixed, or the maximum of a dynamic rule.

    No layer gets a higher rank than it has: there is nothing to fill it with. The scale goes into the factors.
    """
    for what, value in (("rank", rank), ("conv rank", conv_rank)):
        if value is not None and value < 1:
            raise MergeInputError(f"The {what} is {value}; allowed: a whole number, 1 or more.")
    check_target(target, overwrite)
    start = time.perf_counter()
    dtype = DTYPES[dtype_name("save_dtype", save_dtype)]
    where = Device(device)
    with open_plan(make_recipe([LoraUse(source)], "concat")) as plan:
        report = ReportWriter(_what(plan, rank, conv_rank, dynamic), [plan.files[0].name])

        def limit(planned: PlannedLayer) -> int:
            return min(conv_rank if conv_rank is not None and planned.shape.is_spatial else rank, planned.rank)

        alpha = min(rank, plan.alpha)

        def work(planned: PlannedLayer) -> Finished:
            layer = plan.files[0].read(planned.sources[0].name)
            needed = memory_needed(plan.recipe.mode, planned.shape, [layer.rank], layer.up.dtype)
            resized = where.run(planned.name, needed, lambda to: resize_layer(layer.to(to), limit(planned), dynamic))
            return finish(planned, resized, plan.naming, dtype, alpha, [source.name])

        def reported() -> Generator[Finished, None, None]:
            for planned, finished in run_layers(
                plan.layers, work, progress, default_workers(plan.recipe.mode, where) if workers is None else workers
            ):
                report.add(planned, finished, "")
                if finished:
                    yield finished

        metadata = merged_metadata(plan.files, plan.family, target.stem, None)
        with closing(reported()) as layers:  # an error in writing ends the work at once
            write_layers(target, layers, plan.layers, plan.naming, metadata, overwrite=overwrite)
        finished_report = report.finish(time.perf_counter() - start)
        finished_report.notes += where.notes()
    finished_report.file, finished_report.size = str(target), target.stat().st_size
    return finished_report


def resize_layer(layer: Layer, max_rank: int, dynamic: Dynamic | None = None) -> MergedLayer:
    """The best approximation of a layer. A dynamic rule sees the singular values of the unscaled factors."""
    limit = min(max_rank, layer.rank)

    def rule(values: Tensor) -> int:
        return dynamic.rank(values, limit, layer.shape.max_rank) if dynamic else limit

    truncated = lowrank.truncate(layer.up, layer.down, rule)
    return MergedLayer(Layer(layer.shape, truncated.up, truncated.down), truncated.kept, truncated.total).times(
        layer.scale
    )


def _what(plan: Plan, rank: int, conv_rank: int | None, dynamic: Dynamic | None) -> str:
    conv = "" if conv_rank is None else f", conv rank {conv_rank}"
    rule = f"{dynamic.name} {dynamic.target:g}, at most " if dynamic else ""
    return f"{plan.files[0].path.name} resized to {rule}rank {rank}{conv}"
