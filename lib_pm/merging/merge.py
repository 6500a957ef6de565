"""Merge LoRAs by a recipe: into memory, or into a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from lib_pm.core.errors import MergeInputError, counted
from lib_pm.core.memo import Memo
from lib_pm.core.ranks import FULL_RANK
from lib_pm.core.registry import Mode
from lib_pm.files.metadata import merged_metadata, too_long
from lib_pm.files.reader import LoraFile, open_lora
from lib_pm.files.writer import check_target
from lib_pm.merging.devices import Device, torch_dtype
from lib_pm.merging.layers import default_workers, layer_merger, memory_of
from lib_pm.merging.memory import ADVICE, Need
from lib_pm.merging.plan import MergePlan, PlannedLayer, applied_only, leftovers, open_plan
from lib_pm.merging.progress import Progress, silent
from lib_pm.merging.recipe import Recipe
from lib_pm.merging.report import Report
from lib_pm.merging.run import FULL_RANK_IN_A_FILE, NOTHING_TO_MERGE, Result, Run


def merge(
    recipe: Recipe,
    *,
    device: str = "auto",
    progress: Progress = silent,
    workers: int | None = None,
    force: bool = False,
    strict: bool = False,
) -> tuple[dict[str, Tensor], Report]:
    """Return exactly the tensors that `merge_to_file` writes, and the report; no tensors if all is 0."""
    result = merge_in_memory(recipe, device=device, progress=progress, workers=workers, force=force, strict=strict)
    return result.tensors, result.report


def merge_in_memory(
    recipe: Recipe,
    open_file: Callable[[Path], LoraFile] = open_lora,
    *,
    device: str = "auto",
    progress: Progress = silent,
    workers: int | None = None,
    force: bool = False,
    strict: bool = False,
) -> Result:
    """Return the merge, which can be saved later. open_file: see `open_plan`."""
    with open_plan(recipe, open_file=open_file, progress=progress, force=force, strict=strict) as plan:
        contents = plan.contents(progress)
        run = _run(plan, device, progress, workers, held=_result_size(plan))
        layers = list(run)
        return Result(_report(run, plan), plan, layers, _written(plan, contents))


def merge_plan(
    plan: MergePlan,
    *,
    device: str = "auto",
    progress: Progress = silent,
    workers: int | None = None,
    memo: Memo | None = None,
) -> tuple[dict[str, Tensor], Report]:
    """Return what `merge` does, of a recipe whose files are open. memo: see `merge_layer`."""
    run = _run(plan, device, progress, workers, memo, held=_result_size(plan))
    tensors = {name: tensor for layer in run for name, tensor in layer.tensors.items()}
    return tensors, _report(run, plan)


def merge_to_file(
    recipe: Recipe,
    target: Path,
    open_file: Callable[[Path], LoraFile] = open_lora,
    *,
    device: str = "auto",
    progress: Progress = silent,
    workers: int | None = None,
    overwrite: bool = False,
    keep: str = "all",
    force: bool = False,
    strict: bool = False,
) -> Report:
    """Write the merge as a `.safetensors` file, whole or not at all, one layer held at a time. Return its report.

    keep: which metadata, see `metadata.KEEP`. force: merge LoRAs of different base models all the same. open_file,
    strict: see `open_plan`. Nothing to write (every weight 0) is an error.
    """
    check_can_be_saved(recipe)
    check_target(target, overwrite)
    with open_plan(recipe, open_file=open_file, progress=progress, force=force, strict=strict) as plan:
        if not plan.layers:
            raise MergeInputError(NOTHING_TO_MERGE)
        metadata = merged_metadata(
            plan.files, plan.model, target.stem, _written(plan, plan.contents(progress)), keep=keep
        )
        run = _run(plan, device, progress, workers)
        run.write(target, metadata, overwrite=overwrite)
        return _report(run, plan)


def check_can_be_saved(recipe: Recipe) -> None:
    """Raise MergeInputError for a merge that can only be applied."""
    if applied_only(recipe):
        raise MergeInputError(FULL_RANK_IN_A_FILE)


def _run(
    plan: MergePlan, device: str, progress: Progress, workers: int | None, memo: Memo | None = None, held: int = 0
) -> Run:
    """Return the run of a merge. held: how many bytes of the result are kept in memory until the end."""
    plan.check_factors()
    mode, where = plan.recipe.mode, Device(device)
    texts = {name: mode.options[name].text(value) for name, value in plan.recipe.options.items()}
    options = ", ".join(f"{name} {text}" for name, text in texts.items() if text)
    return Run(
        plan,
        f"{mode.title} of {counted(len(plan.files), 'LoRA')} ({options})",
        layer_merger(plan, where, memo),
        need=Need(partial(memory_of, plan, device=where), held, _advice(mode)),
        device=where,
        workers=default_workers(mode, where) if workers is None else workers,
        progress=progress,
    )


def _report(run: Run, plan: MergePlan) -> Report:
    """Return the report of a run that is done, with all that the user should know of it."""
    report, recipe = run.report(), plan.recipe
    if run.full_bytes and applied_only(recipe):
        report.notes.append(f"at full rank, which takes {run.full_bytes / 2**20:.0f} MB of memory")
    elif whole := [layer for layer in plan.layers if layer.rank is None and not layer.shape.vector]:
        report.notes.append(
            f"{counted(len(whole), 'layer')} written whole (.diff), {run.full_bytes / 2**20:.0f} MB, because "
            f"{_without_factors(plan, whole)} no low rank there; a mode with a rank, as add_svd, makes a LoRA of them"
        )
    if report.layers and run.all_zeros:
        none = [f"{name} 0" for name in ("density", "lambda") if recipe.options.get(name) == 0]
        by = f" because of {' and '.join(none)}" if none else ""
        report.notes.append(f"every layer is zero{by}: the result changes nothing")
    if base := _base(plan):
        report.notes.append(f"with the base weights of {base}")
    report.notes += [*leftovers(plan.files), *plan.model.notes, *run.device.notes(recipe.dtype)]
    for file, recorded in zip(plan.files, recipe.contents, strict=False):
        if file.content != recorded:
            report.notes.append(f"{file.path.name} is not the file that the recipe was made from")
    report.notes += [
        f"the tags of {file.name} are left out: {why}" for file in plan.files if (why := too_long(file.metadata))
    ]
    return report


def _written(plan: MergePlan, contents: Sequence[str]) -> dict[str, Any]:
    """Return the recipe as it is written, with the base model whose weights it took."""
    base = _base(plan)
    return plan.recipe.to_json(contents) | ({"base": base} if base else {})


def _base(plan: MergePlan) -> str:
    """Return the name of the base model whose weights are needed, "" for none."""
    return next((file.base for file in plan.files if file.base), "")


def _without_factors(plan: MergePlan, layers: Sequence[PlannedLayer]) -> str:
    """Return which LoRAs have no factors in these layers."""
    sources = {source for layer in layers for source in layer.sources if source.weight}
    lora = {source.lora for source in sources if source.rank is FULL_RANK}
    names = [file.name for index, file in enumerate(plan.files) if index in lora]
    return f"{', '.join(names)} {'have' if len(names) > 1 else 'has'}"


def _advice(mode: Mode) -> str:
    multiplied_out = mode.space == "delta" and not mode.method.linear
    return ADVICE + (", or merge with concat or add_svd, which need less" if multiplied_out else "")


def _result_size(plan: MergePlan) -> int:
    """Return about how many bytes the merged layers have, as factors or, where that is less, whole."""
    numbers = 0
    for layer in plan.layers:
        whole = layer.shape.out * layer.shape.columns
        factors = whole if layer.rank is None else layer.rank * (layer.shape.out + layer.shape.columns)
        numbers += min(factors, whole)
    return numbers * torch_dtype(plan.recipe.save_dtype).itemsize
