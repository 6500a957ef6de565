"""The command line. Exit status: 0 for success, 2 for a user's error (one line on stderr), 1 for anything else."""

from __future__ import annotations

import argparse
import gc
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lib_pm.cli.analyse import add_analyse
from lib_pm.cli.arguments import add_base, add_running, choices, given_flags, print_report, print_result
from lib_pm.cli.merge import add_merge
from lib_pm.cli.progress_bar import progress_bar
from lib_pm.core.choices import DTYPES, NAMES
from lib_pm.core.errors import MergeInputError, did_you_mean
from lib_pm.core.visible import visible
from lib_pm.merging.progress import Cancelled
from lib_pm.render.modes import modes_json, modes_markdown, modes_text
from lib_pm.version import __version__


class _Once(argparse.Action):
    """An option that may be given only once: of two values, one would be ignored."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        flags = vars(namespace).setdefault("given_flags", {})
        before = flags.get(self.dest)
        if before == option_string is not None:
            first = getattr(namespace, self.dest)
            raise MergeInputError(f"{option_string} is given more than once: {first} and {values}; keep only one.")
        if before:
            raise MergeInputError(f"{before} and {option_string} are the same option; keep only one.")
        flags[self.dest] = option_string
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """known: the flags and the names of commands, to suggest one for a typo."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.known: list[str] = []
        super().__init__(*arguments, **named)
        self.register("action", None, _Once)
        self.set_defaults(parser=self)

    def add_argument(self, *names: Any, **named: Any) -> argparse.Action:
        action = super().add_argument(*names, **named)
        self.known += action.option_strings
        return action

    def error(self, message: str) -> NoReturn:
        """Raise MergeInputError, so that a wrong command line gets one line too; --help has the rest."""
        wrong = re.search(r"(?:invalid choice: '|unrecognized arguments: )([^' =]+)", message)
        near = did_you_mean(wrong[1], self.known) if wrong else ""
        raise MergeInputError(f"{message}{near and '.' + near} (see {self.prog} --help)")

    def read(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Return the options. Unknown ones are an error of the command's parser, which knows its own."""
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Return the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a Windows pipe has no Σ
    try:
        options = _parser().read(arguments)
        _load_torch(options.command)
        with _terminated_as_by_ctrl_c():
            options.run(options)
            sys.stdout.flush()
    except MergeInputError as error:
        print(f"error: {visible(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Cancelled):
        print("cancelled; nothing was written", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `modes | head`: who reads has had enough, and the rest of the output has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _load_torch(command: str) -> None:
    """Import torch here and in the commands, never above: --help and `modes` need not wait a second for it."""
    if command != "modes":
        import torch  # noqa: F401

        gc.freeze()  # it stays; without this the collector walks through all of it again and again


@contextmanager
def _terminated_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM (`kill`, a shutdown, a batch system's time limit) do what Ctrl-C does: nothing is left behind."""
    ours = threading.current_thread() is threading.main_thread()  # others may set no handlers
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _parser() -> _Parser:
    parser = _Parser(prog="python -m lib_pm", description="Merge, analyse, resize, convert and inspect LoRAs.")
    parser.add_argument("--version", action="version", version=f"Power Merger {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    merge, analyse = add_merge(commands), add_analyse(commands)
    resize = commands.add_parser("resize", help="change the rank of a LoRA")
    resize.add_argument("lora", type=Path, help="the LoRA file")
    resize.add_argument("--rank", type=int, help="the new rank")
    resize.add_argument("--conv-rank", type=int, help="rank for convolutions larger than 1×1 (default: the rank)")
    resize.add_argument(
        "--dynamic", metavar="RULE", help="choose each layer's rank by sv_ratio=N, sv_fro=SHARE or sv_cumulative=SHARE"
    )
    resize.add_argument("--max-rank", type=int, help="upper limit for --dynamic")
    resize.set_defaults(run=_resize)

    convert = commands.add_parser("convert", help="write a LoRA under other names, or in another dtype")
    convert.add_argument("lora", type=Path, help="the LoRA file")
    convert.add_argument("--names", help=f"whose names the layers get: {choices(NAMES)} (default: their own)")
    convert.set_defaults(run=_convert)

    for command in (merge, resize, convert):
        default = "its own" if command is convert else "float16"
        command.add_argument("-o", "--output", type=Path, required=True, help="the .safetensors file to write")
        command.add_argument("--save-dtype", help=f"dtype of the file: {choices(DTYPES)} (default {default})")
        (add_base if command is convert else add_running)(command)
        command.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")
        command.add_argument("--quiet", action="store_true", help="show no progress and no report")
        command.add_argument("--verbose", action="store_true", help="list every layer in the report")

    inspect = commands.add_parser("inspect", help="show what is in a LoRA file")
    inspect.add_argument("lora", type=Path, help="the LoRA file")
    add_base(inspect)
    inspect.set_defaults(run=_inspect)
    modes = commands.add_parser("modes", help="list the modes and their options")
    modes.add_argument("--markdown", action="store_true", help="print a Markdown table")
    modes.set_defaults(run=_modes)
    for command in (merge, analyse, resize, convert, inspect, modes):
        command.add_argument("--json", action="store_true", help="print JSON")
    parser.known += commands.choices
    return parser


def _resize(options: argparse.Namespace) -> None:
    from lib_pm.files.checkpoint import with_base
    from lib_pm.merging.resize import NewRank, resize_to_file

    if options.rank is None and not options.dynamic:
        raise MergeInputError("Give --rank, or --dynamic with sv_ratio=N, sv_fro=SHARE or sv_cumulative=SHARE.")
    if options.max_rank is not None and not options.dynamic:
        raise MergeInputError("--max-rank only works with --dynamic; use --rank for a fixed rank.")
    new = NewRank.of(options.rank, options.conv_rank, options.dynamic or "", options.max_rank)
    with progress_bar(quiet=options.quiet) as progress, with_base(options.base) as open_file:
        report = resize_to_file(
            options.lora,
            options.output,
            new,
            open_file,
            device=options.device,
            progress=progress,
            workers=options.threads,
            overwrite=options.overwrite,
            **given_flags(options, ["save_dtype"]),
        )
    print_report(options, report)


def _convert(options: argparse.Namespace) -> None:
    from lib_pm.files.checkpoint import with_base
    from lib_pm.merging.convert import convert_to_file

    if not options.names and not options.save_dtype:
        raise MergeInputError("Give --names, --save-dtype, or both.")
    with progress_bar(quiet=options.quiet) as progress, with_base(options.base) as open_file:
        report = convert_to_file(
            options.lora,
            options.output,
            open_file=open_file,
            progress=progress,
            overwrite=options.overwrite,
            **given_flags(options, ["names", "save_dtype"]),
        )
    print_report(options, report)


def _inspect(options: argparse.Namespace) -> None:
    from lib_pm.files.checkpoint import with_base
    from lib_pm.files.contents import inspect_file
    from lib_pm.render.text import inspection_text

    with with_base(options.base) as open_file:
        found = inspect_file(options.lora, open_file)
    print_result(options, found.to_json, lambda: inspection_text(found))


def _modes(options: argparse.Namespace) -> None:
    print_result(options, modes_json, modes_markdown if options.markdown else modes_text)
