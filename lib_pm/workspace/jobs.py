"""The jobs of the tab and the REST interface: checked at once, done in the queue, reported without paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lib_pm.compare.analyse import analyse
from lib_pm.compare.findings import Analysis
from lib_pm.core.errors import MergeInputError, counted
from lib_pm.files.file_names import lora_file, twin
from lib_pm.files.metadata import check_keep
from lib_pm.files.new_folder import check_can_be_made, made
from lib_pm.files.whole_file import reason
from lib_pm.files.writer import check_target
from lib_pm.merging.check_headers import check_block_weights_of
from lib_pm.merging.devices import choose_device
from lib_pm.merging.merge import merge_to_file
from lib_pm.merging.progress import Progress, Unit
from lib_pm.merging.recipe import Recipe, dtype_name, known_names
from lib_pm.merging.report import Report
from lib_pm.merging.resize import NewRank, preview_resize, resize_to_file
from lib_pm.workspace.draft import Draft
from lib_pm.workspace.job_queue import Job
from lib_pm.workspace.workspace import Workspace

_LONGEST = 60  # of a name that is made up here


@dataclass(frozen=True)
class Target:
    """The file to write: its name, "" to make one from the LoRAs' names, and its folder inside the LoRA folder.

    keep: how much metadata, see `metadata.KEEP`. force: merge LoRAs of different base models. names: whose the layers
    get, "" for those of the LoRAs; only of a merge.
    """

    name: str = ""
    folder: str = ""
    save_dtype: str = "float16"
    keep: str = "all"
    overwrite: bool = False
    force: bool = False
    names: str = ""


def read_draft(workspace: Workspace, draft: Draft) -> Recipe:
    """Return the recipe of a draft. A MergeInputError names all errors that show before the merge."""
    recipe = draft.recipe(workspace.find, workspace.presets)
    check_block_weights_of(recipe)
    return recipe


def submit_merge(workspace: Workspace, draft: Draft, target: Target, device: str) -> Job:
    """Submit a merge into a file. Errors in the draft, the name or the device raise MergeInputError at once."""
    dtype, names = dtype_name("save_dtype", target.save_dtype), known_names(target.names)
    recipe = replace(read_draft(workspace, draft), save_dtype=dtype, names=names)
    note = draft.request().note()
    choose_device(device)
    check_keep(target.keep)
    place = partial(_path, workspace, target, default_name(recipe))
    path = place()

    def work(progress: Progress) -> list[Report]:
        path = place()  # a job before this one may have taken the name that was made up
        with made(path.parent, workspace.folder):
            report = merge_to_file(
                recipe,
                path,
                device=device,
                progress=progress,
                overwrite=target.overwrite,
                keep=target.keep,
                force=target.force,
            )
        report.notes += [note] if note else []
        return [_public(workspace, report, path)]

    return _submit(workspace, f"Merging {counted(len(recipe.loras), 'LoRA')} into {path.stem}", work, device)


def submit_resize(
    workspace: Workspace, names: Sequence[str], new: NewRank, target: Target, device: str, *, preview: bool = False
) -> Job:
    """Submit a resize of LoRAs, each into its own file. preview: write nothing, only report what would be kept.

    With several LoRAs, the target's name is appended to their own names.
    """
    if not names:
        raise MergeInputError("There are no LoRAs to resize; choose at least one.")
    loras = [workspace.find(name) for name in names]
    choose_device(device)
    check_keep(target.keep)
    dtype = dtype_name("save_dtype", target.save_dtype)
    if preview:
        return _submit(workspace, f"Previewing {_named(loras)}", partial(_look, loras, new, dtype, device), device)

    def place(lora: Path) -> Path:
        return _path(workspace, _of_one(target, lora, len(loras)), f"{lora.stem}_resized")

    for path, count in Counter(map(place, loras)).items():
        if count > 1:
            raise MergeInputError(f"{path.stem} would be written twice; resize LoRAs with the same name one at a time.")

    def resized(lora: Path, progress: Progress) -> Report:
        path = place(lora)
        with made(path.parent, workspace.folder):
            report = resize_to_file(
                lora,
                path,
                new,
                save_dtype=dtype,
                device=device,
                progress=progress,
                overwrite=target.overwrite,
                keep=target.keep,
            )
        return _public(workspace, report, path)

    def work(progress: Progress) -> list[Report]:
        return [resized(lora, _part(progress, index, len(loras))) for index, lora in enumerate(loras)]

    return _submit(workspace, f"Resizing {_named(loras)}", work, device)


def _look(loras: Sequence[Path], new: NewRank, dtype: str, device: str, progress: Progress) -> list[Report]:
    return [
        preview_resize(lora, new, save_dtype=dtype, device=device, progress=_part(progress, index, len(loras)))
        for index, lora in enumerate(loras)
    ]


def _of_one(target: Target, lora: Path, count: int) -> Target:
    return target if count == 1 or not target.name.strip() else replace(target, name=f"{lora.stem}{target.name}")


def _part(progress: Progress, index: int, count: int) -> Progress:
    """Return the progress of one of several files of about the same size."""

    def part(done: int, total: int, name: str, unit: Unit = "layers") -> None:
        if unit == "files":
            progress(index, count, name, unit)
        else:
            progress(index * total + done, count * total, name, unit)

    return part


def _named(loras: Sequence[Path]) -> str:
    return loras[0].stem if len(loras) == 1 else f"{len(loras)} LoRAs"


def submit_analyse(workspace: Workspace, draft: Draft, device: str) -> Job:
    """Submit a comparison of a draft's LoRAs; the job's result is an Analysis."""
    recipe = read_draft(workspace, draft)
    choose_device(device)

    def work(progress: Progress) -> Analysis:
        return analyse(recipe, device=device, progress=progress)

    return _submit(workspace, f"Analysing {counted(len(recipe.loras), 'LoRA')}", work, device)


def default_name(recipe: Recipe) -> str:
    """Return `style_char_ties_svd` for a merge of the LoRAs style and char."""
    names = "_".join(use.name.replace(" ", "_") for use in recipe.loras)
    return f"{names[:_LONGEST]}_{recipe.mode.id}"


def _path(workspace: Workspace, target: Target, otherwise: str) -> Path:
    """Return the path to write, in a folder that need not exist yet. Raise MergeInputError if it cannot be written."""
    path = lora_file(workspace.folder, target.folder, target.name.strip() or otherwise)
    try:
        if not target.name.strip() and not target.overwrite:
            path = _free(path)
        if not path.parent.is_dir():
            check_can_be_made(path.parent, workspace.folder)
        else:
            check_target(path, target.overwrite)
    except OSError as error:  # a folder that may not be entered, names that are too long together
        raise MergeInputError(f"{path.stem} cannot be written to that folder: {reason(error)}.") from error
    return path


def _free(path: Path) -> Path:
    """Return the path, or the first one with a number appended that no file has."""
    stem, number = path.stem, 1
    while path.exists() or twin(path):
        number += 1
        path = path.with_name(f"{stem}_{number}.safetensors")
    return path


def _public(workspace: Workspace, report: Report, path: Path) -> Report:
    workspace.announce(path)
    return replace(report, file=path.relative_to(workspace.folder).with_suffix("").as_posix())


def _submit(workspace: Workspace, what: str, work: Callable[[Progress], list[Report] | Analysis], device: str) -> Job:
    return workspace.queue.submit(what, work, workspace.turn(device))
