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
from lib_pm.merging.recipe import LoraUse
from lib_pm.prompt.parse import LoraTag, Request, check_one_mode, parse_file, parse_prompt
from lib_pm.prompt.tag import has_tags

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
    """Add the flags for where the work runs."""
    command.add_argument("--device", default="auto", help=f"{', '.join(DEVICES)}; auto falls back to the CPU")
    command.add_argument(
        "--threads", type=int, help="layers processed in parallel (default: depends on mode and cores)"
    )


def uses(options: argparse.Namespace, request: Request) -> list[LoraUse]:
    """Return the LoRAs of a command with their files."""
    paths = paths_of(request.loras, options.lora_dir)
    return [LoraUse(path, tag.model, tag.clip, tag.lbw) for path, tag in zip(paths, request.loras, strict=True)]


def request_of(words: Sequence[str]) -> Request:
    """Return the LoRAs in the given order: words with tags are prompts, other words are files."""
    faults = Faults()
    requests = []
    for word in words:
        with faults.collected():
            requests.append(parse_prompt(word) if has_tags(word) else Request((parse_file(word),)))
    tags = [request.tag for request in requests if request.tag.mode]
    with faults.collected():
        check_one_mode(len(tags))
    faults.tell()
    loras = tuple(tag for request in requests for tag in request.loras)
    stacked = [tag.name for tag in loras if tag.stacked]
    if stacked:
        raise MergeInputError(
            f"{', '.join(stacked)}: pm=off keeps a LoRA out of the merge; remove it from the command."
        )
    return Request(loras, *tags)


def paths_of(tags: Iterable[LoraTag], folder: Path | None) -> list[Path]:
    """Return the files that the tags name, by path or in the folder of LoRAs, if there is one."""
    library = Library(folder) if folder else None
    paths, faults = [], Faults()
    for tag in tags:
        with faults.collected():
            paths.append(_path_of(tag, library))
    faults.tell()
    return paths


def _path_of(tag: LoraTag, library: Library | None) -> Path:
    path = Path(tag.name)
    if path.suffix == ".safetensors" and os.path.exists(path):
        return path
    if library:
        return library.find(tag.name)
    if path.suffix.lower() != ".safetensors":
        raise MergeInputError(
            f"{tag.name!r} is not a .safetensors file; to give a LoRA by name, set its folder with --lora-dir."
        )
    return path


def given(options: argparse.Namespace, names: Iterable[str], prefix: str = "") -> dict[str, Any]:
    """Return the flags that the user wrote, with their values."""
    values = {name: getattr(options, prefix + name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def show(options: argparse.Namespace, report: Report) -> None:
    if options.json or not options.quiet:
        # a resize is asked for to see what each layer keeps
        every_layer = options.verbose or options.command == "resize"
        print_result(options, report.to_json, lambda: report.to_text(every_layer=every_layer))


def print_result(options: argparse.Namespace, as_json: Callable[[], Any], as_text: Callable[[], str]) -> None:
    print(json.dumps(as_json(), indent=2) if options.json else as_text())


def choices(values: Iterable[str]) -> str:
    return ", ".join(values)


def raw_text(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=110)
