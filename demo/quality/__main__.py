"""Measures how much a merge keeps of its LoRAs and of the caption, and writes quality.md, .svg and .csv."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from datetime import date
from pathlib import Path

import torch

from demo.quality.document import markdown, plot, write_table
from demo.quality.measure import captions_right
from demo.quality.results import measure_all
from demo.quiet import hush_libraries
from demo.tiny.weights import load_pipeline

COUNTS = (2, 3, 4)
CAPTIONS = 200


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.quality", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder for the page, the plot and the table")
    parser.add_argument("--seeds", type=int, default=32, help="pictures for each set of LoRAs and each setting")
    parser.add_argument("--loras", type=int, nargs="+", choices=COUNTS, default=COUNTS, help="how many are merged")
    parser.add_argument(
        "--kept",
        type=Path,
        default=Path(".benchmarks/quality.json"),
        help="scores so far, which a stopped run goes on from",
    )
    options = parser.parse_args(arguments)
    start = time.monotonic()
    hush_libraries()
    pipeline = load_pipeline()
    results = measure_all(pipeline, options.loras, options.seeds, options.kept)
    right = captions_right(pipeline, CAPTIONS)
    note = (
        f"{date.today()}, {platform.system()} {platform.machine()}, torch {torch.__version__}. "
        f"Without any LoRA the model draws {right} of {CAPTIONS} captions that its training never saw "
        "in the right shape and colour."
    )
    options.out.mkdir(parents=True, exist_ok=True)
    page = markdown(results, options.loras, options.seeds, note)
    (options.out / "quality.md").write_text(page, encoding="utf-8")
    (options.out / "quality.svg").write_text(plot(results, options.loras[0]), encoding="utf-8")
    with (options.out / "quality.csv").open("w", encoding="utf-8", newline="") as file:
        write_table(results, file)
    print(f"{options.out / 'quality.md'}; {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
