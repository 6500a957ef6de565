"""Write one LoRA under other names, or in another dtype: its layers as they are, put together or cut up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from lib_pm.core.formats.lora import WRITTEN
from lib_pm.core.layers import Dense, Layer
from lib_pm.core.lowrank import balance
from lib_pm.core.merge_layer import FullLayer
from lib_pm.core.ranks import FULL_RANK
from lib_pm.files.header import DTYPES
from lib_pm.files.metadata import merged_metadata
from lib_pm.files.reader import LoraFile, open_lora
from lib_pm.files.writer import check_target
from lib_pm.merging.devices import Device, torch_dtype
from lib_pm.merging.layers import Finished, finish_full, read_source, tensors_of
from lib_pm.merging.memory import Need
from lib_pm.merging.plan import Plan, PlannedLayer, open_one
from lib_pm.merging.progress import Progress, silent
from lib_pm.merging.recipe import dtype_name, known_names
from lib_pm.merging.report import Report
from lib_pm.merging.run import Result, Run


def convert_to_file(
    source: Path,
    target: Path,
    names: str = "",
    open_file: Callable[[Path], LoraFile] = open_lora,
    *,
    save_dtype: str = "",
    progress: Progress = silent,
    workers: int | None = None,
    overwrite: bool = False,
    keep: str = "all",
) -> Report:
    """Write `source` under other names. names, save_dtype: "" for those that it has. open_file: see
    `open_plan`. keep: see `metadata.KEEP`.

    Nothing but the names changes where the names have room for an alpha, as kohya's have: to cut up and to put together
    lose nothing. Where they have none it goes into the factors, which rounds them unless it is the rank.
    """
    check_target(target, overwrite)
    with open_one(source, progress, open_file, known_names(names)) as plan:
        run = _run(plan, names, save_dtype, progress, workers)
        metadata = merged_metadata(plan.files, plan.model, target.stem, None, keep=keep)
        run.write(target, metadata, overwrite=overwrite)
        return run.report()


def convert_in_memory(
    source: Path,
    names: str = "",
    open_file: Callable[[Path], LoraFile] = open_lora,
    *,
    save_dtype: str = "",
    progress: Progress = silent,
    workers: int | None = None,
) -> Result:
    """Return the LoRA under other names, which can be saved later. open_file: see `open_plan`."""
    with open_one(source, progress, open_file, known_names(names)) as plan:
        run = _run(plan, names, save_dtype, progress, workers)
        layers = list(run)
        return Result(run.report(), plan, layers)


def _run(plan: Plan, names: str, save_dtype: str, progress: Progress, workers: int | None) -> Run:
    (file,) = plan.files
    dtype = torch_dtype(dtype_name("save_dtype", save_dtype)) if save_dtype else None
    where = Device("cpu")

    def memory_of(planned: PlannedLayer) -> int:
        rows, columns = planned.shape.out, planned.shape.columns
        return 16 * (rows * columns if FULL_RANK in plan.ranks(planned) else (planned.rank or 0) * (rows + columns))

    def work(planned: PlannedLayer) -> Finished:
        own = DTYPES[file.dtype(planned.sources[0].pieces[0].name)]
        return _convert(plan, planned, dtype or (own if own.itemsize > 1 else torch.float16))

    what = [f"{names}'s names"] * bool(names) + [str(dtype).removeprefix("torch.")] * bool(dtype)
    return Run(
        plan,
        f"{file.path.name} converted{' to ' * bool(what)}{', '.join(what)}",
        work,
        need=Need(memory_of),
        device=where,
        workers=1 if workers is None else workers,
        progress=progress,
    )


def _convert(plan: Plan, planned: PlannedLayer, dtype: torch.dtype) -> Finished:
    (file,), (source,) = plan.files, planned.sources
    layer = read_source(file, source, planned.shape.out)
    if isinstance(layer, Dense):
        return finish_full(planned, FullLayer(layer.shape, layer.matrix), dtype, [file.path.name])
    alpha = layer.scale * layer.rank
    alpha = int(alpha) if alpha == int(alpha) else alpha
    if "alpha" not in WRITTEN[plan.naming] and layer.scale != 1:
        alpha, scales = layer.rank, torch.full((layer.rank,), layer.scale)
        layer = Layer(layer.shape, *balance(layer.up.float(), layer.down.float(), scales))
    tensors = tensors_of(planned, layer, alpha, plan.naming, dtype, [file.path.name])
    return Finished(planned, tensors, layer.rank, alpha, 0.0, 0.0)
