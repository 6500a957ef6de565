"""Change the rank of one LoRA: to a fixed rank, or layer by layer to what its singular values ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib_pm.core import lowrank
from lib_pm.core.errors import MergeInputError, quoted
from lib_pm.core.layers import AnyLayer, Dense, Layer
from lib_pm.core.merge_layer import FullLayer, MergedLayer, memory_needed
from lib_pm.core.registry import MODES
from lib_pm.files.metadata import merged_metadata
from lib_pm.files.reader import LoraFile, open_lora
from lib_pm.files.writer import check_target
from lib_pm.merging.devices import Device, torch_dtype
from lib_pm.merging.layers import Finished, default_workers, finish, finish_full, read_source
from lib_pm.merging.memory import Need
from lib_pm.merging.plan import Plan, PlannedLayer, open_one
from lib_pm.merging.progress import Progress, silent
from lib_pm.merging.recipe import dtype_name
from lib_pm.merging.report import Report
from lib_pm.merging.run import Result, Run

NO_LIMIT = 1 << 20  # a rank that no layer has: a dynamic rule alone decides
_SUM = MODES["add_svd"]  # whose truncation a resize is, of one LoRA
MIN_SINGULAR_VALUE = 1e-6  # a layer whose largest one is not above this is zero, and gets rank 1


@dataclass(frozen=True)
class Dynamic:
    """A rule of kohya's `resize_lora.py`, with its parameter. Each rank is one more than the rule's index, as there."""

    name: str
    target: float

    def rank(self, values: Tensor, max_rank: int, full_rank: int) -> int:
        """Return the rank that the rule asks for, at most `max_rank`.

        values: the layer's singular values, largest first. full_rank: how many its matrix has, zeros included.
        """
        if float(values[0]) <= MIN_SINGULAR_VALUE:
            return 1
        index = min(max(1, RULES[self.name](values, self.target)), full_rank - 1)
        return min(index + 1, max_rank)


def _sv_ratio(values: Tensor, target: float) -> int:
    """Return how many are larger than the largest / target."""
    return int((values > values[0] / target).sum())


def _sv_fro(values: Tensor, target: float) -> int:
    """Return how many it takes to keep this share of the Frobenius norm."""
    return _reaching(values.square(), target**2)


def _sv_cumulative(values: Tensor, target: float) -> int:
    """Return how many it takes to keep this share of the sum."""
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
    """Return `sv_fro=0.95` as a rule. sv_ratio takes 1 or more; sv_fro and sv_cumulative a share above 0, up to 1."""
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

    @classmethod
    def of(
        cls, rank: int | None, conv_rank: int | None = None, dynamic: str = "", max_rank: int | None = None
    ) -> NewRank:
        """Return what a user asks for. rank None: the dynamic rule alone decides. max_rank: limits it too."""
        limits = [limit for limit in (rank, max_rank) if limit is not None]
        return cls(min(limits, default=NO_LIMIT), conv_rank, parse_dynamic(dynamic) if dynamic else None)

    @classmethod
    def of_form(cls, rank: int, conv_rank: int, rule: str) -> NewRank:
        """Return what the fields of a form ask for: in each, 0 or "" stands for nothing."""
        if not rank and not rule:
            raise MergeInputError("The rank is 0; allowed: 1 or more, or 0 with a rule.")
        return cls.of(rank or None, conv_rank or None, rule)

    def limit(self, planned: PlannedLayer) -> int:
        """Return the highest rank of a layer. No more than the layer has: there is nothing to fill it with."""
        conv = self.conv_rank is not None and planned.shape.is_spatial
        return min(self.conv_rank if conv and self.conv_rank else self.rank, planned.rank or 1)

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
    open_file: Callable[[Path], LoraFile] = open_lora,
    *,
    save_dtype: str = "float16",
    device: str = "auto",
    progress: Progress = silent,
    workers: int | None = None,
    overwrite: bool = False,
    keep: str = "all",
) -> Report:
    """Write `source` at another rank. The scale goes into the factors. open_file: see `open_plan`.

    keep: which metadata, see `metadata.KEEP`.
    """
    check_target(target, overwrite)
    with open_one(source, progress, open_file) as plan:
        run = _run(plan, new, save_dtype, device, progress, workers)
        metadata = merged_metadata(plan.files, plan.model, target.stem, None, keep=keep)
        run.write(target, metadata, overwrite=overwrite)
        return _report(run)


def resize_in_memory(
    source: Path,
    new: NewRank,
    open_file: Callable[[Path], LoraFile] = open_lora,
    *,
    save_dtype: str = "float16",
    device: str = "auto",
    progress: Progress = silent,
    workers: int | None = None,
) -> Result:
    """Return the LoRA at another rank, which can be saved later. open_file: see `open_plan`."""
    with open_one(source, progress, open_file) as plan:
        run = _run(plan, new, save_dtype, device, progress, workers)
        layers = list(run)
        return Result(_report(run), plan, layers)


def preview_resize(
    source: Path, new: NewRank, *, save_dtype: str = "float16", device: str = "auto", progress: Progress = silent
) -> Report:
    """Return what `resize_to_file` would report, with nothing written or kept; the size is that of the tensors."""
    with open_one(source, progress) as plan:
        run = _run(plan, new, save_dtype, device, progress, None)
        size = sum(tensor.nbytes for finished in run for tensor in finished.tensors.values())
        report = _report(run)
    report.size = size
    return report


def _run(plan: Plan, new: NewRank, save_dtype: str, device: str, progress: Progress, workers: int | None) -> Run:
    (file,) = plan.files
    dtype, where = torch_dtype(dtype_name("save_dtype", save_dtype)), Device(device)

    def memory_of(planned: PlannedLayer) -> int:
        options = {"svd_rank": new.limit(planned)}
        return memory_needed(_SUM, planned.shape, plan.ranks(planned), options, torch.float32, where.type)

    def work(planned: PlannedLayer) -> Finished:
        layer = read_source(file, planned.sources[0], planned.shape.out)
        if isinstance(layer, Dense) and layer.shape.vector:
            return finish_full(planned, FullLayer(layer.shape, layer.matrix), dtype, [file.path.name])
        resized = where.run(
            planned.name,
            memory_of(planned),
            lambda to: resize_layer(layer.to(to), new.limit(planned), new.dynamic),
        )
        return finish(planned, resized, plan.naming, dtype, min(new.rank, plan.alpha), [file.path.name])

    return Run(
        plan,
        f"{file.path.name} resized to {new}",
        work,
        need=Need(memory_of),
        device=where,
        workers=default_workers(_SUM, where) if workers is None else workers,
        progress=progress,
    )


def _report(run: Run) -> Report:
    report = run.report()
    report.notes += [*run.plan.model.notes, *run.device.notes()]
    return report


def resize_layer(layer: AnyLayer, max_rank: int, dynamic: Dynamic | None = None) -> MergedLayer:
    """Return the best approximation of a layer. A dynamic rule sees the singular values of the unscaled factors."""
    layer = layer.factors() if isinstance(layer, Dense) else layer
    limit = min(max_rank, layer.rank)

    def rule(values: Tensor) -> int:
        return dynamic.rank(values, limit, layer.shape.max_rank) if dynamic else limit

    truncated = lowrank.truncate(layer.up, layer.down, rule)
    return MergedLayer(Layer(layer.shape, truncated.up, truncated.down), truncated.kept, truncated.total).times(
        layer.scale
    )
