"""What several commands share: LoRAs as arguments, flags, and the printing of results."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_pm.core.choices import DEVICES
from lib_pm.core.errors import Faults, MergeInputError
from lib_pm.files.library import Library
from lib_pm.merging.recipe import Recipe, recipe_from_request
from lib_pm.prompt.parse import Request, check_one_mode, parse_file, parse_prompt
from lib_pm.prompt.presets import load_presets
from lib_pm.prompt.tag import has_tags
from lib_pm.render.text import report_text

if TYPE_CHECKING:
    from lib_pm.merging.report import Report

EPILOG = """\
Each LoRA is a file with strengths, FILE[:MODEL[:CLIP]][:lbw=WEIGHTS] (CLIP defaults to MODEL), or the WebUI's own
'<lora:NAME:CLIP:MODEL:lbw=WEIGHTS>' together with --lora-dir.
Block weights: a list of 12, 17, 20, 26 or 61 numbers, named blocks 'IN04=0.5,OUT03-OUT06=0,mlp=0', or a preset's name.
"""


def add_loras(command: argparse.ArgumentParser, *, nargs: str, what: str) -> None:
    """Add the LoRAs, the folder to look them up in, and their block weight presets."""
    command.add_argument("loras", nargs=nargs, metavar="LORA", help=f"{what} (see below)")
    command.add_argument("--lora-dir", type=Path, help="folder where <lora:NAME> is looked up")
    command.add_argument("--lbw-presets", type=Path, help="text file with block weight presets, NAME:1,1,0,…")


def add_running(command: argparse.ArgumentParser) -> None:
    """Add the flags for what the work needs, and for where it runs."""
    add_base(command)
    command.add_argument("--device", default="auto", help=f"{', '.join(DEVICES)}; auto falls back to the CPU")
    command.add_argument(
        "--threads", type=int, help="layers processed in parallel (default: depends on mode and cores)"
    )


def add_base(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--base",
        type=Path,
        metavar="FILE",
        help="the base model's checkpoint, for DoRA and others that need its weights",
    )


def recipe_of_command(options: argparse.Namespace, request: Request, **settings: Any) -> Recipe:
    """Return the recipe of a command's LoRAs. settings: as of `recipe_from_request`."""
    presets = load_presets(options.lbw_presets)
    return recipe_from_request(request, finder(options.lora_dir), lambda: presets, **settings)


def request_of(words: Sequence[str]) -> Request:
    """Return the LoRAs in the given order: words with tags are prompts, other words are files."""
    faults = Faults()
    requests = []
    for word in words:
        with faults.collect():
            requests.append(parse_prompt(word) if has_tags(word) else Request((parse_file(word),)))
    choices = [request.choice for request in requests if request.choice]
    with faults.collect():
        check_one_mode(len(choices))
    faults.raise_all()
    request = Request(tuple(tag for request in requests for tag in request.loras), *choices)
    if request.stacked:
        names = ", ".join(tag.name for tag in request.stacked)
        raise MergeInputError(f"{names}: pm=off keeps a LoRA out of the merge; remove it from the command.")
    return request


def finder(folder: Path | None) -> Callable[[str], Path]:
    """Return what gives the file of a name: by its path, or in the folder of LoRAs, if there is one."""
    library = Library(folder) if folder else None

    def find(name: str) -> Path:
        path = Path(name)
        if path.suffix == ".safetensors" and os.path.exists(path):
            return path
        if library:
            return library.find(name)
        if path.suffix.lower() != ".safetensors":
            raise MergeInputError(
                f"{name!r} is not a .safetensors file; to give a LoRA by name, set its folder with --lora-dir."
            )
        return path

    return find


def given_flags(options: argparse.Namespace, names: Iterable[str], prefix: str = "") -> dict[str, Any]:
    """Return the flags that the user wrote, with their values."""
    values = {name: getattr(options, prefix + name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def print_report(options: argparse.Namespace, report: Report) -> None:
    if options.json or not options.quiet:
        # a resize is asked for to see what each layer keeps
        every_layer = options.verbose or options.command == "resize"
        print_result(options, report.to_json, lambda: report_text(report, every_layer=every_layer))


def print_result(options: argparse.Namespace, as_json: Callable[[], Any], as_text: Callable[[], str]) -> None:
    print(json.dumps(as_json(), indent=2) if options.json else as_text())


def choices(values: Iterable[str]) -> str:
    return ", ".join(values)


def raw_text(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=110)
