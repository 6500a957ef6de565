"""The command line. Exit status: 0 done, 2 for an error of the user's (one line on stderr), 1 for anything else."""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from lib_pm import __version__
from lib_pm.core.errors import MergeInputError
from lib_pm.core.keys.families import KINDS
from lib_pm.core.lowrank import EXCESS
from lib_pm.core.params import Option
from lib_pm.core.registry import MODES
from lib_pm.jobs.devices import DEVICES
from lib_pm.jobs.inspect import inspect_file
from lib_pm.jobs.library import Library
from lib_pm.jobs.merge import merge_to_file
from lib_pm.jobs.metadata import RECIPE_KEY
from lib_pm.jobs.modes import modes_json, modes_markdown, modes_text
from lib_pm.jobs.presets import load_presets
from lib_pm.jobs.progress import Cancelled
from lib_pm.jobs.prompt import LoraTag, Request, parse_file, parse_prompt
from lib_pm.jobs.recipe import APPLY, DEFAULT_MODE, DTYPES, LoraUse, Recipe, make_recipe, recipe_from_json
from lib_pm.jobs.report import Report
from lib_pm.jobs.resize import NO_LIMIT, NewRank, parse_dynamic, resize_to_file
from lib_pm.terminal import progress_bar

# What a recipe says itself, so that it cannot be said beside --recipe.
SETTINGS = ("apply", "layers", "dtype", "save_dtype", "precision")

