"""Merges LoRAs on a small trained model, checks live against saved, draws grids, and opens a page to try it all."""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ImageChops
from PIL.Image import Image

from demo.grid import sheet
from demo.grids import densities, pairs, picture, ranks, read, strengths
from demo.quiet import hush_libraries
from demo.tiny.scenes import NEW_SHAPES
from demo.tiny.train_loras import KINDS
from demo.tiny.weights import LORAS, load_pipeline
from lib_pm.files.library import Library
from lib_pm.merging.merge import merge, merge_to_file
from lib_pm.merging.recipe import LoraUse, Recipe, make_recipe
from lib_pm.pipeline.apply import Stacked
from lib_pm.prompt.parse import parse_prompt
from lib_pm.render.text import report_text

PROMPT = "a red star on a blue background"
TAGS = "<lora:star> <lora:stripes:0.8>"
OUT = Path(__file__).parent / "out"
TOLERANCE = 1  # of 255: what rounding to 8 bits may make of the last bits of a float


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="folder for what the demo writes")
    parser.add_argument("--no-page", action="store_true", help="only pictures and numbers")
    parser.add_argument("--port", type=int, help="of the page; default: the first free one from 7860 on")
    options = parser.parse_args(arguments)
    out: Path = options.out.absolute()
    hush_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a Windows pipe may lack a letter
    start = time.perf_counter()
    torch.set_num_threads(1)  # so small a model only makes the threads wait for each other
    out.mkdir(parents=True, exist_ok=True)

    pipeline = load_pipeline()
    library = Library(LORAS)
    print(f"A small Stable Diffusion 1.x, trained on drawn pictures, with its LoRAs in {LORAS}:")
    images = ways(pipeline, library, out / "merged.safetensors")
    rows = {
        "image": list(images.values()),
        "less the base": [difference(image, images["base"]) for image in images.values()],
        "less both stacked": [difference(image, images["stacked"]) for image in images.values()],
    }
    sheet(f"{PROMPT}, {TAGS}", rows, list(images)).save(out / "overview.png")
    good = compare(images)
    for name, grid in {"pairs": pairs, "strengths": strengths, "densities": densities, "ranks": ranks}.items():
        grid(pipeline, library).save(out / f"{name}.png")
        print(f"  {out / name}.png")
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    if good and not options.no_page:
        show_page(pipeline, out, options.port)
    return 0 if good else 1


def ways(pipeline: Any, library: Library, merged: Path) -> dict[str, Image]:
    """One picture for each way to use the two LoRAs, by name. merged: the file that the merge is saved to."""
    tags = parse_prompt(TAGS).loras
    uses = [LoraUse(library.find(tag.name), tag.model, tag.clip) for tag in tags]
    images = {"base": picture(pipeline, PROMPT)}
    for use in uses:
        images[use.name] = picture(pipeline, PROMPT, read(use))
    images["stacked"] = picture(pipeline, PROMPT, *map(read, uses))

    # In float32, so that no rounding to the file's dtype is in the comparison
    recipe: Recipe = make_recipe(uses, "concat", save_dtype="float32")
    report = merge_to_file(recipe, merged, overwrite=True)
    print(f"\n{TAGS} <pm:concat>\n{report_text(report)}\n")
    images["merged"] = picture(pipeline, PROMPT, Stacked(merge(recipe)[0]))
    pipeline.load_lora_weights(str(merged.parent), weight_name=merged.name, local_files_only=True)
    images["saved"] = picture(pipeline, PROMPT)
    pipeline.unload_lora_weights()
    images["taken off"] = picture(pipeline, PROMPT)
    return images


def show_page(pipeline: Any, out: Path, port: int | None) -> None:
    """Serve the page until it is stopped. Its LoRAs are copies, beside which a merge may be saved."""
    from demo.page import DemoWorkspace, build, launch

    workspace = DemoWorkspace(out / "loras", out / "data", "cpu")
    shutil.copytree(LORAS, workspace.folder, dirs_exist_ok=True)
    for name in KINDS:  # the pictures of their rows
        shape = name if name in NEW_SHAPES else "circle"
        use = LoraUse(workspace.find(name))
        picture(pipeline, f"a red {shape} on a yellow background", read(use)).save(use.path.with_suffix(".png"))
    launch(build(pipeline, workspace), workspace, server_port=port, inbrowser=True)


def difference(one: Image, other: Image) -> Image:
    """How far two images are apart, four times as bright as it is."""
    return ImageChops.difference(one, other).point(lambda value: 4 * value)


def compare(images: Mapping[str, Image]) -> bool:
    """Print how far the images are from each other; True if the merge is what it should be."""
    pixels = {name: np.asarray(image).astype(int) for name, image in images.items()}

    def distance(one: str, other: str) -> int:
        return int(np.abs(pixels[one] - pixels[other]).max())

    print("Largest difference of a pixel, of 255:")
    alone = list(images)[1 : list(images).index("merged")]
    for name in alone:
        print(f"  {distance(name, 'base'):3}  {name} and the base")
    good = True
    for one, other, allowed, why in (
        ("merged", "stacked", TOLERANCE, "the live merge and both LoRAs stacked"),
        ("saved", "merged", TOLERANCE, "the saved file, loaded by diffusers, and the live merge"),
        ("taken off", "base", 0, "the merge taken off again and the base"),
    ):
        found = distance(one, other)
        good &= found <= allowed
        print(f"  {found:3}  {why}: {'as it should be' if found <= allowed else f'WRONG, expected {allowed} at most'}")
    return good


if __name__ == "__main__":
    sys.exit(main())
