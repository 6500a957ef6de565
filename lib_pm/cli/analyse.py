"""The command `analyse`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib_pm.cli.arguments import EPILOG, add_loras, add_running, print_result, raw_text, recipe_of_command, request_of
from lib_pm.cli.progress_bar import progress_bar
from lib_pm.core.errors import MergeInputError
from lib_pm.files.whole_file import write_text
from lib_pm.render.charts import blocks_svg, spectrum_svg
from lib_pm.render.text import analysis_text

PLOTS = {"blocks.svg": blocks_svg, "spectrum.svg": spectrum_svg}


def add_analyse(commands: Any) -> argparse.ArgumentParser:
    """Return the parser of `analyse`. commands: the result of `add_subparsers`."""
    command: argparse.ArgumentParser = commands.add_parser(
        "analyse", help="compare LoRAs before merging them", epilog=EPILOG, formatter_class=raw_text
    )
    add_loras(command, nargs="+", what="LoRAs to compare")
    add_running(command)
    command.add_argument("--plots", metavar="FOLDER", type=Path, help=f"write {' and '.join(PLOTS)} into this folder")
    command.add_argument("--overwrite", action="store_true", help="replace existing plots")
    command.set_defaults(run=_analyse)
    return command


def _analyse(options: argparse.Namespace) -> None:
    from lib_pm.compare.analyse import analyse
    from lib_pm.files.checkpoint import with_base

    request = request_of(options.loras)
    recipe = recipe_of_command(options, replace(request, choice=None))  # how they would be merged makes no difference
    targets = [options.plots / name for name in PLOTS] if options.plots else []
    for target in targets:
        if target.exists() and not options.overwrite:
            raise MergeInputError(f"{target} already exists; --overwrite replaces it.")
    with progress_bar(quiet=False) as progress, with_base(options.base) as open_file:
        found = analyse(recipe, open_file, device=options.device, progress=progress, workers=options.threads)
    for target, plot in zip(targets, PLOTS.values(), strict=False):
        write_text(target, plot(found), str(target), overwrite=options.overwrite)
    print_result(options, found.to_json, lambda: analysis_text(found))
