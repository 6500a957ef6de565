"""Draws the demo's sheets into a folder, several at once: `python -m demo.pictures FOLDER`, docs/images by default."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import torch

from demo.grids import SHEETS
from demo.painter import Painter
from demo.quiet import hush_libraries
from demo.tiny.weights import LORAS, load_pipeline
from lib_pm.files.library import Library

DOCS = Path(__file__).resolve().parents[1] / "docs" / "images"
_painter: Painter  # each process has its own


@contextmanager
def drawing(folder: Path, names: Iterable[str] = SHEETS, prefix: str = "") -> Iterator[Iterator[Path]]:
    """Draw sheets in processes of their own from now on; gives their files as they are done."""
    names = list(names)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(names)), context, _start) as pool:
        futures = [pool.submit(_draw, name, folder / f"{prefix}{name}.png") for name in names]
        yield (future.result() for future in as_completed(futures))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.pictures", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=DOCS)
    parser.add_argument("--only", choices=SHEETS, nargs="+", default=list(SHEETS), help="some sheets")
    options = parser.parse_args(arguments)
    with drawing(options.folder, options.only, "demo-") as files:
        for file in files:
            print(file)
    return 0


def _start() -> None:
    global _painter
    hush_libraries()
    torch.set_num_threads(1)  # so small a model only makes the threads wait for each other
    _painter = Painter(load_pipeline(), Library(LORAS))


def _draw(name: str, file: Path) -> Path:
    _painter.sheet(SHEETS[name]).save(file)
    return file


if __name__ == "__main__":
    sys.exit(main())
