"""The command `merge`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib_pm.cli.arguments import (
    EPILOG,
    add_loras,
    choices,
    finder,
    given_flags,
    print_report,
    raw_text,
    recipe_of_command,
    request_of,
)
from lib_pm.cli.progress_bar import progress_bar
from lib_pm.core.choices import APPLY, DTYPES, NAMES
from lib_pm.core.errors import Faults, MergeInputError
from lib_pm.core.excess import EXCESS
from lib_pm.core.params import Option
from lib_pm.core.registry import MODES, Choice, find_mode
from lib_pm.families.families import KINDS
from lib_pm.files.json_text import parse_json
from lib_pm.files.metadata import KEEP, RECIPE_KEY
from lib_pm.merging.recipe import DEFAULT_MODE, Recipe, recipe_from_json
from lib_pm.prompt.parse import LoraTag, Request

# What a recipe says itself, so that it cannot be said beside --recipe.
SETTINGS = ("apply", "layers", "dtype", "save_dtype", "precision", "names")

TAG = "A '<pm:MODE:option=value>' among the LoRAs sets the mode and its options.\n"


def add_merge(commands: Any) -> argparse.ArgumentParser:
    """Return the parser of `merge`. commands: the result of `add_subparsers`."""
    merge: argparse.ArgumentParser = commands.add_parser(
        "merge", help="merge LoRAs into one file", epilog=EPILOG + TAG, formatter_class=raw_text
    )
    add_loras(merge, nargs="*", what="LoRAs to merge")
    merge.add_argument("--recipe", type=Path, help="repeat the merge that made this file (or a recipe's JSON)")
    merge.add_argument("--mode", metavar="MODE", help=f"{', '.join(MODES)} (default {DEFAULT_MODE})")
    for option in (option.in_files for option in _all_options().values()):
        text = f"{option.help} Allowed: {option.allowed}; default: {_default(option)}"
        flags = [_flag(name) for name in (option.name, option.declared.short) if name]
        merge.add_argument(*flags, dest=f"option_{option.name}", metavar="N", help=text)
    merge.add_argument("--apply", metavar="PART", help=f"part to merge: {choices(APPLY)} (default {APPLY[0]})")
    merge.add_argument("--layers", help=f"kinds of layers to merge: {', '.join(KINDS)} (default all)")
    merge.add_argument("--dtype", help=f"dtype of the computation: {choices(DTYPES)} (default float32)")
    merge.add_argument("--names", help=f"whose names the layers get: {choices(NAMES)} (default: their own)")
    merge.add_argument(
        "--exact",
        dest="precision",
        action="store_const",
        const="exact",
        help=f"truncate to within {EXCESS['exact']:g} of the smallest error, not {EXCESS['normal']:g} (slower)",
    )
    merge.add_argument(
        "--metadata", default="all", help=f"how much to record about the inputs: {choices(KEEP)} (default all)"
    )
    merge.add_argument("--strict", action="store_true", help="refuse files with tensors that would be left out")
    merge.add_argument("--force", action="store_true", help="merge LoRAs of different base models anyway")
    merge.set_defaults(run=_merge)
    return merge


def _merge(options: argparse.Namespace) -> None:
    from lib_pm.files.checkpoint import with_base
    from lib_pm.merging.merge import merge_to_file

    request = request_of(options.loras)
    recipe = _repeated(options, request) if options.recipe else _recipe(options, request)
    with progress_bar(quiet=options.quiet) as progress, with_base(options.base) as open_file:
        report = merge_to_file(
            recipe,
            options.output,
            open_file,
            device=options.device,
            progress=progress,
            workers=options.threads,
            overwrite=options.overwrite,
            keep=options.metadata,
            force=options.force,
            strict=options.strict,
        )
    report.notes += [note] if (note := request.note()) else []
    print_report(options, report)


def _recipe(options: argparse.Namespace, request: Request) -> Recipe:
    settings = given_flags(options, SETTINGS)
    if "layers" in settings:
        settings["layers"] = settings["layers"].split(",")
    return recipe_of_command(options, replace(request, choice=_choice(options, request.choice)), **settings)


def _choice(options: argparse.Namespace, tag: Choice | None) -> Choice:
    """Return what the flags say, over what the `<pm:…>` tag says."""
    if tag and options.mode not in (None, tag.mode.id):
        raise MergeInputError(f"--mode says {options.mode}, but the <pm:…> tag says {tag.mode.id}; give only one.")
    choice = tag or find_mode(options.mode or DEFAULT_MODE).choice()
    flags = given_flags(options, _all_options(), "option_")
    for name, value in flags.items():
        option = choice.mode.option(name)
        if option and value != option.declared.word:  # what the word is for is said by what refuses it
            option.in_files.parse(value)
    return choice.changed(flags)


def _repeated(options: argparse.Namespace, request: Request) -> Recipe:
    """Return the recipe of a merged file or a JSON file; its LoRAs are looked up by name or given in order."""
    from lib_pm.files.contents import inspect_file

    path: Path = options.recipe
    said = given_flags(options, ("mode", "lbw_presets", *SETTINGS)) | given_flags(options, _all_options(), "option_")
    if said or request.choice:
        flags = ["--exact" if name == "precision" else _flag(name) for name in said]
        flags += ["<pm:…>"] * bool(request.choice)
        raise MergeInputError(f"The recipe already says how to merge; leave out {', '.join(flags)}.")
    if any(tag != LoraTag(tag.name) for tag in request.loras):
        raise MergeInputError("The recipe already has strengths and block weights; give its LoRAs without them.")
    try:
        text = (
            path.read_text(encoding="utf-8")
            if path.suffix == ".json"
            else inspect_file(path).metadata.get(RECIPE_KEY, "")
        )
        written = parse_json(text)
        names = [lora["name"] for lora in written["loras"]]
    except OSError as error:
        raise MergeInputError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, MergeInputError):
            raise
        raise MergeInputError(f"{path} contains no Power Merger recipe.") from error
    tags = request.loras or [LoraTag(name) for name in names]
    if len(tags) != len(names):
        raise MergeInputError(f"The recipe has {len(names)} LoRAs ({', '.join(names)}), but {len(tags)} were given.")
    return recipe_from_json(written, _files(tags, options.lora_dir))


def _files(tags: Iterable[LoraTag], folder: Path | None) -> list[Path]:
    """Return the files of all tags; a MergeInputError names all that are not found."""
    find, paths, faults = finder(folder), [], Faults()
    for tag in tags:
        with faults.collect():
            paths.append(find(tag.name))
    faults.raise_all()
    return paths


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _all_options() -> Mapping[str, Option]:
    return {name: option for mode in MODES.values() for name, option in mode.options.items()}


def _default(option: Option) -> str:
    return option.declared.empty if option.default is None else str(option.default)
