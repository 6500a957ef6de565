"""Merge LoRAs by a recipe: into memory, or into a file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from torch import Tensor

from lib_pm.core.errors import MergeInputError, counted
from lib_pm.core.formats.lora import FULL, WRITTEN, Naming
from lib_pm.core.memo import Memo
from lib_pm.core.registry import Mode
from lib_pm.files.metadata import hash_metadata, longest_metadata, merged_metadata, rank_metadata, too_long
from lib_pm.files.writer import StreamWriter, check_target, header_size
from lib_pm.merging.devices import Device, torch_dtype
from lib_pm.merging.layers import Finished, default_workers, layer_merger, memory_of, run_layers
from lib_pm.merging.memory import ADVICE, Need
from lib_pm.merging.plan import Plan, PlannedLayer, open_plan
from lib_pm.merging.progress import Progress, silent
from lib_pm.merging.recipe import Recipe
from lib_pm.merging.report import Report, ReportWriter


def merge(
    recipe: Recipe,
    *,
    device: str = "auto",
    progress: Progress = silent,
    workers: int | None = None,
    force: bool = False,
) -> tuple[dict[str, Tensor], Report]:
    """The merge in memory: exactly the tensors that `merge_to_file` writes, and the report; no tensors if all is 0."""
    with open_plan(recipe, progress=progress, force=force) as plan:
        plan.contents(progress)
        return merge_plan(plan, device=device, progress=progress, workers=workers)


def merge_plan(
    plan: Plan,
    *,
    device: str = "auto",
    progress: Progress = silent,
    workers: int | None = None,
    memo: Memo | None = None,
) -> tuple[dict[str, Tensor], Report]:
    """`merge`, of a recipe whose files are open. memo: see `merge_layer`."""
    tensors: dict[str, Tensor] = {}
    run = MergeRun(plan, device, progress, workers, memo, held=_result_size(plan))
    for finished in run:
        tensors |= finished.tensors
    return tensors, run.report()


def merge_to_file(
    recipe: Recipe,
    target: Path,
    *,
    device: str = "auto",
    progress: Progress = silent,
    workers: int | None = None,
    overwrite: bool = False,
    keep: str = "all",
    force: bool = False,
) -> Report:
    """The merge as a `.safetensors` file, written whole or not at all, one layer held at a time.

    keep: which metadata, see `metadata.KEEP`. force: merge LoRAs of different base models all the same. Nothing to
    write (every weight 0) is an error.
    """
    if recipe.options.get("svd_rank", 0) is None and not recipe.mode.method.linear:
        raise MergeInputError(
            "svd_rank is full, which only works for applied merges: a saved file would hold every weight of "
            "the model. To save, choose a number."
        )
    check_target(target, overwrite)
    with open_plan(recipe, progress=progress, force=force) as plan:
        if not plan.layers:
            raise MergeInputError(
                "Nothing is left to merge: the strengths, block weights or layer filters switch off every layer."
            )
        metadata = merged_metadata(
            plan.files, plan.model, target.stem, recipe.to_json(plan.contents(progress)), keep=keep
        )
        run = MergeRun(plan, device, progress, workers)
        write_layers(target, run, plan.layers, plan.naming, metadata, overwrite=overwrite)
        report = run.report()
    report.file, report.size = str(target), target.stat().st_size
    return report


class MergeRun:
    """Iterates over the finished layers of a plan and keeps the report."""

    def __init__(
        self,
        plan: Plan,
        device: str,
        progress: Progress,
        workers: int | None,
        memo: Memo | None = None,
        held: int = 0,
    ) -> None:
        """held: how many bytes of the result whoever asks for it keeps in memory until the end."""
        self._plan, self._progress = plan, progress
        self._start = time.perf_counter()
        self._device = Device(device)
        self._workers = default_workers(plan.recipe.mode, self._device) if workers is None else workers
        self._work = layer_merger(plan, self._device, memo)
        self._need = Need(partial(memory_of, plan, device=self._device), held, _advice(plan.recipe.mode))
        self._full = 0  # bytes of layers at full rank
        self._acting = False  # whether a layer is not all zeros
        mode = plan.recipe.mode
        texts = {name: mode.options[name].text(value) for name, value in plan.recipe.options.items()}
        options = ", ".join(f"{name} {text}" for name, text in texts.items() if text)
        what = f"{mode.title} of {counted(len(plan.files), 'LoRA')} ({options})"
        self._report = ReportWriter(what, plan.files)

    def __iter__(self) -> Iterator[Finished]:
        for planned in self._plan.left_out:
            self._report.add(planned, None, "every weight is 0")
        layers = run_layers(self._plan.layers, self._work, self._progress, self._workers, self._device.type, self._need)
        for planned, finished in layers:
            self._report.add(planned, finished, "convolutions, because svd_conv_rank is 0")
            if finished:
                self._acting = self._acting or _acts(finished)
                self._full += sum(tensor.nbytes for name, tensor in finished.tensors.items() if name.endswith(FULL))
                yield finished

    def report(self) -> Report:
        report = self._report.finish(time.perf_counter() - self._start)
        if self._full:
            report.notes.append(f"at full rank, which takes {self._full / 2**20:.0f} MB of memory")
        if report.layers and not self._acting:
            none = [f"{name} 0" for name in ("density", "lambda") if self._plan.recipe.options.get(name) == 0]
            by = f" because of {' and '.join(none)}" if none else ""
            report.notes.append(f"every layer is zero{by}: the result changes nothing")
        report.notes += [*self._plan.model.notes, *self._device.notes(self._plan.recipe.dtype)]
        for file, recorded in zip(self._plan.files, self._plan.recipe.contents, strict=False):
            if file.content != recorded:
                report.notes.append(f"{file.path.name} is not the file that the recipe was made from")
        report.notes += [
            f"the tags of {file.name} are left out: {why}"
            for file in self._plan.files
            if (why := too_long(file.metadata))
        ]
        return report


def _acts(finished: Finished) -> bool:
    """Whether the layer changes anything: no factor is all zeros."""
    factors = [tensor for name, tensor in finished.tensors.items() if not name.endswith(".alpha")]
    return all(bool(tensor.any()) for tensor in factors)


def _advice(mode: Mode) -> str:
    multiplied_out = mode.space == "delta" and not mode.method.linear
    return ADVICE + (", or merge with concat or add_svd, which need less" if multiplied_out else "")


def _result_size(plan: Plan) -> int:
    """About how many bytes the merged layers have, as factors or, where that is less, whole."""
    numbers = (
        min(layer.rank * (layer.shape.out + layer.shape.columns), layer.shape.out * layer.shape.columns)
        for layer in plan.layers
    )
    return sum(numbers) * torch_dtype(plan.recipe.save_dtype).itemsize


def write_layers(
    target: Path,
    finished_layers: Iterable[Finished],
    planned: tuple[PlannedLayer, ...],
    naming: Naming,
    metadata: dict[str, str],
    *,
    overwrite: bool,
) -> None:
    """Stream finished layers into a LoRA file; ranks and hashes are added to the metadata at the end."""
    shapes = {name: shape for layer in planned for name, shape in _largest_shapes(layer, naming).items()}
    ranks: list[int] = []
    conv_ranks: list[int] = []
    alphas: set[int] = set()
    with StreamWriter(target, header_size(shapes, longest_metadata(metadata)), overwrite=overwrite) as writer:
        for finished in finished_layers:
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


def _largest_shapes(layer: PlannedLayer, naming: Naming) -> dict[str, tuple[int, ...]]:
    shape, ones = layer.shape, (1,) * len(layer.shape.kernel)
    parts: dict[str, tuple[int, ...]] = {
        "up": (shape.out, layer.rank, *ones),
        "down": (layer.rank, shape.inner, *shape.kernel),
        "alpha": (),
    }
    return {layer.name + ending: parts[part] for part, ending in WRITTEN[naming].items()}
