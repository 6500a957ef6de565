"""The Python interface: merge, resize, convert, inspect and analyse LoRAs, files or state dicts. See docs/python.md.

What is wrong with the input is a `MergeInputError` that says what is allowed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lib_pm.compare.analyse
from lib_pm.compare.findings import Analysis
from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats.base import BaseWeights
from lib_pm.core.params import OptionValue
from lib_pm.core.registry import find_mode
from lib_pm.families.families import KINDS
from lib_pm.files.checkpoint import with_base
from lib_pm.files.contents import Inspection, contents_of
from lib_pm.files.library import Library
from lib_pm.files.metadata import check_keep
from lib_pm.files.reader import LoraFile, open_lora, open_tensors
from lib_pm.files.writer import check_target
from lib_pm.merging.convert import convert_in_memory
from lib_pm.merging.merge import check_can_be_saved, merge_in_memory
from lib_pm.merging.progress import Progress, silent
from lib_pm.merging.recipe import DEFAULT_MODE, LoraUse, Recipe, recipe_from_request, recipe_of
from lib_pm.merging.report import Report
from lib_pm.merging.resize import NewRank, resize_in_memory
from lib_pm.merging.run import Result
from lib_pm.prompt.parse import parse_prompt
from lib_pm.prompt.presets import load_presets
from lib_pm.prompt.tag import has_tags
from lib_pm.render.text import analysis_text, inspection_text, report_text

if TYPE_CHECKING:
    from torch import Tensor

FilePath = str | os.PathLike[str]
Source = FilePath | Mapping[str, "Tensor"]


@dataclass(frozen=True)
class Lora:
    """One LoRA of a merge. source: a `.safetensors` file, or a state dict.

    model, clip: its strengths; clip None is that of the model. lbw: block weights, see docs/block_weights.md.
    name: of a state dict, in reports and metadata.
    """

    source: Source
    model: float = 1.0
    clip: float | None = None
    lbw: str = ""
    name: str = ""


AnyLora = Source | tuple[Source, float] | Lora
Loras = FilePath | Sequence[AnyLora]


def merge(
    loras: Loras,
    mode: str | None = None,
    *,
    folder: FilePath | None = None,
    lbw_presets: FilePath | None = None,
    base: FilePath | None = None,
    apply: str = "model + clip",
    layers: Iterable[str] = KINDS,
    dtype: str = "float32",
    save_dtype: str = "float16",
    precision: str = "normal",
    names: str = "",
    force: bool = False,
    strict: bool = False,
    output: FilePath | None = None,
    overwrite: bool = False,
    metadata: str = "all",
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = silent,
    **options: OptionValue | str,
) -> Result:
    """Return the merge of LoRAs: its tensors, its report, and `save`.

    loras: a list of files, state dicts, pairs (file or state dict, strength) and `Lora`s; or a text with
    `<lora:NAME:STRENGTH>` tags, whose names are looked up in `folder`, and perhaps a `<pm:MODE:option=value>` tag.
    mode: one of docs/modes.md, concat unless a tag says another. options: of the mode, `density=0.5`; they win over
    the tag's; `lambda` is a word of Python and is written `lambda_`. lbw_presets: a text file with block weights
    by name. base: the base model's checkpoint, for LoRAs that need its weights (DoRA and others).
    apply: model, clip or both. layers: the kinds that are merged. dtype: of the computation. save_dtype: of the
    tensors. precision: exact is slower. names: whose the layers get (kohya, comfy, diffusers, peft or onetrainer), ""
    for their own. force: merge LoRAs of different base models. strict: refuse LoRAs with tensors that would be left
    out, which else the report names.
    output: a file to write, as `Result.save` does. device: auto, cpu, cuda, mps. threads: layers worked on at once.
    progress: called after each layer; may raise `Cancelled` to stop.
    """
    target = _checked_target(output, overwrite, metadata)
    recipe, open_file = _recipe(
        loras,
        folder,
        lbw_presets,
        mode,
        {name.removesuffix("_"): value for name, value in options.items()},
        apply=apply,
        layers=layers,
        dtype=dtype,
        save_dtype=save_dtype,
        precision=precision,
        names=names,
    )
    if target:
        check_can_be_saved(recipe)
    with with_base(base, open_file) as opener:
        result = merge_in_memory(
            recipe, opener, device=device, progress=progress, workers=threads, force=force, strict=strict
        )
    if target:
        result.save(target, overwrite=overwrite, metadata=metadata)
    return result


def resize(
    lora: Source,
    rank: int | None = None,
    *,
    conv_rank: int | None = None,
    dynamic: str = "",
    base: FilePath | None = None,
    save_dtype: str = "float16",
    output: FilePath | None = None,
    overwrite: bool = False,
    metadata: str = "all",
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = silent,
) -> Result:
    """Return the LoRA at another rank. dynamic: a rule for each layer's rank, `sv_fro=0.95`; rank is then the most.

    conv_rank: for convolutions larger than 1×1, None for the same. All else is as for `merge`.
    """
    target = _checked_target(output, overwrite, metadata)
    if rank is None and not dynamic:
        raise MergeInputError("Give rank, or dynamic with sv_ratio=N, sv_fro=SHARE or sv_cumulative=SHARE.")
    new = NewRank.of(rank, conv_rank, dynamic)
    (use,), open_file = _uses([lora])
    with with_base(base, open_file) as opener:
        result = resize_in_memory(
            use.path, new, opener, save_dtype=save_dtype, device=device, progress=progress, workers=threads
        )
    if target:
        result.save(target, overwrite=overwrite, metadata=metadata)
    return result


def convert(
    lora: Source,
    names: str = "",
    *,
    base: FilePath | None = None,
    save_dtype: str = "",
    output: FilePath | None = None,
    overwrite: bool = False,
    metadata: str = "all",
    threads: int | None = None,
    progress: Progress = silent,
) -> Result:
    """Return the LoRA under other names, or in another dtype: its layers as they are, put together or cut up.

    names, save_dtype: as for `merge`, "" for those that it has. All else is as for `merge`.
    """
    target = _checked_target(output, overwrite, metadata)
    (use,), open_file = _uses([lora])
    with with_base(base, open_file) as opener:
        result = convert_in_memory(use.path, names, opener, save_dtype=save_dtype, progress=progress, workers=threads)
    if target:
        result.save(target, overwrite=overwrite, metadata=metadata)
    return result


def inspect(lora: Source, *, base: FilePath | None = None) -> Inspection:
    """Return what is in a LoRA: model family, layers with ranks and alphas, tags, metadata, and its recipe."""
    (use,), open_file = _uses([lora])
    with with_base(base, open_file) as opener, opener(use.path) as file:
        return contents_of(file)


def analyse(
    loras: Loras,
    *,
    folder: FilePath | None = None,
    lbw_presets: FilePath | None = None,
    base: FilePath | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = silent,
) -> Analysis:
    """Return how LoRAs relate at their strengths: similarity, sign conflicts, norms, needed ranks.

    The arguments are as for `merge`; a `<pm:…>` tag makes no difference.
    """
    recipe, open_file = _recipe(loras, folder, lbw_presets)
    with with_base(base, open_file) as opener:
        return lib_pm.compare.analyse.analyse(recipe, opener, device=device, progress=progress, workers=threads)


def to_text(found: Report | Inspection | Analysis, *, every_layer: bool = False) -> str:
    """Return a report, an inspection or an analysis as the command line prints it.

    every_layer: of a report, also one line for each layer.
    """
    if isinstance(found, Report):
        return report_text(found, every_layer=every_layer)
    return inspection_text(found) if isinstance(found, Inspection) else analysis_text(found)


OpenFile = Callable[..., LoraFile]  # takes a path, and perhaps the base model


def _recipe(
    loras: Loras,
    folder: FilePath | None,
    lbw_presets: FilePath | None,
    mode: str | None = None,
    options: Mapping[str, OptionValue | str] | None = None,
    **settings: Any,
) -> tuple[Recipe, OpenFile]:
    """Return the recipe and what opens its LoRAs. settings: as of `recipe_of`."""
    presets = load_presets(Path(lbw_presets) if lbw_presets else None)
    if not isinstance(loras, str) or not has_tags(loras):
        uses, open_file = _uses([loras] if isinstance(loras, (str, os.PathLike)) else loras)
        choice = find_mode(mode or DEFAULT_MODE).choice(options)
        return recipe_of(uses, choice, presets=presets, **settings), open_file
    if folder is None:
        raise MergeInputError("The names of <lora:NAME> are looked up in a folder; give folder.")
    request = parse_prompt(loras)
    if request.stacked:
        names = ", ".join(tag.name for tag in request.stacked)
        raise MergeInputError(f"{names}: pm=off leaves a LoRA out of a merge; leave it out of the text.")
    choice = request.choice or find_mode(mode or DEFAULT_MODE).choice()
    if mode not in (None, choice.mode.id):
        raise MergeInputError(f"mode is {mode} and the <pm:…> tag says {choice.mode.id}; give one of them.")
    request = replace(request, choice=choice.changed(options or {}))
    return recipe_from_request(request, Library(Path(folder)).find, lambda: presets, **settings), open_lora


def _uses(loras: Iterable[AnyLora]) -> tuple[list[LoraUse], OpenFile]:
    """Return the LoRAs by their paths, and what opens them: a state dict has its name for a path."""
    uses: list[LoraUse] = []
    state_dicts: dict[Path, Mapping[str, Tensor]] = {}
    for number, lora in enumerate(loras, 1):
        if not isinstance(lora, Lora):
            lora = Lora(*lora) if isinstance(lora, tuple) else Lora(lora)
        if isinstance(lora.source, Mapping):
            path = Path(lora.name or f"LoRA {number}")
            if path in state_dicts:
                raise MergeInputError(f"Two of the LoRAs in memory are named {path}; give each a name of its own.")
            state_dicts[path] = lora.source
        elif isinstance(lora.source, (str, os.PathLike)):
            path = Path(lora.source)
        else:
            raise MergeInputError(
                f"A LoRA cannot be of type {type(lora.source).__name__}; allowed: a file, or names with tensors."
            )
        uses.append(LoraUse(path, lora.model, lora.model if lora.clip is None else lora.clip, lora.lbw))

    def open_file(path: Path, base: BaseWeights | None = None) -> LoraFile:
        if path in state_dicts:
            return open_tensors(str(path), state_dicts[path], base)
        return open_lora(path, base)

    return uses, open_file


def _checked_target(output: FilePath | None, overwrite: bool, metadata: str) -> Path | None:
    """Return the file to write. A MergeInputError comes before the work, not after it."""
    check_keep(metadata)
    if output is None:
        return None
    check_target(Path(output), overwrite)
    return Path(output)
