"""Opens a page on which LoRAs are merged on a small trained model, and draws sheets of pictures meanwhile."""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from demo.check import compare, overview, ways
from demo.painter import Painter, Turns
from demo.pictures import drawing
from demo.quiet import hush_libraries
from demo.tiny.weights import LORAS, load_pipeline
from lib_pm.files.library import Library

OUT = Path(__file__).parent / "out"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="folder for what the demo writes")
    parser.add_argument("--no-page", action="store_true", help="no page: draw everything, print numbers, and end")
    parser.add_argument("--port", type=int, help="of the page; default: the first free one from 7860 on")
    options = parser.parse_args(arguments)
    out: Path = options.out.absolute()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a Windows pipe may lack a letter
    torch.set_num_threads(1)  # on so small a model, threads only wait for each other
    out.mkdir(parents=True, exist_ok=True)
    print(f"A small Stable Diffusion 1.x, trained on drawn pictures, with its LoRAs in {LORAS}.", flush=True)
    if options.no_page:
        return 0 if draw(out) else 1
    show_page(out, options.port)
    return 0


def draw(out: Path) -> bool:
    """Draw and print everything; return True if the merge is what it should be."""
    start = time.perf_counter()
    hush_libraries()
    with drawing(out) as files:
        images, report = ways(Painter(load_pipeline(), Library(LORAS)), out / "merged.safetensors")
        text, good = compare(images)
        overview(images).save(out / "overview.png")
        print(f"\n{report}\n\n{text}\n  {out / 'overview.png'}", flush=True)
        for file in files:
            print(f"  {file}", flush=True)
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    return good


def show_page(out: Path, port: int | None) -> None:
    """Serve the page until it is stopped; the model is loaded when it is there, and sheets are drawn after that.

    Its LoRAs are copies, beside which a merge may be saved.
    """
    from demo.drawing import Drawing
    from demo.page import DemoWorkspace, build, launch

    workspace = DemoWorkspace(out / "loras", out / "data", "cpu")
    shutil.copytree(LORAS, workspace.folder, dirs_exist_ok=True)
    turns, pipeline = Turns(), Future[Any]()
    sheets = Drawing(out, workspace.folder, turns)
    page = build(pipeline, workspace, turns, sheets)
    launch(page, workspace, server_port=port, inbrowser=True, folders=[out], prevent_thread_lock=True)
    hush_libraries()
    pipeline.set_result(load_pipeline())
    sheets.start(pipeline.result())
    page.block_thread()


if __name__ == "__main__":
    sys.exit(main())