MERGE_EPILOG = """\
A LoRA is a file with strengths, FILE[:MODEL[:CLIP]][:lbw=WEIGHTS] (CLIP is MODEL if missing), or the WebUI's own
'<lora:NAME:CLIP:MODEL:lbw=WEIGHTS>' with --lora-dir. A '<pm:MODE:option=value>' among them sets mode and options.
Block weights: a list of 12, 17, 20, 26 or 61 numbers, named blocks 'IN04=0.5,OUT03-OUT06=0,mlp=0', or a preset's name.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A wrong command line is one line too; --help has the rest."""
        raise MergeInputError(f"{message} ({self.prog} --help tells more)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a Windows pipe has no Σ
    gc.freeze()  # what has been imported stays; without this the collector walks through all of torch again and again
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
        sys.stdout.flush()
    except MergeInputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Cancelled):
        print("cancelled; nothing was written", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `modes | head`: who reads has had enough, and the rest of the output has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m lib_pm", description="Merge, resize and inspect LoRAs.")
    parser.add_argument("--version", action="version", version=f"Power Merger {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    merge = commands.add_parser(
        "merge", help="merge LoRAs into one file", epilog=MERGE_EPILOG, formatter_class=_raw_text
    )
    merge.add_argument("loras", nargs="*", metavar="LORA", help="what to merge, see below")
    merge.add_argument("--recipe", type=Path, help="repeat the merge that made this file (or a recipe's JSON)")
    merge.add_argument("--lora-dir", type=Path, help="folder in which <lora:NAME> is looked up")
    merge.add_argument("--mode", metavar="MODE", help=f"{', '.join(MODES)} (default {DEFAULT_MODE})")
    for option in _all_options().values():
        text = f"{option.declared.help} {option.allowed}; default {_default(option)}"
        merge.add_argument(f"--{option.name.replace('_', '-')}", dest=f"option_{option.name}", metavar="N", help=text)
    merge.add_argument("--apply", metavar="PART", help=f"{_choices(APPLY)}: what is merged (default {APPLY[0]})")
    merge.add_argument("--layers", help=f"kinds of layers to merge, of {', '.join(KINDS)} (default all)")
    merge.add_argument("--lbw-presets", type=Path, help="text file with block weight presets, NAME:1,1,0,…")
    merge.add_argument("--dtype", help=f"of the computation: {_choices(DTYPES)} (default float32)")
    merge.add_argument(
        "--exact",
        dest="precision",
        action="store_const",
        const="exact",
        help=f"truncate deltas to within {EXCESS['exact']:g} of the best error, not {EXCESS['normal']:g}; slower",
    )
    merge.add_argument("--force", action="store_true", help="merge LoRAs that say they are for different base models")
    merge.set_defaults(run=_merge)

    resize = commands.add_parser("resize", help="change the rank of a LoRA")
    resize.add_argument("lora", type=Path, help="the LoRA's file")
    resize.add_argument("--rank", type=int, help="the new rank")
    resize.add_argument("--conv-rank", type=int, help="for convolutions larger than 1×1 (default: the rank)")
    resize.add_argument(
        "--dynamic", metavar="RULE", help="sv_ratio=N, sv_fro=SHARE or sv_cumulative=SHARE decides per layer"
    )
    resize.add_argument("--max-rank", type=int, help="upper limit of a dynamic rank")
    resize.set_defaults(run=_resize)

    for command in (merge, resize):
        command.add_argument("-o", "--output", type=Path, required=True, help="the .safetensors file to write")
        command.add_argument("--save-dtype", help=f"of the file: {_choices(DTYPES)} (default float16)")
        command.add_argument("--device", default="auto", help=f"{', '.join(DEVICES)}; auto falls back to the CPU")
        command.add_argument("--threads", type=int, help="layers worked on side by side (default: by mode and cores)")
        command.add_argument("--overwrite", action="store_true", help="replace the output if it is there")
        command.add_argument("--quiet", action="store_true", help="no progress, no report")
        command.add_argument("--verbose", action="store_true", help="a line per layer in the report")

    inspect = commands.add_parser("inspect", help="what is in a LoRA file")
    inspect.add_argument("lora", type=Path, help="the LoRA's file")
    inspect.set_defaults(run=_inspect)
    modes = commands.add_parser("modes", help="the modes and their options")
    modes.add_argument("--markdown", action="store_true", help="as a Markdown table")
    modes.set_defaults(run=_modes)
    for command in (merge, resize, inspect, modes):
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _merge(options: argparse.Namespace) -> None:
    request = _request(options.loras)
    recipe = _repeated(options, request) if options.recipe else _recipe(options, request)
    with progress_bar(quiet=options.quiet) as progress:
        report = merge_to_file(
            recipe,
            options.output,
            device=options.device,
            progress=progress,
            workers=options.threads,
            overwrite=options.overwrite,
            force=options.force,
        )
    report.notes += [note] if (note := request.tag.note()) else []
    _show(options, report)


def _recipe(options: argparse.Namespace, request: Request) -> Recipe:
    settings = _given(options, SETTINGS)
    if "layers" in settings:
        settings["layers"] = settings["layers"].split(",")
    mode = request.tag.mode
    if options.mode and mode and options.mode != mode:
        raise MergeInputError(f"--mode says {options.mode} and the <pm:…> tag says {mode}; give one of them.")
    return make_recipe(
        [LoraUse(_path(tag, options.lora_dir), tag.model, tag.clip, tag.lbw) for tag in request.loras],
        options.mode or mode or DEFAULT_MODE,
        {**request.tag.options, **_given(options, _all_options(), "option_")},
        presets=load_presets(options.lbw_presets),
        **settings,
    )


def _given(options: argparse.Namespace, names: Iterable[str], prefix: str = "") -> dict[str, Any]:
    """Those of the flags that the user wrote, with their values."""
    values = {name: getattr(options, prefix + name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _repeated(options: argparse.Namespace, request: Request) -> Recipe:
    """The recipe in a merged file or a JSON file, with its LoRAs looked up by name or given in the same order."""
    path: Path = options.recipe
    said = _given(options, ("mode", "lbw_presets", *SETTINGS)) | _given(options, _all_options(), "option_")
    if said or request.tag.mode:
        flags = ["--exact" if name == "precision" else f"--{name.replace('_', '-')}" for name in said]
        flags += ["<pm:…>"] * bool(request.tag.mode)
        raise MergeInputError(f"The recipe says how to merge; leave out {', '.join(flags)}.")
    if any(tag != LoraTag(tag.name) for tag in request.loras):
        raise MergeInputError("The recipe says the strengths and block weights; give its LoRAs without them.")
    try:
        text = (
            path.read_text(encoding="utf-8")
            if path.suffix == ".json"
            else inspect_file(path).metadata.get(RECIPE_KEY, "")
        )
        written = json.loads(text)
        names = [lora["name"] for lora in written["loras"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, MergeInputError):
            raise
        raise MergeInputError(f"{path} holds no recipe of Power Merger.") from error
    tags = request.loras or [LoraTag(name) for name in names]
    if len(tags) != len(names):
        raise MergeInputError(f"The recipe is of {len(names)} LoRAs ({', '.join(names)}), {len(tags)} were given.")
    return recipe_from_json(written, [_path(tag, options.lora_dir) for tag in tags])


def _request(words: Sequence[str]) -> Request:
    """The LoRAs in the order given: words with tags are prompts, other words are files."""
    requests = [parse_prompt(word) if "<" in word else Request((parse_file(word),)) for word in words]
    tags = [request.tag for request in requests if request.tag.mode]
    if len(tags) > 1:
        raise MergeInputError(f"There are {len(tags)} <pm:…> tags; allowed: one.")
    loras = tuple(tag for request in requests for tag in request.loras)
    stacked = [tag.name for tag in loras if tag.stacked]
    if stacked:
        raise MergeInputError(
            f"{', '.join(stacked)}: pm=off leaves a LoRA out of a merge; leave it out of the command."
        )
    return Request(loras, *tags)


def _path(tag: LoraTag, folder: Path | None) -> Path:
    path = Path(tag.name)
    if path.suffix == ".safetensors" and os.path.exists(path):
        return path
    if folder:
        return Library(folder).find(tag.name)
    if path.suffix.lower() != ".safetensors":
        raise MergeInputError(
            f"{tag.name!r} is no .safetensors file; a LoRA's name is looked up in the folder that --lora-dir gives."
        )
    return path


def _resize(options: argparse.Namespace) -> None:
    if options.rank is None and not options.dynamic:
        raise MergeInputError("Give --rank, or --dynamic with sv_ratio=N, sv_fro=SHARE or sv_cumulative=SHARE.")
    if options.max_rank is not None and not options.dynamic:
        raise MergeInputError("--max-rank goes with --dynamic; a fixed rank is --rank.")
    limits = [rank for rank in (options.rank, options.max_rank) if rank is not None]
    dynamic = parse_dynamic(options.dynamic) if options.dynamic else None
    with progress_bar(quiet=options.quiet) as progress:
        report = resize_to_file(
            options.lora,
            options.output,
            NewRank(min(limits, default=NO_LIMIT), options.conv_rank, dynamic),
            device=options.device,
            progress=progress,
            workers=options.threads,
            overwrite=options.overwrite,
            **_given(options, ["save_dtype"]),
        )
    _show(options, report)


def _inspect(options: argparse.Namespace) -> None:
    found = inspect_file(options.lora)
    _print(options, found.to_json, found.to_text)


def _modes(options: argparse.Namespace) -> None:
    _print(options, modes_json, modes_markdown if options.markdown else modes_text)


def _show(options: argparse.Namespace, report: Report) -> None:
    if options.json or not options.quiet:
        # a resize is asked for to see what each layer keeps
        every_layer = options.verbose or options.command == "resize"
        _print(options, report.to_json, lambda: report.to_text(every_layer=every_layer))


def _print(options: argparse.Namespace, as_json: Callable[[], Any], as_text: Callable[[], str]) -> None:
    print(json.dumps(as_json(), indent=2) if options.json else as_text())


def _all_options() -> Mapping[str, Option]:
    return {name: option for mode in MODES.values() for name, option in mode.options.items()}


def _default(option: Option) -> str:
    return option.declared.empty if option.default is None else str(option.default)


def _choices(values: Iterable[str]) -> str:
    return ", ".join(values)


def _raw_text(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=110)
